"""Figures of merit with intervals, from stored predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

Floats = NDArray[np.float64]
ROUNDS = 1000


def auc_with_interval(
    truth: NDArray[np.bool_],
    score: Floats,
    groups: Sequence[str],
    *,
    other: Floats | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Area under the ROC curve with a 95 % bootstrap interval over whole groups of each class.

    Groups (families of sources) are drawn rather than pictures, because pictures of one source are alike: the interval
    says what other sources might give.

    Args:
        truth: (n,) True = positive.
        score: (n,) higher = more positive.
        groups: (n,) family of each picture.
        other: (n,) a rival's score on the same pictures; its AUC and the paired difference are then given too.
        seed: of the bootstrap.

    Returns:
        ``auc, low, high, n`` and, with a rival, ``other, gain, gain_low, gain_high``.
    """
    rng = np.random.default_rng(seed)
    names = np.asarray(groups)
    members = {
        positive: [
            np.flatnonzero((names == name) & (truth == positive))
            for name in np.unique(names[truth == positive])
        ]
        for positive in (False, True)
    }
    draws, gains = [], []
    for _ in range(ROUNDS):
        rows = np.concatenate(
            [parts[i] for parts in members.values() for i in rng.integers(0, len(parts), len(parts))]
        )
        value = roc_auc_score(truth[rows], score[rows])
        draws.append(value)
        if other is not None:
            gains.append(value - roc_auc_score(truth[rows], other[rows]))
    low, high = np.quantile(draws, (0.025, 0.975))
    found = {
        "auc": float(roc_auc_score(truth, score)),
        "low": float(low),
        "high": float(high),
        "n": len(truth),
    }
    if other is not None:
        rival = float(roc_auc_score(truth, other))
        gain_low, gain_high = np.quantile(gains, (0.025, 0.975))
        found |= {
            "other": rival,
            "gain": found["auc"] - rival,
            "gain_low": float(gain_low),
            "gain_high": float(gain_high),
        }
    return found


def clopper_pearson(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper & Pearson 1934); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(beta.ppf(1 - tail, hits + 1, n - hits))
    return low, high
