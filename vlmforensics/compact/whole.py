"""An expert on the frozen tower: one linear layer, which we trained, on statistics of several of its layers.

It reads the whole picture at 448 × 448 pixels, where composition, light and style show, and some of the fine structure
that generators leave. It answers *synthetic or not* and says nothing about local edits.

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

from vlmforensics.compact.tower import Tower, squash
from vlmforensics.errors import WeightsCorrupt
from vlmforensics.types import CaseImage, Evidence, Pixels

FILE = "whole.safetensors"
SIDE = 448
"""Side in pixels of the square that is read: twice the language model's, a multiple of the tower's patch."""
LAYERS = (2, 4, 6, 8, 10, 12)
"""Tower layers whose statistics are read."""
KEYS = ("bias", "mean", "scale", "weight")


def whole_statistics(tower: Tower, pixels: Pixels) -> NDArray[np.float32]:
    """Class token, patch mean and patch deviation of each of ``LAYERS``: float32 (len(LAYERS) * 3 * 384,).

    Args:
        tower: the frozen tower.
        pixels: uint8 (H, W, 3).
    """
    seen = tower.features([squash(pixels, SIDE)], LAYERS)
    parts = [
        part
        for layer in LAYERS
        for part in (seen.cls[layer], seen.patches[layer].mean((1, 2)), seen.patches[layer].std((1, 2)))
    ]
    return np.concatenate(parts, axis=-1)[0].astype(np.float32)


class WholeExpert:
    """Source ``whole``: log-odds that the picture is synthetic, linear in ``whole_statistics``.

    Args:
        tower: the frozen tower.
        weights: ``mean``, ``scale``, ``weight`` (d,), ``bias`` (1,), all float.
    """

    name = "whole"
    version, cost = "1", "network"

    def __init__(self, tower: Tower, weights: Mapping[str, NDArray[np.float32]]) -> None:
        if sorted(weights) != list(KEYS):
            raise WeightsCorrupt(f"the whole-picture expert needs {list(KEYS)}, not {sorted(weights)}")
        self.tower = tower
        self.weights = {key: np.asarray(value, np.float64) for key, value in weights.items()}
        data = b"".join(key.encode() + self.weights[key].tobytes() for key in KEYS)
        self.weights_sha256 = hashlib.sha256(data).hexdigest()

    def score(self, features: NDArray[np.float32]) -> float:
        """Log-odds of synthetic under balanced labels, from ``whole_statistics``."""
        w = self.weights
        return float((features - w["mean"]) / w["scale"] @ w["weight"] + w["bias"][0])

    def examine(self, case: CaseImage) -> list[Evidence]:
        """One evidence."""
        score = self.score(whole_statistics(self.tower, case.upright))
        leaning = "towards a generated picture" if score > 0 else "towards a camera picture"
        statement = (
            f"The picture as a whole, seen at {SIDE} × {SIDE} pixels, scores {score:+.2f} on the log-odds scale of the "
            f"whole-picture expert, {leaning}."
        )
        return [Evidence(self.name, statement, score, recompute={"side": SIDE, "layers": list(LAYERS)})]


def load_whole(tower: Tower, file: Path) -> WholeExpert:
    """Read ``FILE``.

    Raises:
        WeightsCorrupt: a tensor is missing or unknown.
    """
    from safetensors.numpy import load_file

    return WholeExpert(tower, load_file(file))
