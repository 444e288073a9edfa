"""Intervals: exact ones of proportions, and bootstrap ones over families of sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmforensics.eval.figures import clopper_pearson

__all__ = [
    "ROUNDS",
    "auc_of",
    "balanced_of",
    "bootstrap",
    "clopper_pearson",
    "draws",
    "interval",
    "mean_of",
    "share",
]
ROUNDS = 1000
Floats = NDArray[np.float64]


def share(count: int, n: int) -> dict[str, Any]:
    """A counted proportion with its exact 95 % interval (Clopper & Pearson 1934)."""
    low, high = clopper_pearson(count, n)
    return {"count": count, "n": n, "value": count / n if n else None, "low": low, "high": high}


def draws(labels: Sequence[str], families: Sequence[str], *, seed: int = 0, rounds: int = ROUNDS) -> Floats:
    """How often each picture is drawn in each round of a bootstrap over whole families of each true label.

    Pictures of one family are alike, so single pictures would give intervals that are too narrow. Where a label has one
    family only, its pictures are drawn instead: the interval then says nothing about other families.

    Args:
        labels: (n,) true label of each picture.
        families: (n,) family of each picture.
        seed: of the draws.
        rounds: number of draws.

    Returns:
        float64 (rounds, n): whole numbers, weights for the figures below.
    """
    rng = np.random.default_rng(seed)
    names, homes = np.asarray(labels), np.asarray(families)
    found = np.zeros((rounds, len(names)))
    for label in np.unique(names):
        rows = np.flatnonzero(names == label)
        _, unit = np.unique(homes[rows], return_inverse=True)
        count = int(unit.max()) + 1
        if count == 1:
            unit, count = np.arange(len(rows)), len(rows)
        times = rng.multinomial(count, np.full(count, 1 / count), size=rounds)
        found[:, rows] = times[:, unit]
    return found


def interval(values: Floats) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of a figure's values over the rounds; nan rounds are left out."""
    kept = values[np.isfinite(values)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, (0.025, 0.975))
    return float(low), float(high)


def bootstrap(
    figure: Callable[[NDArray[np.intp]], float],
    labels: Sequence[str],
    families: Sequence[str],
    *,
    seed: int = 0,
    rounds: int = 500,
) -> tuple[float, float]:
    """95 % interval of any figure of rows, for those that have no fast form below.

    Args:
        figure: of the rows (indices into the data, repeated as drawn); ``nan`` leaves the round out.
        labels: (n,) true label of each row.
        families: (n,) family of each row.
        seed: of the draws.
        rounds: number of draws.
    """
    weights = draws(labels, families, seed=seed, rounds=rounds).astype(np.intp)
    rows = np.arange(len(labels))
    return interval(np.array([figure(np.repeat(rows, drawn)) for drawn in weights]))


def mean_of(values: Floats, weights: Floats) -> Floats:
    """(rounds,) weighted means of (n,) values; nan where a round drew none."""
    total = weights.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(weights @ values / total)


def balanced_of(right: Floats, labels: Sequence[str], weights: Floats) -> Floats:
    """(rounds,) means over the true labels of the share that is right."""
    names = np.asarray(labels)
    parts = [mean_of(right[names == label], weights[:, names == label]) for label in np.unique(names)]
    return np.asarray(np.mean(parts, axis=0))


def auc_of(truth: NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
    """(rounds,) areas under the weighted ROC curve; ties count half; nan where a class was not drawn."""
    if not truth.any() or truth.all():
        return np.full(len(weights), np.nan)
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(score[order]) != 0))
    positive = np.add.reduceat(weights[:, order] * truth[order], starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * ~truth[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((positive * below).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1)))
