"""What a likelihood ratio is called: the words that fusion writes and the explanation reads.

References:
    ENFSI 2015, Guideline for evaluative reporting in forensic science, section 4 (verbal scale).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vlmforensics.types import LABELS, Label

NO_SUPPORT = "no support"
NO_WEIGHT = "no weight"
NOT_CALIBRATED = "not calibrated"
OUT_OF_DOMAIN = "outside calibration"

VERBAL_SCALE: tuple[tuple[float, str], ...] = (
    (2.0, NO_SUPPORT),
    (10.0, "weak support"),
    (100.0, "moderate support"),
    (1_000.0, "moderately strong support"),
    (10_000.0, "strong support"),
    (1_000_000.0, "very strong support"),
    (math.inf, "extremely strong support"),
)
"""Upper bounds of the likelihood ratio (exclusive) and their words, ENFSI 2015."""

NOTICEABLE = 0.03
"""Contribution, log-odds, below which a finding counts as saying nothing: it moves no probability by a point."""


def words_of(llr: float) -> str:
    """The verbal scale's words for one log-likelihood ratio, nats, whichever way it points."""
    ratio = math.exp(min(abs(llr), 700.0))
    return next(name for bound, name in VERBAL_SCALE if ratio < bound)


def worded(words: str, sign: float, label: Label) -> str:
    """``moderate support for synthetic``, or ``against`` it where the sign is negative."""
    return f"{words} {'for' if sign > 0 else 'against'} {label}"


def heaviest_label(values: Mapping[str, float]) -> Label:
    """The label of the largest absolute value; of values that differ only in sign, that of a positive one.

    What excludes two labels alike is better told as being for the third one.
    """
    return max(LABELS, key=lambda label: (round(abs(values[label]), 9), values[label]))


def strength_of(llr: NDArray[np.float64], contribution: NDArray[np.float64] | None = None) -> str:
    """The verbal scale's words and the direction, e.g. ``moderate support for synthetic``.

    The direction is ``for`` a label, or ``against`` it where the evidence excludes one label more clearly than it
    chooses between the other two.

    Args:
        llr: log-likelihood ratios, shape (3,), nats.
        contribution: what fusion makes of them. The words are about the label that it moves most, so that ledger and
            text name the same one. Where it moves none by ``NOTICEABLE``, a ratio that would support something is
            called ``no weight``: other sources say the same better, or the source was not found to add anything.
    """
    moved = llr if contribution is None else contribution
    label = heaviest_label(dict(zip(LABELS, moved.tolist(), strict=True)))
    value = float(llr[LABELS.index(label)])
    words = words_of(value)
    if contribution is not None and np.abs(contribution).max() < NOTICEABLE:
        return NO_SUPPORT if words_of(float(np.abs(llr).max())) == NO_SUPPORT else NO_WEIGHT
    if words == NO_SUPPORT:
        return NO_SUPPORT
    return worded(words, value, label)
