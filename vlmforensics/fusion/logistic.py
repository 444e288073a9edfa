"""Small convex fits: multinomial logistic regression by Newton's method, fusion weights, isotonic curves.

All are weighted so that each label counts alike, which makes the fitted posteriors those of balanced priors.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from vlmforensics.fusion.calibrators import Isotonic, Logistic, Vector
from vlmforensics.fusion.scale import Floats, log_softmax

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


NEWTON_MOST = 24
"""Features up to which Newton's method is used."""


def balanced_weights(labels: Ints, weights: Floats | None = None) -> Floats:
    """(n,) weights that sum to the same for each label present; ``weights`` multiply within a label."""
    result = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64).copy()
    present = np.unique(labels)
    for label in present:
        inside = labels == label
        result[inside] *= len(labels) / (len(present) * result[inside].sum())
    return result


def multinomial(features: Floats, labels: Ints, weights: Floats, l2: float) -> tuple[Floats, Floats]:
    """Fit three-label logistic regression: minimises weighted log loss + l2/2 · |slopes|².

    Args:
        features: (n, d), standardised.
        labels: (n,) in 0..2, all three present.
        weights: (n,) ≥ 0.
        l2: penalty on slopes; biases get a thousandth of it, for a unique solution.

    Returns:
        bias (3,) and slopes (3, d), summing to zero over labels.
    """
    n, d = features.shape
    if d > NEWTON_MOST:
        return _multinomial_wide(features, labels, weights, l2)
    design = np.concatenate([np.ones((n, 1)), features], axis=1)
    penalty = np.tile(np.concatenate([[l2 * 1e-3], np.full(d, l2)]), 3)
    target = np.eye(3)[labels]
    theta = np.zeros((3, d + 1))

    def loss(parameters: Floats) -> float:
        log_p = log_softmax(design @ parameters.T)
        fit = -(weights * log_p[np.arange(n), labels]).sum()
        return float(fit + 0.5 * (penalty * parameters.ravel() ** 2).sum())

    current = loss(theta)
    for _ in range(60):
        p = np.exp(log_softmax(design @ theta.T))
        gradient = ((p - target) * weights[:, None]).T @ design
        flat = gradient.ravel() + penalty * theta.ravel()
        hessian = np.zeros((3 * (d + 1), 3 * (d + 1)))
        for a in range(3):
            for b in range(a, 3):
                factor = weights * p[:, a] * ((a == b) - p[:, b])
                block = (design * factor[:, None]).T @ design
                rows, columns = slice(a * (d + 1), (a + 1) * (d + 1)), slice(b * (d + 1), (b + 1) * (d + 1))
                hessian[rows, columns] = block
                hessian[columns, rows] = block.T
        step = np.linalg.solve(hessian + np.diag(penalty + 1e-9), flat).reshape(theta.shape)
        size = 1.0
        while size > 1e-6 and loss(theta - size * step) > current - 1e-4 * size * float(flat @ step.ravel()):
            size /= 2
        theta = theta - size * step
        previous, current = current, loss(theta)
        if previous - current < 1e-9 * (1 + abs(current)):
            break
    theta = theta - theta.mean(axis=0)
    return theta[:, 0], theta[:, 1:]


def _multinomial_wide(features: Floats, labels: Ints, weights: Floats, l2: float) -> tuple[Floats, Floats]:
    """The same problem for many features, by L-BFGS: no Hessian is formed."""
    from scipy.optimize import minimize

    n, d = features.shape
    design = np.concatenate([np.ones((n, 1)), features], axis=1)
    penalty = np.concatenate([[l2 * 1e-3], np.full(d, l2)])
    target = np.eye(3)[labels]

    def objective(parameters: Floats) -> tuple[float, Floats]:
        theta = parameters.reshape(3, d + 1)
        log_p = log_softmax(design @ theta.T)
        gradient = ((np.exp(log_p) - target) * weights[:, None]).T @ design + penalty * theta
        value = -(weights * log_p[np.arange(n), labels]).sum() + 0.5 * (penalty * theta**2).sum()
        return float(value), gradient.ravel()

    options = {"maxiter": 400, "ftol": 1e-10, "gtol": 1e-6}
    found = minimize(objective, np.zeros(3 * (d + 1)), jac=True, method="L-BFGS-B", options=options).x
    theta = found.reshape(3, d + 1)
    theta = theta - theta.mean(axis=0)
    return theta[:, 0], theta[:, 1:]


