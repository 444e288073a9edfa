"""Train the experts on the frozen tower: one linear layer each on its cached class tokens.

``whole`` learns synthetic against real pictures in both chains. ``edited`` learns found forgeries and ones made in code
from the real pictures against these, all in the one fixed chain: each real picture stands on both sides, so what it
shows and where it was found can't tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmforensics.compact.whole import EDITED, WHOLE
from vlmforensics.finetune.compact_label import Sample, sample_weights
from vlmforensics.finetune.features import load_features
from vlmforensics.types import LABELS, Label


@dataclass(frozen=True)
class Task:
    """What an expert learns.

    Attributes:
        label: against *real*.
        variants: of the pictures that it learns from; others are scored only.
        strength: inverse strength of the L2 penalty (scikit-learn's ``C``).
    """

    label: Label
    variants: tuple[str, ...]
    strength: float

    def learns(self, sample: Sample) -> bool:
        """Whether it learns from this sample."""
        return sample.variant in self.variants and LABELS[sample.label] in ("real", self.label)


TASKS: Mapping[str, Task] = {
    WHOLE: Task("synthetic", ("equalised", "augmented-1"), 3e-3),
    EDITED: Task("tampered", ("equalised", "made-equalised"), 3e-4),
}


def read(samples: Sequence[Sample], cache: Path, name: str) -> NDArray[np.float32]:
    """The named features of all samples: float32 (n, d)."""
    rows = []
    for sample in samples:
        found = load_features(cache, sample.variant, sample.picture, [name])
        if found is None:
            raise FileNotFoundError(sample.picture.path)
        rows.append(found[name])
    return np.stack(rows).astype(np.float32)


def read_all(samples: Sequence[Sample], cache: Path, name: str) -> tuple[list[Sample], NDArray[np.float32]]:
    """The samples that have the named features, and these: float32 (n, d)."""
    found = [(sample, load_features(cache, sample.variant, sample.picture, [name])) for sample in samples]
    pairs = [(sample, features[name]) for sample, features in found if features is not None]
    return [sample for sample, _ in pairs], np.stack([row for _, row in pairs]).astype(np.float32)


def fit(
    task: Task, features: NDArray[np.float32], samples: Sequence[Sample]
) -> dict[str, NDArray[np.float32]]:
    """Weights of one layer of ``compact.whole``, from those samples that the task learns from.

    References:
        Pedregosa et al. 2011, scikit-learn (LogisticRegression).
    """
    from sklearn.linear_model import LogisticRegression

    kept = np.array([task.learns(sample) for sample in samples])
    chosen = [s for s, keep in zip(samples, kept, strict=True) if keep]
    labels = np.array([LABELS[s.label] == task.label for s in chosen])
    part = features[kept].astype(np.float64)
    mean, scale = part.mean(0), part.std(0) + 1e-6
    model = LogisticRegression(C=task.strength, max_iter=300)
    model.fit((part - mean) / scale, labels, sample_weight=sample_weights(chosen))
    return {
        "mean": mean.astype(np.float32),
        "scale": scale.astype(np.float32),
        "weight": model.coef_[0].astype(np.float32),
        "bias": model.intercept_.astype(np.float32),
    }


def apply(weights: dict[str, NDArray[np.float32]], features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-odds of the task's label: float64 (n,)."""
    standard = (features.astype(np.float64) - weights["mean"]) / weights["scale"]
    return np.asarray(standard @ weights["weight"] + weights["bias"][0], dtype=np.float64)


def unseen_scores(
    task: Task,
    features: NDArray[np.float32],
    samples: Sequence[Sample],
    home: NDArray[np.int64],
    omitted: Sequence[int] = (),
) -> NDArray[np.float64]:
    """Each sample's score by weights that left its fold out, and the omitted folds too: float64 (n,).

    Args:
        task: what is learnt.
        features: float32 (n, d).
        samples: (n,).
        home: fold of each sample.
        omitted: folds that nothing is learnt from, for a model on top of the scores that is tested on them.
    """
    kept = ~np.isin(home, omitted)
    groups = [home == fold for fold in np.unique(home[kept])] + ([~kept] if omitted else [])
    unseen = np.zeros(len(samples))
    for group in groups:
        others = kept & ~group
        fitted = fit(task, features[others], [s for s, other in zip(samples, others, strict=True) if other])
        unseen[group] = apply(fitted, features[group])
    return unseen
