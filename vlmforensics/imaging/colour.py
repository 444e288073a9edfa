"""Embedded ICC profiles: described, checked, and applied for display only."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from vlmforensics.imaging.text import clean

MAX_PROFILE = 4 << 20
"""Bytes of a profile that is applied; a press profile takes up to 3 MiB."""
_SPACES = {"RGB": b"RGB ", "L": b"GRAY", "CMYK": b"CMYK"}
_CLASSES = (b"mntr", b"scnr", b"prtr", b"spac")


def to_srgb(image: Image.Image, profile: bytes, notes: list[str]) -> tuple[str | None, Image.Image | None]:
    """Convert to sRGB by the embedded profile, perceptual intent.

    Args:
        image: RGB, L or CMYK.
        profile: the embedded ICC profile.
        notes: gets a sentence about what was done, or why nothing was.

    Returns:
        The profile's description, or None; and the converted RGB image, or None where nothing changes: the
        profile is sRGB to within one step, does not fit, or does not work.
    """
    problem = _problem(image.mode, profile)
    if problem:
        notes.append(f"The embedded colour profile was ignored: {problem}.")
        return None, None
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        description = clean(ImageCms.getProfileDescription(source), 200).strip() or "unnamed"
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), image.mode, "RGB", ImageCms.Intent.PERCEPTUAL
        )
        if image.mode == "RGB" and _is_identity(transform):
            return description, None
        converted = ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        notes.append(f"The embedded colour profile was ignored: it does not work ({clean(str(error), 100)}).")
        return None, None
    notes.append(f"Colours were converted from the embedded profile “{description}” to sRGB for display.")
    return description, converted


def _problem(mode: str, profile: bytes) -> str | None:
    """Say what is wrong with a profile's header (ICC.1:2022, 7.2), or None."""
    if len(profile) > MAX_PROFILE:
        return f"it has {len(profile):,} bytes"
    if len(profile) < 132 or profile[36:40] != b"acsp" or int.from_bytes(profile[:4], "big") > len(profile):
        return "it is damaged"
    if profile[12:16] not in _CLASSES:
        return "it is not a display, input, output or colour-space profile"
    if profile[16:20] != _SPACES[mode]:
        return "it describes another colour space than the picture's"
    return None


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a transform moves no colour of a 9×9×9 grid by more than one step: it is sRGB already."""
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(27, 27, 3)
    moved = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), transform)).astype(np.int16)
    return int(np.abs(moved - grid).max()) <= 1
