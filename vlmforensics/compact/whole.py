"""An expert on the frozen tower: one linear layer, which we trained, on statistics of several of its layers.

It reads the whole picture at 448 × 448 pixels, where composition, light and style show, and some of the fine structure
that generators leave. It answers *synthetic or not* and says nothing about local edits.

A strong reading is checked on a second view, for noise made to move the first one seldom moves the second as far.

References:
    Xie et al. 2018, Mitigating Adversarial Effects Through Randomization (the idea behind the second view).
    Ojha et al. 2023, Towards Universal Fake Image Detectors (frozen features + a linear probe).
    Koutlis & Papadopoulos 2024, Leveraging Representations from Intermediate Encoder-Blocks (RINE).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlmforensics.compact.tower import Tower, normalise, run_tower, squash
from vlmforensics.errors import WeightsCorrupt
from vlmforensics.types import CaseImage, Evidence, Pixels

FILE = "whole.safetensors"
SIDE = 448
"""Side in pixels of the square that is read: twice the language model's, a multiple of the tower's patch."""
LAYERS = (2, 4, 6, 8, 10, 12)
"""Tower layers whose statistics are read."""
STRONG = 3.0
"""Log-odds from which a reading is checked on the second view; weaker ones decide nothing alone."""
APART = 4.0
"""How far apart the two views may be, in log-odds (docs/attacks.md: untouched pictures, and attacked ones)."""
FARTHEST = 12.0
"""Log-odds that no reading of a picture of an unseen source came near: they span -10.6 to +9.0 (5,388 readings)."""
KEYS = ("bias", "mean", "scale", "weight")


def statistics(streams: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Class token, patch mean and patch deviation of each of ``LAYERS``: float32 (B, len(LAYERS) * 3 * 384).

    Args:
        streams: layer → (B, 1 + patches, 384), see ``tower.run_tower``.
    """
    parts = []
    for layer in LAYERS:
        stream = streams[layer].float()
        parts += [stream[:, 0], stream[:, 1:].mean(1), stream[:, 1:].std(1, correction=0)]
    return torch.cat(parts, -1)


def whole_statistics(tower: Tower, pixels: Pixels) -> NDArray[np.float32]:
    """``statistics`` of the whole picture at ``SIDE`` × ``SIDE`` pixels: float32 (d,).

    Args:
        tower: the frozen tower.
        pixels: uint8 (H, W, 3).
    """
    with torch.inference_mode():
        seen = run_tower(tower.module, normalise([squash(pixels, SIDE)], tower.device), LAYERS)
        found: NDArray[np.float32] = statistics(seen)[0].cpu().numpy()
    return found


def centre(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the central nine tenths of each side, which the second view shows."""
    y, x = height // 20, width // 20
    return slice(y, height - y), slice(x, width - x)


def second_view(pixels: Pixels) -> Pixels:
    """The picture's ``centre``, mirrored: other patches, another scale, the same picture to a reader.

    Args:
        pixels: uint8 (H, W, 3).
    """
    return np.ascontiguousarray(pixels[centre(*pixels.shape[:2])][:, ::-1])


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
        """One evidence; without a score, so that it weighs nothing, where it can't be trusted."""
        score = self.score(whole_statistics(self.tower, case.upright))
        recompute: dict[str, Any] = {"side": SIDE, "layers": list(LAYERS)}
        if abs(score) > STRONG:
            other = self.score(whole_statistics(self.tower, second_view(case.upright)))
            recompute["second_view"] = round(other, 4)
            if reason := _doubt(score, other):
                statement = f"The whole-picture expert withholds its reading: {reason}; noise made to deceive does so."
                return [Evidence(self.name, statement, recompute=recompute | {"first_view": round(score, 4)})]
        leaning = "towards a generated picture" if score > 0 else "towards a camera picture"
        statement = (
            f"The picture as a whole, seen at {SIDE} × {SIDE} pixels, scores {score:+.2f} on the log-odds scale of the "
            f"whole-picture expert, {leaning}."
        )
        return [Evidence(self.name, statement, score, recompute=recompute)]


def _doubt(score: float, other: float) -> str:
    """Why a strong reading is not believed, or nothing; ``other`` is that of the second view."""
    if abs(score - other) > APART:
        return (
            f"{score:+.2f} on the log-odds scale for the whole picture but {other:+.2f} for its mirrored centre, "
            "further apart than untouched pictures are"
        )
    if abs(score) > FARTHEST:
        return f"{score:+.2f} on the log-odds scale is further out than any untouched picture was"
    return ""


def load_whole(tower: Tower, file: Path) -> WholeExpert:
    """Read ``FILE``.

    Raises:
        WeightsCorrupt: a tensor is missing or unknown.
    """
    from safetensors.numpy import load_file

    return WholeExpert(tower, load_file(file))
