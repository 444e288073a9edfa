"""Figures about calibrated scores: accuracy with intervals, expected calibration error, Brier score, Cllr."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vlmforensics.fusion.scale import Floats
from vlmforensics.types import Reliability


def wilson(hits: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion (Wilson 1927); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def balanced_accuracy(positive: Floats, negative: Floats) -> Reliability | None:
    """How often the sign of a score is right, averaged over two classes.

    Args:
        positive: scores of pictures for which it should be above 0.
        negative: scores of pictures for which it should be below 0. A score of exactly 0 counts half.

    Returns:
        Balanced accuracy with the 95 % interval combined from two Wilson intervals (square-and-add, Zou &
        Donner 2008), or None where a class is empty.
    """
    shares = []
    for scores in (positive, -negative):
        if len(scores) == 0:
            return None
        hits = float((scores > 0).sum() + 0.5 * (scores == 0).sum())
        shares.append((hits / len(scores), *wilson(hits, len(scores))))
    (p, p_low, p_high), (q, q_low, q_high) = shares
    middle = (p + q) / 2
    low = middle - math.hypot(p - p_low, q - q_low) / 2
    high = middle + math.hypot(p_high - p, q_high - q) / 2
    return Reliability(middle, max(0.0, low), min(1.0, high), len(positive) + len(negative))


def calibration_figures(
    log_probs: Floats, labels: np.ndarray[Any, np.dtype[np.int64]], weights: Floats, bins: int = 10
) -> dict[str, Any]:
    """Quality of fused probabilities, labels weighted alike.

    Args:
        log_probs: (n, 3).
        labels: (n,) in 0..2.
        weights: (n,), as in ``logistic.balanced_weights``.
        bins: of equal weight along the highest probability.

    Returns:
        ``ece`` of the most probable label, ``brier``, ``log_loss`` (nats), ``balanced_accuracy``, ``cllr``
        of real against the rest (bits; 1 = says nothing), and ``reliability``: per bin confidence,
        accuracy, share.
    """
    p = np.exp(log_probs)
    rows = np.arange(len(labels))
    w = weights / weights.sum()
    confidence, guess = p.max(axis=1), p.argmax(axis=1)
    right = (guess == labels).astype(np.float64)
    order = np.argsort(confidence, kind="stable")
    edges = np.searchsorted(np.cumsum(w[order]), np.linspace(0, 1, bins + 1)[1:-1])
    table, ece = [], 0.0
    for part in np.split(order, edges):
        share = float(w[part].sum())
        if share <= 0:
            continue
        mean_confidence = float((w[part] * confidence[part]).sum() / share)
        accuracy = float((w[part] * right[part]).sum() / share)
        ece += share * abs(accuracy - mean_confidence)
        table.append({"confidence": mean_confidence, "accuracy": accuracy, "share": share, "n": len(part)})
    odds = np.log(np.maximum(p[:, 0], 1e-300)) - np.log(np.maximum(1 - p[:, 0], 1e-300)) + math.log(2)
    real = labels == 0
    cost = [np.logaddexp(0, -odds[real]).mean() if real.any() else 0.0]
    cost.append(np.average(np.logaddexp(0, odds[~real]), weights=w[~real]) if (~real).any() else 0.0)
    recalls = [right[labels == label].mean() for label in np.unique(labels)]
    return {
        "ece": ece,
        "brier": float((w * ((p - np.eye(3)[labels]) ** 2).sum(axis=1)).sum()),
        "log_loss": float(-(w * log_probs[rows, labels]).sum()),
        "balanced_accuracy": float(np.mean(recalls)),
        "cllr": float(sum(cost) / (2 * math.log(2))),
        "reliability": table,
    }