def fit_logistic(scores: Floats, labels: Ints, weights: Floats, *, curved: bool, l2: float) -> Logistic:
    """Logistic calibrator of one number; ``curved`` adds the square."""
    low, high = (float(bound) for bound in (scores.min(), scores.max()))
    centre, scale = float(scores.mean()), float(scores.std()) or 1.0
    z = (scores - centre) / scale
    features = np.stack([z, z**2], axis=1) if curved else z[:, None]
    bias, slopes = multinomial(features, labels, weights, l2)
    return Logistic(centre, scale, low, high, bias, slopes[:, 0], slopes[:, 1] if curved else np.zeros(3))


def fit_vector(vectors: Floats, labels: Ints, weights: Floats, *, l2: float) -> Vector:
    """Logistic calibrator of several numbers."""
    centre, scale = vectors.mean(axis=0), vectors.std(axis=0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    bias, slopes = multinomial((vectors - centre) / scale, labels, weights, l2)
    return Vector(centre, scale, vectors.min(axis=0), vectors.max(axis=0), bias, slopes)


def fit_isotonic(scores: Floats, labels: Ints, weights: Floats, *, target: int) -> Isotonic:
    """Isotonic calibrator: the odds of a target rise with the score (pool adjacent violators).

    Args:
        scores: (n,).
        labels: (n,) in 0..2.
        weights: (n,).
        target: 0 = everything but real; 1 or 2 = that label. The labels on the same side share its
            posterior evenly.

    Every step of the curve is smoothed by half a picture on either side, so no posterior is 0 or 1.
    """
    from scipy.optimize import isotonic_regression

    order = np.argsort(scores, kind="stable")
    x, hit, w = scores[order], (labels != 0 if target == 0 else labels == target)[order], weights[order]
    values, starts = np.unique(x, return_index=True)
    total = np.add.reduceat(w, starts)
    hits = np.add.reduceat(w * hit, starts)
    blocks = isotonic_regression(hits / total, weights=total).blocks
    knots, rows = [], []
    share = np.array([0.0, 0.5, 0.5]) if target == 0 else np.eye(3)[target]
    rest = (share == 0) / (share == 0).sum()
    base = float((share > 0).sum()) / 3
    for first, stop in pairwise(blocks):
        p = (hits[first:stop].sum() + base) / (total[first:stop].sum() + 1.0)
        row = np.log(p * share + (1 - p) * rest)
        for x_knot in {float(values[first]), float(values[stop - 1])}:
            knots.append(x_knot)
            rows.append(row)
    order = np.argsort(knots, kind="stable")
    return Isotonic(np.array(knots)[order], np.array(rows)[order])


def fit_weights(
    llrs: Floats, fixed: Floats, labels: Ints, weights: Floats, l2: float
) -> tuple[Floats, Floats]:
    """Fusion: non-negative weights per source and label and a prior, by regularised multinomial logistic regression.

    Minimises weighted log loss of ``prior + fixed + Σ w_sl llr_sl`` plus ``l2/2 · Σ (w_sl − m)² + l2/20 · m²``
    over w ≥ 0, prior and the common value m ≥ 0: sources with little data are pulled to what sources are
    worth on average, and that average gently to zero.

    Args:
        llrs: (n, s, 3), zero where a source did not speak.
        fixed: (n, 3), contributions that are not fitted.
        labels: (n,) in 0..2.
        weights: (n,).
        l2: strength of the pull.

    Returns:
        weights (s, 3) ≥ 0 and prior (3,) summing to zero.
    """
    from scipy.optimize import minimize

    n, s, _ = llrs.shape
    target = np.eye(3)[labels]

    def objective(parameters: Floats) -> tuple[float, Floats]:
        w, common, prior = parameters[: 3 * s].reshape(s, 3), parameters[3 * s], parameters[3 * s + 1 :]
        log_p = log_softmax(fixed + prior + np.einsum("nsl,sl->nl", llrs, w))
        error = (np.exp(log_p) - target) * weights[:, None]
        gradient = np.concatenate([
            (np.einsum("nsl,nl->sl", llrs, error) + l2 * (w - common)).ravel(),
            [l2 * (common - w).sum() + 0.1 * l2 * common],
            error.sum(axis=0) + 1e-3 * prior,
        ])  # fmt: skip
        value = -(weights * log_p[np.arange(n), labels]).sum() + 0.5 * l2 * ((w - common) ** 2).sum()
        return float(value + 0.05 * l2 * common**2 + 0.5e-3 * (prior**2).sum()), gradient

    start = np.concatenate([np.full(3 * s + 1, 0.3), np.zeros(3)])
    bounds = [(0.0, None)] * (3 * s + 1) + [(None, None)] * 3
    options = {"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return found[: 3 * s].reshape(s, 3), found[3 * s + 1 :] - found[3 * s + 1 :].mean()
