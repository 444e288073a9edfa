"""Encoding pixels that we hold, and decoding bytes that we encoded ourselves: no limits, no metadata."""

from __future__ import annotations

from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmforensics.errors import Defect, SettingsError
from vlmforensics.imaging.resample import thumbnail
from vlmforensics.types import Pixels

Format = Literal["JPEG", "PNG", "WEBP"]
Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]
_TRUSTED = ("JPEG", "PNG", "WEBP")
_SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")


def encode(
    pixels: Pixels,
    format: Format = "JPEG",
    *,
    quality: int = 90,
    subsampling: Subsampling = "4:2:0",
    progressive: bool = False,
    optimise: bool = False,
    lossless: bool = False,
) -> bytes:
    """Encode without any metadata: the same pixels and arguments always give the same bytes.

    Args:
        pixels: uint8 (H, W, 3) or (H, W).
        format: JPEG, PNG or WEBP.
        quality: 1..100 of JPEG and lossy WebP (libjpeg's and libwebp's own scales); PNG ignores it.
        subsampling: chroma subsampling of JPEG.
        progressive: several scans (JPEG).
        optimise: Huffman tables made for this picture (JPEG), stronger compression (PNG).
        lossless: WebP's lossless mode, exact to the pixel.

    Returns:
        The file's bytes.

    Raises:
        SettingsError: unknown format or subsampling, or a quality out of range.
        Defect: the array is no picture.
    """
    if format not in _TRUSTED:
        raise SettingsError(f"can't encode {format!r}; known: {', '.join(_TRUSTED)}")
    if not 1 <= quality <= 100:
        raise SettingsError(f"quality must lie in 1..100, not {quality}")
    if subsampling not in _SUBSAMPLINGS:
        raise SettingsError(f"unknown subsampling {subsampling!r}; known: {', '.join(_SUBSAMPLINGS)}")
    image, buffer = _image(pixels), BytesIO()
    if format == "JPEG":
        image.save(
            buffer,
            "JPEG",
            quality=quality,
            subsampling=subsampling,
            progressive=progressive,
            optimize=optimise,
        )
    elif format == "PNG":
        image.save(buffer, "PNG", optimize=optimise)
    else:
        image.save(buffer, "WEBP", quality=quality, lossless=lossless, exact=True)
    return buffer.getvalue()


def decode_trusted(data: bytes) -> Pixels:
    """Decode bytes that this program encoded itself, in this process and without limits.

    For augmentation and training caches only: bytes from elsewhere go through ``open_case``.

    Args:
        data: a JPEG, PNG or WebP made by ``encode``.

    Returns:
        uint8 (H, W, 3), writable.
    """
    with Image.open(BytesIO(data), formats=_TRUSTED) as image:
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def to_png(array: NDArray[np.uint8]) -> bytes:
    """Encode as PNG, exact to the pixel, fast rather than small.

    Args:
        array: uint8 (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey.

    Returns:
        The file's bytes.

    Raises:
        Defect: another shape or type.
    """
    buffer = BytesIO()
    _image(array).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def to_jpeg_preview(pixels: Pixels, side: int = 1024, quality: int = 85) -> bytes:
    """A JPEG for showing: longest side at most ``side`` pixels, never enlarged.

    Args:
        pixels: uint8 (H, W, 3).
        side: longest side in pixels.
        quality: 1..100.

    Returns:
        The file's bytes.
    """
    return encode(thumbnail(pixels, side), "JPEG", quality=quality)


def _image(array: NDArray[np.uint8]) -> Image.Image:
    """Wrap as a Pillow image after checking that it is one of grey, RGB, RGBA."""
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shaped or 0 in array.shape:
        raise Defect(
            f"can't encode an array of {array.dtype} {array.shape}: want uint8 (H, W), (H, W, 3) or (H, W, 4)"
        )
    return Image.fromarray(np.ascontiguousarray(array))
