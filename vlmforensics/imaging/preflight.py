"""Second step: what the bytes declare, and whether it is within the limits. No decoder runs here."""

from __future__ import annotations

import struct

from vlmforensics.errors import CorruptImage, LimitExceeded
from vlmforensics.imaging.bmff import read_bmff
from vlmforensics.imaging.chunked import read_bmp, read_gif, read_png, read_webp
from vlmforensics.imaging.header import Header
from vlmforensics.imaging.jpegfile import read_jpeg
from vlmforensics.imaging.tifffile import read_tiff
from vlmforensics.settings import Settings


def preflight(data: bytes, format_name: str, settings: Settings) -> Header:
    """Read the headers of a file of a known format and apply the limits.

    Args:
        data: the whole file.
        format_name: as ``sniff`` found it.
        settings: whose limits apply.

    Returns:
        The header facts.

    Raises:
        LimitExceeded: too many bytes, pixels, frames, too long a side, too long and thin.
        CorruptImage: cut short or contradictory.
        UnsupportedImage: a variant that is not examined.
    """
    if len(data) > settings.max_bytes:
        raise too_many_bytes(len(data), settings)
    header = Header(format_name)
    try:
        _read(data, header, settings)
    except CorruptImage:
        if header.width and header.height:
            check_size(header.width, header.height, settings)  # of two faults, the limit is the clearer one
        raise
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise CorruptImage(f"the file is damaged: its {format_name} structure can't be read") from error
    check_size(header.width, header.height, settings)
    if header.frames > settings.max_frames:
        raise LimitExceeded(
            f"the file has {header.frames:,} frames, over the limit of {settings.max_frames:,} "
            "(setting max_frames)",
            code="img.limit.frames",
        )
    return header


def _read(data: bytes, header: Header, settings: Settings) -> None:
    match header.format:
        case "JPEG":
            read_jpeg(data, header)
        case "PNG":
            read_png(data, header)
        case "WEBP":
            read_webp(data, header)
        case "TIFF":
            read_tiff(data, header, settings.max_frames)
        case "GIF":
            read_gif(data, header)
        case "BMP":
            read_bmp(data, header)
        case _:
            read_bmff(data, header)


def too_many_bytes(size: int, settings: Settings) -> LimitExceeded:
    """The error for a file over ``max_bytes``."""
    return LimitExceeded(
        f"the file has {size:,} bytes, over the limit of {settings.max_bytes:,} (setting max_bytes)",
        code="img.limit.bytes",
    )


def check_size(width: int, height: int, settings: Settings) -> None:
    """Apply the limits of side, pixels and aspect.

    Raises:
        CorruptImage: a side is zero.
        LimitExceeded: over a limit.
    """
    if width < 1 or height < 1:
        raise CorruptImage(f"the file is damaged: its size is {width}×{height}")
    said = f"the picture is {width:,}×{height:,} pixels"
    if max(width, height) > settings.max_side:
        raise LimitExceeded(
            f"{said}, over the limit of {settings.max_side:,} a side (setting max_side)",
            code="img.limit.side",
        )
    if width * height > settings.max_pixels:
        raise LimitExceeded(
            f"{said}, over the limit of {settings.max_pixels:,} pixels (setting max_pixels)",
            code="img.limit.pixels",
        )
    if max(width, height) > settings.max_aspect * min(width, height):
        raise LimitExceeded(
            f"{said}, longer and thinner than 1:{settings.max_aspect:g} (setting max_aspect)",
            code="img.limit.aspect",
        )
