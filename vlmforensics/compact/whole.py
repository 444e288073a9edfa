"""Two experts on a frozen tower: linear layers, which we trained, on CLIP's class tokens of all its blocks.

They read the whole picture at 224 × 224 pixels, where composition, light, style and rendering show. ``whole`` answers
*synthetic or not*, ``edited`` answers *edited or not*; neither says where.

A strong reading is checked on a second view, for noise made to move the first one seldom moves the second as far.

References:
    Xie et al. 2018, Mitigating Adversarial Effects Through Randomization (the idea behind the second view).
    Ojha et al. 2023, Towards Universal Fake Image Detectors (a linear probe on frozen CLIP features).
    Koutlis & Papadopoulos 2024, Leveraging Representations from Intermediate Encoder-Blocks (RINE).
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlmforensics.compact.clip import NAME, SIDE
from vlmforensics.errors import WeightsCorrupt
from vlmforensics.types import CaseImage, Evidence, Pixels

FILE = "experts.safetensors"
WHOLE, EDITED = "whole", "edited"
EXPERTS = (WHOLE, EDITED)
"""Sources of evidence that the two are."""
NAMES = {WHOLE: "whole-picture expert", EDITED: "editing expert"}
LEANINGS = {
    WHOLE: (
        "a camera picture rather than a generated one",
        "a generated picture rather than one from a camera",
    ),
    EDITED: (
        "an untouched picture rather than an edited one",
        "an edited picture rather than an untouched one",
    ),
}
"""What scores below and above zero mean."""
STRONG = 3.0
"""Log-odds from which a reading is checked on the second view; weaker ones decide nothing alone."""
APART = 4.0
"""How far apart the two views may be, in log-odds: at most 2.9 in 160 untouched pictures of unseen sources."""
FARTHEST = 16.0
"""Log-odds that no reading of a picture of an unseen source came near: they span -12.3 to +12.1 (7,102 readings)."""
KEYS = ("bias", "mean", "scale", "weight")
KEPT = 64
"""Latest pictures whose readings are kept: more than are under way together in a batch."""


class Reader(Protocol):
    """What turns a picture into the numbers that the linear layers read (``clip.Clip``).

    Attributes:
        digest: names its weights.
    """

    digest: str

    def read(self, pixels: Pixels) -> NDArray[np.float32]:
        """float32 (d,) of a picture uint8 (H, W, 3)."""
        ...

    def patch_tokens(self, pixels: Pixels, side: int, layers: tuple[int, ...]) -> NDArray[np.float32]:
        """What the mask head's locator reads, see ``clip.Clip``."""
        ...


@dataclass(frozen=True, eq=False)
class Linear:
    """One trained layer on standardised features, all float64: ``mean``, ``scale``, ``weight`` (d,), ``bias`` (1,)."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def score(self, features: NDArray[np.float32]) -> float:
        """Log-odds under balanced labels of features (d,)."""
        return float((features - self.mean) / self.scale @ self.weight + self.bias[0])


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
    """Sources ``whole`` and ``edited``: log-odds that the picture is synthetic, and that it is edited.

    Args:
        tower: the frozen tower.
        weights: ``EXPERT.KEY`` → array, for each of ``EXPERTS`` and ``KEYS``.
    """

    name = WHOLE
    version, cost = "2", "network"

    def __init__(self, tower: Reader, weights: Mapping[str, NDArray[np.float32]]) -> None:
        wanted = sorted(f"{name}.{key}" for name in EXPERTS for key in KEYS)
        if sorted(weights) != wanted:
            raise WeightsCorrupt(f"the experts on the whole picture need {wanted}, not {sorted(weights)}")
        self.tower = tower
        exact = {key: np.asarray(value, np.float64) for key, value in weights.items()}
        self.layers = {name: Linear(**{key: exact[f"{name}.{key}"] for key in KEYS}) for name in EXPERTS}
        data = b"".join(key.encode() + exact[key].tobytes() for key in wanted)
        self.weights_sha256 = hashlib.sha256(tower.digest.encode() + data).hexdigest()
        self._seen: OrderedDict[bytes, list[Evidence]] = OrderedDict()
        self._lock = threading.Lock()

    def scores(self, pixels: Pixels) -> dict[str, float]:
        """What each expert says of one view."""
        features = self.tower.read(pixels)
        return {name: layer.score(features) for name, layer in self.layers.items()}

    def examine(self, case: CaseImage) -> list[Evidence]:
        """One evidence an expert; without a score, so that it weighs nothing, where it can't be trusted."""
        return self.read(case.upright)

    def believed(self, pixels: Pixels) -> tuple[float, ...]:
        """Log-odds by each of ``EXPERTS``; 0 where one withholds its reading."""
        found = {item.source: item.score for item in self.read(pixels)}
        return tuple(found[name] or 0.0 for name in EXPERTS)

    def read(self, pixels: Pixels) -> list[Evidence]:
        """As :meth:`examine`, of an upright picture; the language model asks again what the report has asked.

        Args:
            pixels: uint8 (H, W, 3).
        """
        key = hashlib.sha256(str(pixels.shape).encode() + np.ascontiguousarray(pixels).data).digest()
        with self._lock:
            known = self._seen.get(key)
        if known is not None:
            return list(known)
        first = self.scores(pixels)
        strong = [name for name, score in first.items() if abs(score) > STRONG]
        second = self.scores(second_view(pixels)) if strong else {}
        found = [
            _evidence(name, score, second[name] if name in strong else None) for name, score in first.items()
        ]
        with self._lock:
            self._seen[key] = found
            while len(self._seen) > KEPT:
                self._seen.popitem(last=False)
        return list(found)


def _evidence(name: str, score: float, other: float | None) -> Evidence:
    """An expert's finding; ``other`` is what it says of the second view, where that was read."""
    recompute: dict[str, Any] = {"side": SIDE, "tower": NAME}
    if other is not None:
        recompute["second_view"] = round(other, 4)
        if reason := _doubt(score, other):
            statement = f"The {NAMES[name]} withholds its reading: {reason}; noise made to deceive does so."
            return Evidence(name, statement, recompute=recompute | {"first_view": round(score, 4)})
    seen = LEANINGS[name][score > 0]
    statement = f"At {SIDE} × {SIDE} pixels the {NAMES[name]} sees {seen}, with log-odds of {score:+.2f}."
    return Evidence(name, statement, score, recompute=recompute)


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


def load_experts(tower: Reader, file: Path) -> WholeExpert:
    """Read ``FILE``.

    Raises:
        WeightsCorrupt: a tensor is missing or unknown.
    """
    from safetensors.numpy import load_file

    return WholeExpert(tower, load_file(file))
