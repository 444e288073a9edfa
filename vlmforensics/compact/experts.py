"""Experts on the frozen tower: linear layers on statistics of several of its layers, which we trained.

Two unlike views of one picture, each with its own calibration: ``crops`` reads native-resolution crops, because a
resize to the tower's 224 pixels destroys the fine structure that generators leave; ``whole`` reads the whole picture
at 224 × 224 pixels, where composition, light and style show. Both answer *synthetic or not*, and nothing about local
edits. Middle layers tell more than the last one.

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
from vlmforensics.compact.tower import Tower, TowerFeatures
from vlmforensics.errors import WeightsCorrupt
from vlmforensics.types import CaseImage, Evidence, Pixels

CROP_LAYERS = (2, 4, 6, 8, 10)
"""Tower layers whose statistics the crop expert reads."""
WHOLE_LAYERS = (2, 4, 6, 8, 10, 12)
"""Tower layers whose statistics the whole-picture expert reads."""
COUNT = 2
"""Crops per picture."""
MIN_SIDE = 8 * PATCH
"""Smallest picture side in pixels that gives a crop worth measuring."""
KEYS = ("bias", "mean", "scale", "weight")


def windows(height: int, width: int) -> list[tuple[int, int, int]]:
    """Square native-resolution crops as (top, left, side), spread along the diagonal.

    The side is 224 pixels, or the largest multiple of 14 that fits a smaller picture.
    """
    side = min(SIDE, height // PATCH * PATCH, width // PATCH * PATCH)
    spots = [(i + 1) / (COUNT + 1) for i in range(COUNT)]
    return [(round((height - side) * spot), round((width - side) * spot), side) for spot in spots]


def _summary(seen: TowerFeatures, layers: tuple[int, ...]) -> NDArray[np.float32]:
    """Class token, patch mean and patch deviation of each layer, averaged over the batch."""
    parts = [
        part
        for layer in layers
        for part in (seen.cls[layer], seen.patches[layer].mean((1, 2)), seen.patches[layer].std((1, 2)))
    ]
    return np.concatenate(parts, axis=-1).mean(0).astype(np.float32)


def crop_statistics(tower: Tower, pixels: Pixels) -> NDArray[np.float32]:
    """Statistics of ``CROP_LAYERS`` over the crops.

    Args:
        tower: the frozen tower.
        pixels: uint8 (H, W, 3), both sides at least ``MIN_SIDE``.

    Returns:
        float32 (len(CROP_LAYERS) * 3 * 384,).
    """
    crops = [pixels[y : y + s, x : x + s] for y, x, s in windows(*pixels.shape[:2])]
    return _summary(tower.features(crops, CROP_LAYERS), CROP_LAYERS)


def whole_statistics(tower: Tower, pixels: Pixels) -> NDArray[np.float32]:
    """Statistics of ``WHOLE_LAYERS`` of the whole picture: float32 (len(WHOLE_LAYERS) * 3 * 384,)."""
    return _summary(tower.whole(pixels), WHOLE_LAYERS)


class _Expert:
    """Evidence source: log-odds that the picture is synthetic, linear in statistics of the tower.

    Args:
        tower: the frozen tower.
        weights: ``mean``, ``scale``, ``weight`` (d,), ``bias`` (1,), all float.
    """

    name = ""
    version, cost = "1", "network"

    def __init__(self, tower: Tower, weights: Mapping[str, NDArray[np.float32]]) -> None:
        if sorted(weights) != list(KEYS):
            raise WeightsCorrupt(f"the {self.name} expert needs {list(KEYS)}, not {sorted(weights)}")
        self.tower = tower
        self.weights = {key: np.asarray(value, np.float64) for key, value in weights.items()}
        whole = b"".join(key.encode() + self.weights[key].tobytes() for key in KEYS)
        self.weights_sha256 = hashlib.sha256(whole).hexdigest()

    def score(self, features: NDArray[np.float32]) -> float:
        """Log-odds of synthetic under balanced labels, from the expert's statistics."""
        w = self.weights
        standard = (features - w["mean"]) / w["scale"]
        return float(standard @ w["weight"] + w["bias"][0])


def _leaning(score: float) -> str:
    return "towards a generated picture" if score > 0 else "towards a camera picture"


class CropExpert(_Expert):
    """Source ``crops``: fine structure at native resolution."""

    name = "crops"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """One evidence, or none for a picture under ``MIN_SIDE`` pixels."""
        if min(case.width, case.height) < MIN_SIDE:
            return []
        score = self.score(crop_statistics(self.tower, case.upright))
        side = windows(case.height, case.width)[0][2]
        statement = (
            f"The fine structure of {COUNT} crops of {side} × {side} pixels at native resolution scores "
            f"{score:+.2f} on the log-odds scale of the crop expert, {_leaning(score)}."
        )
        recompute = {"crops": COUNT, "side": side, "layers": list(CROP_LAYERS)}
        return [Evidence(self.name, statement, score, recompute=recompute)]


class WholeExpert(_Expert):
    """Source ``whole``: the picture as a whole, at the size that the language model sees."""

    name = "whole"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """One evidence."""
        score = self.score(whole_statistics(self.tower, case.upright))
        statement = (
            f"The picture as a whole, seen at {SIDE} × {SIDE} pixels, scores {score:+.2f} on the log-odds scale of the "
            f"whole-picture expert, {_leaning(score)}."
        )
        recompute = {"side": SIDE, "layers": list(WHOLE_LAYERS)}
        return [Evidence(self.name, statement, score, recompute=recompute)]


EXPERTS = (CropExpert, WholeExpert)


def load_experts(tower: Tower, file: Path) -> list[CropExpert | WholeExpert]:
    """Read every expert of ``experts.safetensors`` (tensors ``NAME.mean`` and so on).

    Raises:
        WeightsCorrupt: a tensor is missing or unknown.
    """
    from safetensors.numpy import load_file

    tensors = load_file(file)
    unknown = {key.split(".")[0] for key in tensors} - {expert.name for expert in EXPERTS}
    if unknown:
        raise WeightsCorrupt(f"{file.name} holds unknown experts: {', '.join(sorted(unknown))}")
    return [
        expert(
            tower,
            {key.partition(".")[2]: t for key, t in tensors.items() if key.split(".")[0] == expert.name},
        )
        for expert in EXPERTS
    ]
