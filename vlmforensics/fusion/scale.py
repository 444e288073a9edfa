"""From posteriors to log-likelihood ratios, and how large a ratio may get; ``strength`` says what it is called.

A calibrator gives the posterior of the three labels under balanced priors (1/3 each). The likelihood ratio
of a label against the rest (the even mixture of the other two) is then

    LR(l) = P(s | l) / (½ P(s | a) + ½ P(s | b))  =  odds(p_l) / odds(1/3),      llr(l) = logit(p_l) + log 2.

How large it may get is limited by the number of pictures behind it. If all of n pictures of a label showed
a score this extreme and none of n others did, Laplace's rule of succession estimates the two frequencies as
(n+1)/(n+2) and 1/(n+2), so that no ratio beyond n + 1 is supported by the data: ``|llr| ≤ log(n + 1)`` with
n the smallest label's count.

References:
    Brümmer & du Preez 2006, Application-independent evaluation of speaker detection (log-likelihood ratios,
    Cllr). Morrison 2013, Tutorial on logistic-regression calibration and fusion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from vlmforensics.types import LABELS

Floats = NDArray[np.float64]

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
