"""Intervals: exact ones of proportions, and bootstrap ones over families of sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmforensics.eval.figures import clopper_pearson

__all__ = ["ROUNDS", "bootstrap", "clopper_pearson", "share"]
ROUNDS = 500


def share(count: int, n: int) -> dict[str, Any]:
    """A counted proportion with its exact 95 % interval (Clopper & Pearson 1934)."""
    low, high = clopper_pearson(count, n)
    return {"count": count, "n": n, "value": count / n if n else None, "low": low, "high": high}


def bootstrap(
    figure: Callable[[NDArray[np.intp]], float],
    labels: Sequence[str],
    families: Sequence[str],
    *,
    seed: int = 0,
    rounds: int = ROUNDS,
) -> tuple[float, float]:
    """95 % percentile interval of a figure, drawing whole families of each true label with replacement.

    Pictures of one family are alike, so single pictures would give intervals that are too narrow. Where a label has one
    family only, its pictures are drawn instead: the interval then says nothing about other families.

    Args:
        figure: of the rows (indices into the data) that a round drew; ``nan`` leaves the round out.
        labels: (n,) true label of each row.
        families: (n,) family of each row.
        seed: of the draws.
        rounds: number of draws.

    Returns:
        The 2.5 and 97.5 % quantiles, ``nan`` where no round gave a figure.
    """
    rng = np.random.default_rng(seed)
    units: list[list[NDArray[np.intp]]] = []
    names, homes = np.asarray(labels), np.asarray(families)
    for label in np.unique(names):
        rows = np.flatnonzero(names == label)
        groups = [rows[homes[rows] == home] for home in np.unique(homes[rows])]
        units.append(groups if len(groups) > 1 else [rows[i : i + 1] for i in range(len(rows))])
    values = []
    for _ in range(rounds):
        drawn = [part[i] for part in units for i in rng.integers(0, len(part), len(part))]
        value = figure(np.concatenate(drawn))
        if np.isfinite(value):
            values.append(value)
    if not values:
        return float("nan"), float("nan")
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
