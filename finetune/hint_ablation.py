"""Does a model use what detectors say without leaning on it? Its label with its hints, with none, with another's.

Weak-feature supplementing is right when true hints help, missing ones cost little, and hints of a picture of another
label don't turn the answer round (a model that only repeats the detectors follows them).

References:
    Chen et al. 2024, X²-DFD: A framework for eXplainable and eXtendable Deepfake Detection, §3 (WFS).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmforensics.errors import SettingsError
from vlmforensics.finetune.samples import Sample
from vlmforensics.finetune.train_batches import pixels_of
from vlmforensics.types import LABELS
from vlmforensics.vlm.base import Backbone

WAYS = ("own", "none", "foreign")
"""The sample's hints; no hints; the hints of a sample of another label."""


@dataclass(frozen=True)
class Answers:
    """Probabilities (n, 3) of one way of hinting."""

    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the labels that occur."""
        said = self.probabilities.argmax(1)
        return float(np.mean([(said[self.labels == k] == k).mean() for k in np.unique(self.labels)]))

    @property
    def log_loss(self) -> float:
        """Mean negative log-probability of the truth, nats."""
        truth = self.probabilities[np.arange(len(self.labels)), self.labels]
        return float(-np.log(np.maximum(truth, 1e-12)).mean())


def ablate(backbone: Backbone, samples: Sequence[Sample], *, seed: int = 0) -> dict[str, Any]:
    """Ask about each picture three times; returns what goes into a report.

    Args:
        backbone: with an opinion on labels.
        samples: with hints; others are left out.
        seed: of the draw of foreign hints.

    Returns:
        ``n``; for each way ``balanced_accuracy`` and ``log_loss``; ``followed``: share of the pictures whose most
        probable label changes from that without hints when foreign ones are given; ``moved``: mean absolute change of
        the probability of ``real`` by foreign hints.

    Raises:
        SettingsError: fewer than two labels among samples with hints, or a backbone without an opinion.
    """
    hinted = [sample for sample in samples if sample.hints]
    if len({sample.label for sample in hinted}) < 2:
        raise SettingsError("an ablation of hints needs samples with hints, of two labels or more")
    rng = np.random.default_rng(seed)
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for sample in hinted:
        others = [other for other in hinted if other.label != sample.label]
        foreign = others[int(rng.integers(len(others)))].hints
        pixels = pixels_of(sample)
        for way, hints in zip(WAYS, (sample.hints, (), foreign), strict=True):
            look = backbone.look(pixels, hints, for_text=False)
            if look.log_probs is None:
                raise SettingsError(
                    f"{backbone.name} has no opinion on labels, so there is nothing to compare"
                )
            found[way].append([math.exp(value) for value in look.log_probs])
    labels = np.array([LABELS.index(sample.label) for sample in hinted])
    answers = {way: Answers(np.array(rows), labels) for way, rows in found.items()}
    bare, misled = answers["none"].probabilities, answers["foreign"].probabilities
    table = {
        way: {"balanced_accuracy": round(a.balanced_accuracy, 4), "log_loss": round(a.log_loss, 4)}
        for way, a in answers.items()
    }
    return {
        "n": len(hinted),
        **table,
        "followed": round(float((bare.argmax(1) != misled.argmax(1)).mean()), 4),
        "moved": round(float(np.abs(bare[:, 0] - misled[:, 0]).mean()), 4),
    }
