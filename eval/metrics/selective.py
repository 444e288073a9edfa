"""Deciding some and leaving the rest: coverage, risk, and accusations of real pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmforensics.eval.metrics.intervals import share

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def risk_coverage(confidence: Floats, right: Bools) -> list[tuple[float, float]]:
    """(coverage, error rate among the decided) as the least confident pictures are left out, one value a confidence.

    Pictures of equal confidence are decided together, so the curve does not depend on their order.

    References:
        El-Yaniv & Wiener 2010, On the foundations of noise-free selective classification.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~right[order])
    count = np.arange(1, len(order) + 1)
    if not len(order):
        return []
    ends = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    return [(float(count[i] / len(order)), float(wrong[i] / count[i])) for i in ends]


def aurc(confidence: Floats, right: Bools) -> float:
    """Area under the risk-coverage curve: mean error rate over all coverages; ties share their mean risk.

    References:
        Geifman et al. 2019, Bias-reduced uncertainty estimation for deep neural classifiers.
    """
    if not len(right):
        return float("nan")
    order = np.argsort(-confidence, kind="stable")
    errors = (~right[order]).astype(np.float64)
    sizes = confidence[order]
    for value in np.unique(sizes):  # a picture of a tie is as often wrong as its tie
        tied = sizes == value
        errors[tied] = errors[tied].mean()
    return float((np.cumsum(errors) / np.arange(1, len(errors) + 1)).mean())


def false_accusations(truth: Sequence[str], said: Sequence[str]) -> dict[str, Any]:
    """Real pictures that were called synthetic or tampered, with the exact 95 % interval."""
    real = [verdict for true, verdict in zip(truth, said, strict=True) if true == "real"]
    accused = sum(verdict not in ("real", "inconclusive") for verdict in real)
    return share(accused, len(real))
