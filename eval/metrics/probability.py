"""How far stated probabilities can be taken at their word."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def expected_calibration_error(
    probabilities: Floats, labels: Ints, *, weights: Floats | None = None, bins: int = 10
) -> tuple[float, list[dict[str, Any]]]:
    """Mean gap between the top label's probability and the share that is right, in bins of equal weight.

    Args:
        probabilities: (n, k) that sum to 1.
        labels: (n,) index of the truth.
        weights: (n,), or None for equal ones.
        bins: along the confidence; fewer where the pictures do not fill them.

    Returns:
        The error in [0, 1], and per bin ``confidence, accuracy, share, n``.

    References:
        Nguyen & O'Connor 2015 (adaptive bins); Guo et al. 2017, On calibration of modern neural networks.
    """
    if not len(labels):
        return float("nan"), []
    w = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
    w = w / w.sum()
    confidence = probabilities.max(axis=1)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    order = np.argsort(confidence, kind="stable")
    edges = np.searchsorted(np.cumsum(w[order]) - 1e-12, np.linspace(0, 1, bins + 1)[1:-1])
    total, table = 0.0, []
    for part in np.split(order, edges):
        size = float(w[part].sum())
        if size <= 0:
            continue
        said = float((w[part] * confidence[part]).sum() / size)
        held = float((w[part] * right[part]).sum() / size)
        total += size * abs(said - held)
        table.append({"confidence": said, "accuracy": held, "share": size, "n": len(part)})
    return total, table


def brier(probabilities: Floats, labels: Ints, *, weights: Floats | None = None) -> float:
    """Mean squared distance from the truth over all labels, 0 (perfect) to 2 (Brier 1950)."""
    if not len(labels):
        return float("nan")
    truth = np.eye(probabilities.shape[1])[labels]
    return float(np.average(((probabilities - truth) ** 2).sum(axis=1), weights=weights))


def cllr(target: Floats, other: Floats) -> float:
    """Cost of log-likelihood ratios in bits: 0 is perfect, 1 is what saying nothing costs, more misleads.

    Args:
        target: (n,) natural-log likelihood ratios of pictures for which they should be positive.
        other: (m,) of those for which they should be negative.

    References:
        Brümmer & du Preez 2006, Application-independent evaluation of speaker detection.
    """
    if not len(target) or not len(other):
        return float("nan")
    cost = np.logaddexp(0, -target).mean() + np.logaddexp(0, other).mean()
    return float(cost / (2 * np.log(2)))


def min_cllr(target: Floats, other: Floats) -> float:
    """What :func:`cllr` would be after the best monotone recalibration: discrimination without calibration.

    Pool-adjacent-violators gives the recalibrated posterior; its odds over the prior odds are the ratios.
    """
    if not len(target) or not len(other):
        return float("nan")
    score = np.concatenate([target, other])
    truth = np.concatenate([np.ones(len(target)), np.zeros(len(other))])
    _, rank = np.unique(score, return_inverse=True)  # differences too small to divide by must not matter
    posterior = IsotonicRegression(y_min=0, y_max=1).fit_transform(rank, truth)
    with np.errstate(divide="ignore"):
        ratio = np.log(posterior) - np.log1p(-posterior) - np.log(len(target) / len(other))
    return cllr(ratio[: len(target)], ratio[len(target) :])
