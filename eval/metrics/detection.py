"""Right or wrong: accuracy and its relatives, and the curves of a score against two classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn import metrics as sk

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
POINTS = 101
"""Most points that a stored curve keeps."""


def accuracy(truth: Sequence[str], said: Sequence[str]) -> float:
    """Share of pictures whose label is right; *inconclusive* counts as wrong."""
    return float(sk.accuracy_score(truth, said)) if len(truth) else float("nan")


def balanced_accuracy(truth: Sequence[str], said: Sequence[str]) -> float:
    """Mean over the true labels of the share that is right (recall)."""
    names = sorted(set(truth))
    if not names:
        return float("nan")
    return float(sk.recall_score(truth, said, labels=names, average="macro", zero_division=0))


def macro_f1(truth: Sequence[str], said: Sequence[str]) -> float:
    """Mean F1 over the labels that occur in the truth."""
    names = sorted(set(truth))
    return (
        float(sk.f1_score(truth, said, labels=names, average="macro", zero_division=0))
        if names
        else float("nan")
    )


def f1(truth: Sequence[str], said: Sequence[str], positive: str) -> float:
    """F1 of one label against all others; FakeVLM's published F1 takes *real* as positive."""
    return float(sk.f1_score(truth, said, labels=[positive], average="macro", zero_division=0))


def confusion(truth: Sequence[str], said: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, int]]:
    """True label → verdict → number of pictures."""
    table = {name: dict.fromkeys(columns, 0) for name in columns if name in set(truth)}
    for true, verdict in zip(truth, said, strict=True):
        table[true][verdict] += 1
    return table


def _both(truth: Bools) -> bool:
    return bool(truth.any() and not truth.all())


def roc_auc(truth: Bools, score: Floats) -> float:
    """Area under the ROC curve."""
    return float(sk.roc_auc_score(truth, score)) if _both(truth) else float("nan")


def average_precision(truth: Bools, score: Floats) -> float:
    """Area under the precision-recall curve by steps."""
    return float(sk.average_precision_score(truth, score)) if _both(truth) else float("nan")


def tpr_at_fpr(truth: Bools, score: Floats, most: float = 0.01) -> float:
    """Highest share of positives found while at most ``most`` of the negatives are accused."""
    if not _both(truth):
        return float("nan")
    fpr, tpr, _ = sk.roc_curve(truth, score, drop_intermediate=False)
    return float(tpr[fpr <= most + 1e-12].max())


def equal_error_rate(truth: Bools, score: Floats) -> float:
    """Error rate where misses and false alarms are equally frequent, on the ROC's convex steps interpolated."""
    if not _both(truth):
        return float("nan")
    fpr, tpr, _ = sk.roc_curve(truth, score, drop_intermediate=False)
    gap = fpr - (1 - tpr)
    place = int(np.argmax(gap >= 0))
    if gap[place] == 0 or place == 0:
        return float(fpr[place])
    part = -gap[place - 1] / (gap[place] - gap[place - 1])
    return float(fpr[place - 1] + part * (fpr[place] - fpr[place - 1]))


def roc_points(truth: Bools, score: Floats) -> list[tuple[float, float]]:
    """(false positive rate, true positive rate) along the curve, thinned for drawing."""
    if not _both(truth):
        return []
    fpr, tpr, _ = sk.roc_curve(truth, score)
    kept = np.unique(np.linspace(0, len(fpr) - 1, min(POINTS, len(fpr))).astype(int))
    return [(float(fpr[i]), float(tpr[i])) for i in kept]


def det_points(truth: Bools, score: Floats) -> list[tuple[float, float]]:
    """(probit of false alarms, probit of misses): the detection error trade-off of forensic practice.

    References:
        Martin et al. 1997, The DET curve in assessment of detection task performance.
    """
    if not _both(truth):
        return []
    fpr, tpr, _ = sk.roc_curve(truth, score)
    inner = (fpr > 0) & (tpr < 1)
    found = np.stack([norm.ppf(fpr[inner]), norm.ppf(1 - tpr[inner])], axis=1)
    found = found[np.isfinite(found).all(axis=1)]
    if not len(found):
        return []
    kept = np.unique(np.linspace(0, len(found) - 1, min(POINTS, len(found))).astype(int))
    return [(float(x), float(y)) for x, y in found[kept]]
