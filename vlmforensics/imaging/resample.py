"""Resizing of pictures and planes, antialiased when shrinking."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmforensics.errors import SettingsError
from vlmforensics.types import Pixels

Resample = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]
_FILTERS: dict[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


def _filter(resample: str) -> Image.Resampling:
    if resample not in _FILTERS:
        raise SettingsError(f"unknown resampling {resample!r}; known: {', '.join(_FILTERS)}")
    return _FILTERS[resample]


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise SettingsError(f"can't resize to {width}×{height}: both sides must be at least 1 pixel")


def resize(pixels: Pixels, width: int, height: int, *, resample: Resample = "bicubic") -> Pixels:
    """Resize a picture; every filter but ``nearest`` widens with the reduction, so shrinking does not alias.

    Args:
        pixels: uint8 (H, W, 3) or (H, W).
        width: new width in pixels.
        height: new height in pixels.
        resample: nearest, bilinear, bicubic, lanczos or box.

    Returns:
        uint8 (height, width, 3) or (height, width); a new array even where the size is unchanged.

    Raises:
        SettingsError: unknown filter or a side below 1.
    """
    _check_size(width, height)
    chosen = _filter(resample)
    if pixels.shape[:2] == (height, width):
        return pixels.copy()
    return np.array(Image.fromarray(pixels).resize((width, height), chosen))


def resize_plane(
    plane: NDArray[np.floating], width: int, height: int, *, resample: Resample = "bilinear"
) -> NDArray[np.float32]:
    """Resize a real-valued plane (a heat map, a soft mask).

    Args:
        plane: floating (h, w), finite.
        width: new width.
        height: new height.
        resample: as in ``resize``; ``bicubic`` and ``lanczos`` may overshoot the input's range.

    Returns:
        float32 (height, width), a new array.

    Raises:
        SettingsError: unknown filter or a side below 1.
    """
    _check_size(width, height)
    chosen = _filter(resample)
    plane32 = np.ascontiguousarray(plane, dtype=np.float32)
    if plane32.shape == (height, width):
        return plane32.copy()
    return np.array(Image.fromarray(plane32).resize((width, height), chosen), dtype=np.float32)


def thumbnail(pixels: Pixels, side: int, *, resample: Resample = "lanczos") -> Pixels:
    """Shrink so that the longer side is at most ``side``; never enlarges, never drops a side to zero.

    Args:
        pixels: uint8 (H, W, 3).
        side: longest side allowed, in pixels.
        resample: as in ``resize``.

    Returns:
        uint8 (h, w, 3).

    Raises:
        SettingsError: unknown filter or a side below 1.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale == 1.0:
        return pixels
    _check_size(side, side)
    return resize(pixels, max(1, round(width * scale)), max(1, round(height * scale)), resample=resample)
