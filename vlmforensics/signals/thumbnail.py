"""An embedded thumbnail that shows another picture than the file does.

Cameras write a small preview into the EXIF; editors that do not renew it leave the picture as it was. The thumbnail is
set against the picture, shrunk to its size, after the best common brightness and contrast.

Reference: Kee & Farid 2010, Digital Image Authentication from Thumbnails.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vlmforensics.errors import InputError
from vlmforensics.imaging import open_case
from vlmforensics.settings import Settings
from vlmforensics.signals.maps import heatmap, largest_region, luma, place, upright
from vlmforensics.types import CaseImage, Evidence, Grey

FOUND = 28.0
"""Grey levels of the strongest smoothed difference from which the text speaks of another picture."""
SIDE = 96
"""Pixels of the longer side at which both are compared."""
_SHAPE = 0.04  # relative difference of the aspect ratios that rounding explains
_BAR = 12  # grey levels under which a border counts as a black bar


@dataclass(frozen=True, eq=False)
class Comparison:
    """Result of :func:`compare`.

    Attributes:
        difference: float32 (h, w), smoothed absolute difference in grey levels.
        strongest: its 99.5th percentile away from the rim.
        correlation: of both, −1..1.
        cropped: the picture's aspect ratio is another one, so it was compared as if cropped from the middle.
    """

    difference: Grey
    strongest: float
    correlation: float
    cropped: bool


def _without_bars(plane: Grey) -> Grey:
    """Cut black bars, which cameras add to fit 4:3, off both ends of one axis."""
    for axis in (0, 1):
        bright = plane.max(axis=1 - axis) > _BAR
        used = np.flatnonzero(bright)
        if len(used) and plane.shape[axis] * 0.6 < used[-1] + 1 - used[0] < plane.shape[axis]:
            cut = slice(int(used[0]) + 1, int(used[-1]))
            plane = plane[cut] if axis == 0 else plane[:, cut]
    return plane


def compare(picture: Grey, small: Grey) -> Comparison | None:
    """Set a thumbnail against the picture that holds it.

    Args:
        picture: float32 (H, W), 0..255, stored frame.
        small: float32 (h, w), 0..255, as stored in the thumbnail.

    Returns:
        None where either is flat, or one is turned against the other.
    """
    small = _without_bars(small)
    ratio, other = picture.shape[1] / picture.shape[0], small.shape[1] / small.shape[0]
    turned = abs(ratio * other - 1) < 2 * _SHAPE and abs(ratio / other - 1) > _SHAPE
    if min(small.shape) < 24 or turned or picture.std() < 4 or small.std() < 4:
        return None
    scale = SIDE / max(small.shape)
    size = (max(16, round(small.shape[1] * scale)), max(16, round(small.shape[0] * scale)))
    cropped = abs(ratio / other - 1) > _SHAPE
    one = cv2.GaussianBlur(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), (0, 0), 1.2)
    two = cv2.GaussianBlur(cv2.resize(small, size, interpolation=cv2.INTER_AREA), (0, 0), 1.2)
    # Least squares with a robust second step: editing must not set the common brightness.
    weight = np.ones_like(one)
    difference = np.zeros_like(one)
    for _ in range(4):
        mean_one, mean_two = np.average(one, weights=weight), np.average(two, weights=weight)
        spread = float(np.average(np.square(one - mean_one), weights=weight)) + 1e-6
        gain = float(np.average((one - mean_one) * (two - mean_two), weights=weight)) / spread
        difference = np.abs(two - mean_two - gain * (one - mean_one))
        scale_of = 1.4826 * float(np.median(difference)) + 1.0
        weight = 1 / (1 + np.square(difference / (3 * scale_of)))
    inner = difference[3:-3, 3:-3]
    correlation = float(np.corrcoef(one.ravel(), two.ravel())[0, 1])
    return Comparison(difference.astype(np.float32), float(np.percentile(inner, 99.5)), correlation, cropped)


class Thumbnail:
    """Evidence from an embedded thumbnail; none where there is none, or it can't be compared.

    Args:
        settings: limits under which the thumbnail is decoded; defaults where None.
    """

    name, version, cost = "thumbnail", "1", "milliseconds"

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence where the EXIF holds a readable thumbnail, else an empty list."""
        if case.container.thumbnail is None:
            return []
        try:
            small = open_case(case.container.thumbnail, file="thumbnail", settings=self.settings).stored
        except InputError:  # a damaged preview is common and shows nothing
            return []
        found = compare(luma(_reduced(case.stored)), luma(small))
        if found is None:
            return []
        size = f"{small.shape[1]} × {small.shape[0]} pixels"
        measured = (
            f"strongest difference {found.strongest:.0f} grey levels, correlation {found.correlation:.2f}"
        )
        recompute = {
            "version": self.version,
            "thumbnail": [int(small.shape[1]), int(small.shape[0])],
            "correlation": round(found.correlation, 4),
        }
        if found.cropped:
            text = f"The embedded thumbnail ({size}) has another shape than the picture, as after a crop: {measured}."
            return [Evidence(self.name, text, score=found.strongest, code="cropped", recompute=recompute)]
        strong = found.strongest >= FOUND
        height, width = case.stored.shape[:2]
        drawn = cv2.resize(found.difference, (max(1, width // 8), max(1, height // 8)))
        cells = upright(place(drawn, 8, 0, 0, height, width), case.orientation)
        region = largest_region(cells >= FOUND, case.width, case.height) if strong else None
        if strong:
            text = f"The embedded thumbnail ({size}) shows something else than the picture: {measured}."
        else:
            text = f"The embedded thumbnail ({size}) shows the same as the picture: {measured}."
        code = "differs" if strong else "agrees"
        shown = heatmap(cells, 0, 2 * FOUND)
        return [
            Evidence(
                self.name,
                text,
                score=found.strongest,
                code=code,
                region=region,
                heatmap=shown,
                recompute=recompute,
            )
        ]


def _reduced(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """At most about 512 pixels a side, by area, so that a large picture costs little."""
    scale = 512 / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
