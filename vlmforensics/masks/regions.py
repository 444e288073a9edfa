"""From the network's square low-resolution map to a mask on the upright picture, with its regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from vlmforensics.imaging import resize_plane
from vlmforensics.types import BoolMask, Box, Grey, Mask

SMALLEST_REGION = 64
"""A region of fewer pixels is a speck, whatever the picture's size."""

TOP_SHARE = 0.005
"""Share of the map whose logits count as its top."""


@dataclass(frozen=True)
class PixelCalibration:
    """How logits become probabilities (Platt 1999, with the picture's own presence as a second regressor).

    Per pixel: ``p = sigmoid(slope · logit + presence · presence_logit + bias)``: the same local trace is worth
    more in a picture that looks tampered as a whole. Per picture: ``sigmoid(presence_slope · presence_logit +
    presence_top · top + presence_bias)``, where ``top`` is the mean of the map's highest logits, see
    :func:`top_logit`.

    Attributes:
        threshold: of the binary mask, on ``p``.
        smallest_share: regions below this share of the picture are specks.
    """

    slope: float = 1.0
    presence: float = 0.0
    bias: float = 0.0
    presence_slope: float = 1.0
    presence_top: float = 0.0
    presence_bias: float = 0.0
    threshold: float = 0.5
    smallest_share: float = 0.0005

    def to_json(self) -> dict[str, float]:
        """Plain values for a manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PixelCalibration:
        """The opposite of :meth:`to_json`.

        Raises:
            TypeError: unknown keys.
        """
        return cls(**{name: float(value) for name, value in values.items()})


def top_logit(logits: NDArray[np.float32]) -> float:
    """Mean of the highest ``TOP_SHARE`` of the map: how sure the network is where it is surest."""
    count = max(1, round(TOP_SHARE * logits.size))
    return float(np.partition(logits, -count, axis=None)[-count:].mean(dtype=np.float64))


def stretch(logits: NDArray[np.float32], width: int, height: int) -> Grey:
    """Bring a map of the square frame to the picture's size: the inverse of squashing the picture.

    Pixel centres are aligned (cell (i, j) covers the same share of the picture before and after), so a map's
    edge falls on the pixel where it belongs, whatever the aspect.
    """
    return resize_plane(logits, width, height, resample="bilinear")


def to_mask(
    logits: NDArray[np.float32], presence_logit: float, width: int, height: int, calibration: PixelCalibration
) -> Mask:
    """Turn the decoder's map into a mask of the upright picture.

    Args:
        logits: float32 (s, s), the square frame over the whole picture.
        presence_logit: of the picture.
        width: of the upright picture in pixels.
        height: of the upright picture in pixels.
        calibration: stored with the weights.

    Returns:
        The mask; without regions where nothing passes the threshold.
    """
    soft = stretch(logits, width, height)
    soft *= calibration.slope
    soft += calibration.presence * presence_logit + calibration.bias
    expit(soft, out=soft)
    binary, boxes, confidences = find_regions(soft, calibration.threshold, calibration.smallest_share)
    picture = calibration.presence_slope * presence_logit + calibration.presence_bias
    picture += calibration.presence_top * top_logit(logits)
    return Mask(soft, binary, boxes, confidences, calibration.threshold, float(expit(picture)))


def find_regions(
    soft: Grey, threshold: float, smallest_share: float
) -> tuple[BoolMask, tuple[Box, ...], tuple[float, ...]]:
    """Connected regions (8-neighbourhood) of ``soft`` ≥ ``threshold``, specks removed.

    Args:
        soft: float32 (H, W) in [0, 1].
        threshold: in [0, 1].
        smallest_share: of the picture; smaller regions, and those under ``SMALLEST_REGION`` pixels, are
            dropped.

    Returns:
        ``(binary, boxes, confidences)``: bool (H, W), and per region its box and mean of ``soft``, largest
        first.
    """
    return _described(soft >= threshold, soft, max(SMALLEST_REGION, smallest_share * soft.size))


def with_places(mask: Mask, places: Sequence[BoolMask]) -> Mask:
    """The mask with places marked that another finding names.

    Args:
        mask: of the head.
        places: bool (H, W) each, of the same picture. Where one lies, the map is raised to the threshold.

    Returns:
        A mask whose regions are those of both together; the same one where there are no places.
    """
    if not places:
        return mask
    named = np.logical_or.reduce(places)
    soft = np.where(named, np.maximum(mask.soft, np.float32(mask.threshold)), mask.soft)
    binary, boxes, confidences = _described(mask.binary | named, soft, 1)
    joined = float((binary & ~mask.binary).mean())
    return replace(mask, soft=soft, binary=binary, boxes=boxes, confidences=confidences, joined=joined)


def _described(
    marked: BoolMask, soft: Grey, smallest: float
) -> tuple[BoolMask, tuple[Box, ...], tuple[float, ...]]:
    """Regions of ``marked`` with at least ``smallest`` pixels, as :func:`find_regions` returns them."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        marked.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S
    )
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = [index for index in range(1, count) if areas[index] >= smallest]
    kept.sort(key=lambda index: (-int(areas[index]), index))
    table = np.zeros(count, dtype=np.bool_)
    table[kept] = True
    boxes, confidences = [], []
    for index in kept:
        x, y = int(stats[index, cv2.CC_STAT_LEFT]), int(stats[index, cv2.CC_STAT_TOP])
        box = Box(x, y, x + int(stats[index, cv2.CC_STAT_WIDTH]), y + int(stats[index, cv2.CC_STAT_HEIGHT]))
        inside = labels[box.y0 : box.y1, box.x0 : box.x1] == index
        boxes.append(box)
        confidences.append(float(soft[box.y0 : box.y1, box.x0 : box.x1][inside].mean(dtype=np.float64)))
    return table[labels], tuple(boxes), tuple(confidences)
