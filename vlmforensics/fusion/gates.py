"""Gates before the verdict: pictures that calibration says nothing about end as *inconclusive*.

A gate about pixels (too small, blank, noise, far from calibration) silences every source that reads pixels:
what they said is still shown, but contributes zero, because their calibration does not hold there. Sources
that read the file around the pixels (generation parameters, Content Credentials) are as valid on a blank or
tiny picture as on any other; they alone may still carry an accusation, through the same arithmetic and
bounds. A gate that is not about pixels always ends as *inconclusive*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmforensics.fusion.scale import Floats
from vlmforensics.fusion.strict import Node
from vlmforensics.types import Pixels

MIN_SIDE = 64
BLANK_STD = 2.0
BLANK_BLOCKS = 0.01
NOISE_CORRELATION = 0.30
NOISE_COARSE = 0.25


@dataclass(frozen=True)
class Gate:
    """A reason not to decide.

    Attributes:
        code: stable identifier: ``tiny``, ``blank``, ``noise``, ``distance``, ``unseen`` or the caller's own.
        reason: one sentence for the reader, ending with a full stop.
        pixels: True where it concerns only what is read from pixels (see the module's text).
    """

    code: str
    reason: str
    pixels: bool = True


UNSEEN = Gate(
    "unseen",
    "The model could not look at the picture, so it can't be told whether it resembles those of calibration.",
)
"""Where the distance gate should have been asked and could not."""


def tiny(pixels: Pixels) -> Gate | None:
    """A side under 64 pixels holds less than a block of any measurement."""
    height, width = pixels.shape[:2]
    if min(height, width) >= MIN_SIDE:
        return None
    reason = (
        f"The picture is {width} × {height} pixels, too small to measure; {MIN_SIDE} a side are the least."
    )
    return Gate("tiny", reason)


def _luma(pixels: Pixels, most: int = 1 << 21) -> NDArray[np.float32]:
    """BT.601 luma of the centre, at most about ``most`` pixels; float32 (h, w) in 0..255, never resized."""
    height, width = pixels.shape[:2]
    shrink = min(1.0, (most / (height * width)) ** 0.5)
    rows, columns = max(1, int(height * shrink)), max(1, int(width * shrink))
    top, left = (height - rows) // 2, (width - columns) // 2
    crop = pixels[top : top + rows, left : left + columns].astype(np.float32)
    return np.asarray(crop @ np.array([0.299, 0.587, 0.114], np.float32))


def _blocks(luma: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(rows, columns, size²) of whole blocks."""
    rows, columns = luma.shape[0] // size, luma.shape[1] // size
    whole = luma[: rows * size, : columns * size].reshape(rows, size, columns, size)
    return whole.swapaxes(1, 2).reshape(rows, columns, size * size)


def blank(pixels: Pixels) -> Gate | None:
    """One even colour: deviation under 2 grey levels, or under 1 % of 16×16 blocks with any texture."""
    luma = _luma(pixels)
    deviation = float(luma.std())
    textured = 1.0
    if min(luma.shape) >= 16:
        textured = float((_blocks(luma, 16).std(axis=2) > 0.75).mean())
    if deviation >= BLANK_STD and textured >= BLANK_BLOCKS:
        return None
    reason = (
        f"The picture is nearly blank (grey-level deviation {deviation:.1f}, {100 * textured:.1f} % of "
        "its blocks "
        "have any texture), so there is nothing to measure."
    )
    return Gate("blank", reason)


def _correlation(plane: NDArray[np.float32]) -> float:
    """Mean correlation of horizontal and vertical neighbours, 0 for a constant plane."""
    values = []
    for a, b in ((plane[:, 1:], plane[:, :-1]), (plane[1:], plane[:-1])):
        a, b = a - a.mean(), b - b.mean()
        scale = float(np.sqrt((a * a).mean() * (b * b).mean()))
        values.append(float((a * b).mean()) / scale if scale > 1e-6 else 0.0)
    return sum(values) / 2


def noise(pixels: Pixels) -> Gate | None:
    """Pure noise: neighbours hardly correlate, or correlate only through smoothing, not at any coarser scale.

    Natural scenes are correlated at all scales (spectrum near 1/f², Field 1987); noise that was blurred,
    enlarged or compressed is smooth between neighbours but white again after averaging blocks.
    """
    luma = _luma(pixels)
    if min(luma.shape) < MIN_SIDE:
        return None
    fine = _correlation(luma)
    coarse = [
        _correlation(_blocks(luma, size).mean(axis=2)) for size in (16, 32) if min(luma.shape) >= 8 * size
    ]
    if fine >= NOISE_CORRELATION and (len(coarse) < 2 or max(coarse) >= NOISE_COARSE):
        return None
    reason = (
        f"The picture looks like noise without a scene (correlation of neighbouring pixels {fine:.2f}"
        + (f", of neighbouring blocks {max(coarse):.2f}" if coarse else "")
        + "), for which nothing here is calibrated."
    )
    return Gate("noise", reason)


def pixel_gates(pixels: Pixels) -> tuple[Gate, ...]:
    """The first gate that the pixels alone decide, or none; uint8 (H, W, 3), upright frame."""
    for check in (tiny, blank, noise):
        gate = check(pixels)
        if gate is not None:
            return (gate,)
    return ()


@dataclass(frozen=True, eq=False)
class DistanceGate:
    """Mahalanobis distance to the calibration pictures: principal axes of a feature space, plus the rest.

    ``d² = Σ ((c_i · (x − mean)) / scale_i)² + |residual|² / rest²``, per dimension: divided by k + 1.

    Attributes:
        mean: (d,).
        components: (k, d), orthonormal rows.
        scales: (k,), standard deviations along them.
        rest: root of the mean squared residual norm.
        threshold: largest d of pictures that count as near.
        n: number of calibration pictures.

    References:
        Lee et al. 2018, A simple unified framework for detecting out-of-distribution samples.
    """

    mean: Floats
    components: Floats
    scales: Floats
    rest: float
    threshold: float
    n: int

    @classmethod
    def fit(cls, features: Floats, *, quantile: float = 0.995, components: int = 24) -> DistanceGate:
        """Fit to calibration features (n, d); the threshold is this quantile of the distances × 1.1."""
        features = np.asarray(features, dtype=np.float64)
        mean = features.mean(axis=0)
        centred = features - mean
        _, values, axes = np.linalg.svd(centred, full_matrices=False)
        keep = int(min(components, len(values), max(1, len(features) // 10)))
        scales = np.maximum(values[:keep] / np.sqrt(len(features)), 1e-9)
        residual = centred - (centred @ axes[:keep].T) @ axes[:keep]
        rest = max(float(np.sqrt((residual**2).sum(axis=1).mean())), 1e-9)
        gate = cls(mean, axes[:keep], scales, rest, 1.0, len(features))
        distances = [gate.distance(row) for row in features]
        return cls(
            mean, axes[:keep], scales, rest, 1.1 * float(np.quantile(distances, quantile)), len(features)
        )

    def distance(self, features: Floats) -> float:
        """Distance of one feature vector (d,), 1 on average over calibration."""
        centred = np.asarray(features, dtype=np.float64) - self.mean
        along = self.components @ centred
        residual = centred - along @ self.components
        squared = ((along / self.scales) ** 2).sum() + (residual**2).sum() / self.rest**2
        return float(np.sqrt(squared / (len(self.scales) + 1)))

    def __call__(self, features: Floats) -> Gate | None:
        """The gate for one picture's features (d,), or None where it is near enough."""
        found = self.distance(features)
        if found <= self.threshold:
            return None
        reason = (
            f"The picture is unlike the {self.n} calibration pictures (distance {found:.2f}, limit "
            f"{self.threshold:.2f}), so their error rates can't be carried over to it."
        )
        return Gate("distance", reason)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "mean": self.mean, "components": self.components, "scales": self.scales, "rest": self.rest,
            "threshold": self.threshold, "n": self.n,
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Any, where: str) -> DistanceGate:
        """Read and check."""
        node = Node(value, where, ("mean", "components", "scales", "rest", "threshold", "n"))
        mean = node.array("mean", (None,))
        scales = node.array("scales", (None,))
        if (scales <= 0).any():
            node.fail("scales must be positive")
        components = node.array("components", (len(scales), len(mean)))
        numbers = (node.number("rest", 1e-300), node.number("threshold", 0), node.count("n"))
        return cls(mean, components, scales, *numbers)
