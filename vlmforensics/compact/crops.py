"""The crop expert: what the frozen tower's middle layers see in native-resolution crops.

A resize to the tower's 224 pixels destroys the fine structure that generators leave; crops keep it. Statistics of
several middle layers over a few crops feed one linear layer that we trained. It answers *synthetic or not*, and
nothing about local edits.

References:
    Ojha et al. 2023, Towards Universal Fake Image Detectors (frozen features + a linear probe).
    Koutlis & Papadopoulos 2024, Leveraging Representations from Intermediate Encoder-Blocks (RINE).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmforensics.compact.layout import PATCH, SIDE
from vlmforensics.compact.tower import Tower
from vlmforensics.errors import WeightsCorrupt
from vlmforensics.types import CaseImage, Evidence, Pixels

LAYERS = (2, 4, 6, 8, 10)
"""Tower layers whose statistics are used."""
COUNT = 2
"""Crops per picture."""
MIN_SIDE = 8 * PATCH
"""Smallest picture side in pixels that gives a crop worth measuring."""
KEYS = {"mean", "scale", "weight", "bias"}


def windows(height: int, width: int) -> list[tuple[int, int, int]]:
    """Square native-resolution crops as (top, left, side), spread along the diagonal.

    The side is 224 pixels, or the largest multiple of 14 that fits a smaller picture.
    """
    side = min(SIDE, height // PATCH * PATCH, width // PATCH * PATCH)
    spots = [(i + 1) / (COUNT + 1) for i in range(COUNT)]
    return [(round((height - side) * spot), round((width - side) * spot), side) for spot in spots]


def statistics(tower: Tower, pixels: Pixels) -> NDArray[np.float32]:
    """Class token, patch mean and patch deviation of ``LAYERS``, averaged over the crops.

    Args:
        tower: the frozen tower.
        pixels: uint8 (H, W, 3), both sides at least ``MIN_SIDE``.

    Returns:
        float32 (len(LAYERS) * 3 * 384,).
    """
    crops = [pixels[y : y + s, x : x + s] for y, x, s in windows(*pixels.shape[:2])]
    seen = tower.features(crops, LAYERS)
    parts = [
        part
        for layer in LAYERS
        for part in (seen.cls[layer], seen.patches[layer].mean((1, 2)), seen.patches[layer].std((1, 2)))
    ]
    return np.concatenate(parts, axis=-1).mean(0).astype(np.float32)


class CropExpert:
    """Evidence source ``crops``: log-odds that the picture is synthetic, from native-resolution crops.

    Args:
        tower: the frozen tower.
        weights: ``mean``, ``scale``, ``weight`` (d,), ``bias`` (1,), all float.
    """

    name, version, cost = "crops", "1", "network"

    def __init__(self, tower: Tower, weights: Mapping[str, NDArray[np.float32]]) -> None:
        if set(weights) != KEYS:
            raise WeightsCorrupt(f"the crop expert needs {sorted(KEYS)}, not {sorted(weights)}")
        self.tower = tower
        self.weights = {key: np.asarray(value, np.float64) for key, value in weights.items()}
        whole = b"".join(key.encode() + self.weights[key].tobytes() for key in sorted(KEYS))
        self.weights_sha256 = hashlib.sha256(whole).hexdigest()

    @classmethod
    def load(cls, tower: Tower, file: Path) -> CropExpert:
        """Read ``crops.safetensors``."""
        from safetensors.numpy import load_file

        return cls(tower, load_file(file))

    def score(self, features: NDArray[np.float32]) -> float:
        """Log-odds of synthetic under balanced labels, from ``statistics``."""
        w = self.weights
        standard = (features - w["mean"]) / w["scale"]
        return float(standard @ w["weight"] + w["bias"][0])

    def examine(self, case: CaseImage) -> list[Evidence]:
        """One evidence, or none for a picture under ``MIN_SIDE`` pixels."""
        if min(case.width, case.height) < MIN_SIDE:
            return []
        score = self.score(statistics(self.tower, case.upright))
        side = windows(case.height, case.width)[0][2]
        leaning = "towards a generated picture" if score > 0 else "towards a camera picture"
        statement = (
            f"The fine structure of {COUNT} crops of {side} × {side} pixels at native resolution scores "
            f"{score:+.2f} on the log-odds scale of the crop expert, {leaning}."
        )
        recompute = {"crops": COUNT, "side": side, "layers": list(LAYERS)}
        return [Evidence(self.name, statement, score, recompute=recompute)]
