"""Train the expert on the frozen tower: one linear layer on its cached statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmforensics.finetune.compact_label import Sample, sample_weights
from vlmforensics.finetune.features import load_features
from vlmforensics.types import LABELS

STRENGTH = 3e-3
"""Inverse strength of the L2 penalty (scikit-learn's ``C``)."""
SYNTHETIC = LABELS.index("synthetic")


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


def fit(features: NDArray[np.float32], samples: Sequence[Sample]) -> dict[str, NDArray[np.float32]]:
    """Weights of ``compact.whole``: synthetic against real; tampered pictures are left out.

    References:
        Pedregosa et al. 2011, scikit-learn (LogisticRegression).
    """
    from sklearn.linear_model import LogisticRegression

    kept = np.array([LABELS[s.label] != "tampered" for s in samples])
    chosen = [s for s, keep in zip(samples, kept, strict=True) if keep]
    labels = np.array([s.label == SYNTHETIC for s in chosen])
    part = features[kept].astype(np.float64)
    mean, scale = part.mean(0), part.std(0) + 1e-6
    model = LogisticRegression(C=STRENGTH, max_iter=300)
    model.fit((part - mean) / scale, labels, sample_weight=sample_weights(chosen))
    return {
        "mean": mean.astype(np.float32),
        "scale": scale.astype(np.float32),
        "weight": model.coef_[0].astype(np.float32),
        "bias": model.intercept_.astype(np.float32),
    }


def apply(weights: dict[str, NDArray[np.float32]], features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-odds of synthetic: float64 (n,)."""
    standard = (features.astype(np.float64) - weights["mean"]) / weights["scale"]
    return np.asarray(standard @ weights["weight"] + weights["bias"][0], dtype=np.float64)


def cross_fit(
    features: NDArray[np.float32], samples: Sequence[Sample], home: NDArray[np.int64]
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float64]]:
    """Weights from all samples, and each sample's score by weights that left its fold out.

    Args:
        features: float32 (n, d).
        samples: (n,); those of variant ``raw`` are scored and never trained on.
        home: fold of each sample.
    """
    learnt = np.array([s.variant != "raw" for s in samples])

    def fitted(rows: NDArray[np.bool_]) -> dict[str, NDArray[np.float32]]:
        return fit(features[rows], [s for s, keep in zip(samples, rows, strict=True) if keep])

    unseen = np.zeros(len(samples))
    for fold in np.unique(home):
        unseen[home == fold] = apply(fitted(learnt & (home != fold)), features[home == fold])
    return fitted(learnt), unseen
