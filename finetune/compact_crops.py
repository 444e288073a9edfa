"""Train the crop expert: one linear layer on the tower statistics of native-resolution crops."""

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


def read(samples: Sequence[Sample], cache: Path, name: str = "crops") -> NDArray[np.float32]:
    """The named features of all samples: float32 (n, d)."""
    rows = []
    for sample in samples:
        found = load_features(cache, sample.variant, sample.picture, [name])
        if found is None:
            raise FileNotFoundError(sample.picture.path)
        rows.append(found[name])
    return np.stack(rows).astype(np.float32)


def fit(features: NDArray[np.float32], samples: Sequence[Sample]) -> dict[str, NDArray[np.float32]]:
    """Weights of ``compact.crops.CropExpert``: synthetic against real; tampered pictures are left out.

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
