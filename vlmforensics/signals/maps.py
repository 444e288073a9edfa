"""Maps and regions: from a method's own grid in the stored frame to heatmaps and boxes in the upright frame."""

from __future__ import annotations

from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from vlmforensics.types import BoolMask, Box, CaseImage, Grey, Region

_Scalar = TypeVar("_Scalar", bound=np.generic)

MIN_SIDE = 64
"""Pixels a side under which the statistical sources abstain."""
LARGE = 2_000_000
"""Pixels above which work may be simplified to bound it: only 3 in 1,000 of the pictures that calibration was fitted
on have more, so that up to here results are as they were calibrated."""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of R, G, B in JPEG's luma (ITU-R BT.601)."""


def luma(pixels: NDArray[Any]) -> Grey:
    """Luma of RGB pixels: float32 (H, W), 0..255."""
    return np.ascontiguousarray(pixels.astype(np.float32) @ LUMA)


def upright(array: NDArray[_Scalar], orientation: int) -> NDArray[_Scalar]:
    """Turn a map (h, w) of the stored frame into the upright frame by EXIF orientation 1..8."""
    if orientation >= 5:
        array = array.T
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.ascontiguousarray(np.flip(array, flips.get(orientation, ())))


def too_small(case: CaseImage, side: int = MIN_SIDE) -> bool:
    """True where the picture has fewer than ``side`` pixels on an axis."""
    return bool(min(case.stored.shape[:2]) < side)


def large(case: CaseImage) -> bool:
    """True where the picture has more than :data:`LARGE` pixels."""
    return case.width * case.height > LARGE


def half_if_large(case: CaseImage, limit: int) -> int:
    """Pixels that a method examines: ``limit``, and half of them where it would not see the whole picture anyway."""
    return limit // 2 if large(case) else limit


def centre(pixels: NDArray[_Scalar], limit: int, align: int = 8) -> tuple[NDArray[_Scalar], int, int]:
    """Cut a centre window of at most ``limit`` pixels, its corner on a multiple of ``align``.

    The window keeps the picture's aspect as far as it can. Bounds the work on large pictures.

    Args:
        pixels: (H, W, …).
        limit: most pixels (H × W) kept.
        align: multiple that the top left corner lies on, so that block grids stay in phase.

    Returns:
        The window (a view), and its top and left in pixels.
    """
    height, width = pixels.shape[:2]
    if height * width <= limit:
        return pixels, 0, 0
    scale = (limit / (height * width)) ** 0.5
    tall, wide = max(align, int(height * scale)), max(align, int(width * scale))
    if tall >= height or wide >= width:  # very long pictures: shorten the long axis only
        tall, wide = min(height, limit // width or 1), min(width, limit // height or 1)
        tall, wide = (tall, width) if height > width else (height, wide)
    top, left = (height - tall) // 2 // align * align, (width - wide) // 2 // align * align
    return pixels[top : top + tall, left : left + wide], top, left


def halved(pixels: NDArray[_Scalar], width: int, height: int) -> NDArray[_Scalar]:
    """Halve a large picture as often as it keeps this size: a tenth of the cost of averaging by any other factor.

    Args:
        pixels: (H, W) or (H, W, 3); returned as it is where it has at most :data:`LARGE` pixels.
        width: least width kept.
        height: least height kept.
    """
    while pixels.shape[0] * pixels.shape[1] > LARGE:
        tall, wide = pixels.shape[0] // 2, pixels.shape[1] // 2
        if wide < width or tall < height:
            break
        even = pixels[: 2 * tall, : 2 * wide]
        pixels = np.asarray(cv2.resize(even, (wide, tall), interpolation=cv2.INTER_AREA))
    return pixels


def reduced(pixels: NDArray[_Scalar], limit: int) -> NDArray[_Scalar]:
    """Reduce a picture to about ``limit`` pixels by averaging areas; smaller ones are returned as they are.

    Args:
        pixels: (H, W) or (H, W, 3).
        limit: pixels (H × W) kept.
    """
    height, width = pixels.shape[:2]
    scale = (limit / (height * width)) ** 0.5
    if scale >= 1:
        return pixels
    size = (round(width * scale), round(height * scale))
    # A halving that ends a little under the limit will do: the fraction that is left would cost more than all halvings.
    pixels = halved(pixels, round(0.95 * size[0]), round(0.95 * size[1]))
    if pixels.shape[1] <= size[0]:
        return pixels
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def heatmap(values: NDArray[Any], low: float, high: float) -> Grey:
    """Scale a map linearly so that ``low`` → 0 and ``high`` → 1, clipped; float32, finite."""
    scaled = (np.asarray(values, dtype=np.float32) - low) / max(high - low, 1e-9)
    return np.asarray(np.clip(np.nan_to_num(scaled), 0, 1), dtype=np.float32)


def largest_region(cells: BoolMask, width: int, height: int, min_cells: int = 1) -> Region | None:
    """Find the largest 8-connected group of marked cells.

    Args:
        cells: bool (r, c), upright frame, stretched over the whole picture.
        width: upright width in pixels.
        height: upright height in pixels.
        min_cells: groups with fewer cells do not count.

    Returns:
        Box and mask in upright pixels, or None where no group is large enough.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(cells.astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    best = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    if stats[best, cv2.CC_STAT_AREA] < min_cells:
        return None
    inside = (labels == best).astype(np.uint8)
    mask = cv2.resize(inside, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.bool_)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    box = Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Region(box, mask)


def place(part: NDArray[Any], cell: int, top: int, left: int, height: int, width: int) -> Grey:
    """Put a map of square cells that covers a window into a map that covers the whole stored picture.

    Args:
        part: (r, c), one value per ``cell`` × ``cell`` pixels, its corner at (``top``, ``left``).
        cell: pixels a side of one value.
        top: of the window in stored pixels.
        left: of the window in stored pixels.
        height: stored height in pixels.
        width: stored width in pixels.

    Returns:
        float32 map that spans exactly the picture, of about one value per 8 pixels (never coarser than ``cell``
        asks for); 0 outside the window.
    """
    tall, wide = max(1, round(height / 8)), max(1, round(width / 8))
    y = (((np.arange(tall) + 0.5) * height / tall - top) // cell).astype(np.intp)
    x = (((np.arange(wide) + 0.5) * width / wide - left) // cell).astype(np.intp)
    rows, columns = part.shape
    out = part[np.ix_(np.clip(y, 0, rows - 1), np.clip(x, 0, columns - 1))].astype(np.float32)
    out[(y < 0) | (y >= rows), :] = 0
    out[:, (x < 0) | (x >= columns)] = 0
    return out
