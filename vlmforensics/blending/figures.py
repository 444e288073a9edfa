"""Figures for the blending detector: AUC with bootstrap intervals, exact binomial intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, rankdata


def auc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve by ranks (ties count half); 0.5 where a class is empty."""
    count = int(positive.sum())
    if count in (0, len(positive)):
        return 0.5
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def auc_interval(
    scores: NDArray[np.floating],
    positive: NDArray[np.bool_],
    groups: Sequence[str] | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile bootstrap of the AUC; where ``groups`` (scenes) are given, whole ones are drawn."""
    rng = np.random.default_rng(seed)
    names = np.array(groups if groups is not None else [str(i) for i in range(len(scores))])
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    values = []
    for _ in range(draws):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        if 0 < int(positive[rows].sum()) < len(rows):
            values.append(auc(scores[rows], positive[rows]))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval of a rate; (0, 1) for no trials."""
    if n == 0:
        return 0.0, 1.0
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(beta.ppf(1 - tail, hits + 1, n - hits))
    return low, high
