"""From posteriors to log-likelihood ratios, how large a ratio may get, and what it is called in words.

A calibrator gives the posterior of the three labels under balanced priors (1/3 each). The likelihood ratio
of a label against the rest (the even mixture of the other two) is then

    LR(l) = P(s | l) / (½ P(s | a) + ½ P(s | b))  =  odds(p_l) / odds(1/3),      llr(l) = logit(p_l) + log 2.

How large it may get is limited by the number of pictures behind it. If all of n pictures of a label showed
a score this extreme and none of n others did, Laplace's rule of succession estimates the two frequencies as
(n+1)/(n+2) and 1/(n+2), so that no ratio beyond n + 1 is supported by the data: ``|llr| ≤ log(n + 1)`` with
n the smallest label's count.

References:
    Brümmer & du Preez 2006, Application-independent evaluation of speaker detection (log-likelihood ratios,
    Cllr). Morrison 2013, Tutorial on logistic-regression calibration and fusion. ENFSI 2015, Guideline for
    evaluative reporting in forensic science, section 4 (verbal scale).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from vlmforensics.types import LABELS

Floats = NDArray[np.float64]

NO_SUPPORT = "no support"
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

_OTHERS = ((1, 2), (0, 2), (0, 1))


def as_map(values: Floats) -> Mapping[str, float]:
    """Read-only mapping label → value from an array (3,) in the order of ``types.LABELS``."""
    return MappingProxyType({label: float(value) for label, value in zip(LABELS, values, strict=True)})


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def llr_from_logits(logits: Floats, cap: float) -> Floats:
    """Log-likelihood ratios of each label against the rest.

    Args:
        logits: (..., 3), unnormalised log-posteriors under balanced priors, order of ``types.LABELS``.
        cap: largest absolute value, nats (see ``cap_for``).

    Returns:
        (..., 3) in [-cap, cap]. Computed in the log domain, so extreme posteriors do not lose digits.
    """
    columns = [
        logits[..., label] - np.logaddexp(logits[..., a], logits[..., b]) + math.log(2)
        for label, (a, b) in enumerate(_OTHERS)
    ]
    return np.asarray(np.clip(np.stack(columns, axis=-1), -cap, cap))


def cap_for(n_min: int) -> float:
    """Largest |llr| that ``n_min`` pictures of the rarest label support, nats (see the module's text)."""
    return math.log(n_min + 1)


def strength_of(llr: Floats, contribution: Floats | None = None) -> str:
    """The verbal scale's words and the direction, e.g. ``moderate support for synthetic``.

    The direction is ``for`` a label, or ``against`` it where the evidence excludes one label more clearly than it
    chooses between the other two.

    Args:
        llr: log-likelihood ratios, shape (3,), nats.
        contribution: what fusion makes of them. The words are about the label that it moves most, so that ledger and
            text name the same one; where it moves none, about the largest absolute llr.
    """
    moved = llr if contribution is None or not np.any(contribution) else contribution
    index = int(np.argmax(np.abs(moved)))
    ratio = math.exp(min(abs(float(llr[index])), 700.0))
    words = next(name for bound, name in VERBAL_SCALE if ratio < bound)
    if words == NO_SUPPORT:
        return NO_SUPPORT
    return f"{words} {'for' if llr[index] > 0 else 'against'} {LABELS[index]}"
