"""Third step: from bytes to pixels by Pillow, in the worker process (or in this one, sandbox off)."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from vlmforensics.errors import CorruptImage, InputError, LimitExceeded, UnsupportedImage
from vlmforensics.imaging.text import clean
from vlmforensics.types import Pixels

_PLUGINS = {
    "JPEG": ("JPEG", "PIL.JpegImagePlugin"),
    "PNG": ("PNG", "PIL.PngImagePlugin"),
    "WEBP": ("WEBP", "PIL.WebPImagePlugin"),
    "TIFF": ("TIFF", "PIL.TiffImagePlugin"),
    "BMP": ("BMP", "PIL.BmpImagePlugin"),
    "GIF": ("GIF", "PIL.GifImagePlugin"),
    "AVIF": ("AVIF", "PIL.AvifImagePlugin"),
    "HEIC": ("HEIF", "pillow_heif"),
}
_GREY = 128
_BOXED = ("AVIF", "HEIC")  # their decoders rotate and crop, so the declared size is not the decoded one
_PNG_TEXT = 16 << 20
_globals = threading.Lock()


@dataclass(frozen=True)
class Job:
    """What the decoder is told: facts of preflight and limits."""

    format: str
    width: int
    height: int
    bit_depth: int
    orientation: int
    max_pixels: int

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass
class Decoded:
    """What came out; all arrays in the stored frame and of one size.

    Attributes:
        mode: Pillow's mode before conversion.
        stored: uint8 (h, w, 3), no colour management, alpha ignored.
        shown: uint8 (h, w, 3) with profile and alpha applied, or None where that is ``stored``.
        alpha: uint8 (h, w), or None where opaque.
        icc: description of the embedded profile, or None.
        frames: as the decoder counts them, or None where preflight knows better.
        bit_depth: as the decoder says, or None.
        orientation: 1..8 where the decoder knows better than EXIF, else None.
        exif: EXIF block of formats that preflight does not read (AVIF, HEIC).
        xmp: XMP packet of those.
        notes: conversions, one sentence each.
    """

    mode: str
    stored: Pixels
    shown: Pixels | None = None
    alpha: NDArray[np.uint8] | None = None
    icc: str | None = None
    frames: int | None = None
    bit_depth: int | None = None
    orientation: int | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    notes: list[str] = field(default_factory=list)


@contextmanager
def _strict(max_pixels: int) -> Iterator[None]:
    """Set Pillow's process-wide switches for one decode, and put them back.

    ``LOAD_TRUNCATED_IMAGES`` may have been set by another library in this process; a warning of a
    decompression bomb is an error. The switches are global, hence the lock.
    """
    with _globals, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def decode(data: bytes, job: Job) -> Decoded:
    """Decode the first frame of a file that passed preflight.

    Args:
        data: the whole file.
        job: what preflight found.

    Returns:
        Pixels in the stored frame and what the decoder knew.

    Raises:
        CorruptImage: it does not decode whole, or to another size than declared.
        UnsupportedImage: a variant without meaning as a picture (floating point with holes).
        LimitExceeded: over the memory or pixel limit.
    """
    with _strict(job.max_pixels):
        try:
            return _decode(data, job)
        except InputError:
            raise
        except MemoryError as error:
            raise LimitExceeded(
                "decoding needs more memory than is allowed (setting decode_bytes)", code="img.memory"
            ) from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise LimitExceeded("the picture unpacks to more pixels than allowed", code="img.bomb") from error
        except Exception as error:  # boundary: decoders raise a dozen types on hostile bytes
            raise _undecodable(error) from error


def _undecodable(error: Exception) -> CorruptImage:
    said = clean(str(error), 200).replace("\n", " ") or type(error).__name__
    if "truncated" in said or "not enough" in said:
        return CorruptImage(
            "the picture's data end too early; the file was not copied or downloaded whole",
            code="img.truncated",
        )
    return CorruptImage(f"the picture does not decode ({said}); the file is damaged")


def _decode(data: bytes, job: Job) -> Decoded:
    pillow_name, module = _PLUGINS[job.format]
    plugin = import_module(module)  # one decoder, not all of Pillow's forty-three
    if job.format == "HEIC":
        plugin.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    elif job.format == "PNG":
        vars(plugin)["MAX_TEXT_CHUNK"] = _PNG_TEXT
    with Image.open(BytesIO(data), formats=(pillow_name,)) as image:
        turned = job.format == "TIFF" and job.orientation >= 5
        size = (job.height, job.width) if turned else (job.width, job.height)
        if job.format not in _BOXED and image.size != size:
            raise CorruptImage(
                f"the file is damaged: its header says {size[0]}×{size[1]}, "
                f"its data {image.size[0]}×{image.size[1]}",
                code="img.size",
            )
        if image.size[0] * image.size[1] > job.max_pixels:
            raise LimitExceeded("the picture unpacks to more pixels than allowed", code="img.bomb")
        mode, icc = image.mode, image.info.get("icc_profile")
        image.load()
        decoded = canonical(image, job, icc if isinstance(icc, bytes) else None)
        decoded.mode = mode
        if job.format in _BOXED:
            _boxed_facts(image, job, decoded)
    return decoded


def _boxed_facts(image: Image.Image, job: Job, decoded: Decoded) -> None:
    """Take from the decoder what lies in boxes that preflight does not read."""
    decoded.frames = int(getattr(image, "n_frames", 1))
    exif, xmp = image.info.get("exif"), image.info.get("xmp")
    decoded.exif = exif if isinstance(exif, bytes) and exif else None
    decoded.xmp = xmp.encode() if isinstance(xmp, str) else xmp if isinstance(xmp, bytes) and xmp else None
    if job.format == "HEIC":
        decoded.orientation = 1
        if (image.info.get("original_orientation") or 1) != 1:
            decoded.notes.append(
                "The HEIC decoder turned the picture upright; the stored frame is upright as well."
            )
        depth = image.info.get("bit_depth")
        decoded.bit_depth = depth if isinstance(depth, int) else None
    else:
        turned = image.getexif().get(0x0112, 1)
        decoded.orientation = turned if turned in range(1, 9) else 1


def canonical(image: Image.Image, job: Job, icc: bytes | None) -> Decoded:
    """Fourth step: bring a loaded image to 8-bit sRGB, every conversion on purpose and noted."""
    notes: list[str] = []
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        image = Image.fromarray(_eight_bits(image, job, notes))
    alpha: NDArray[np.uint8] | None = None
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
        alpha = np.array(image.getchannel("A"))
        image = image.convert("L" if image.mode == "LA" else "RGB")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode == "CMYK":
        notes.append("CMYK inks were converted to RGB for the stored frame by formula, without a profile.")
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    stored = np.array(rgb)
    description, managed = None, None
    if icc:
        from vlmforensics.imaging.colour import to_srgb

        description, managed = to_srgb(image, icc, notes)
    shown: Pixels | None = None if managed is None else np.array(managed)
    if alpha is not None:
        if (alpha == 255).all():
            alpha = None
        else:
            grey = Image.new("RGB", rgb.size, (_GREY,) * 3)
            shown = np.array(Image.composite(managed or rgb, grey, Image.fromarray(alpha)))
            notes.append(_alpha_note(stored, alpha))
    decoded = Decoded(mode=mode, stored=stored, shown=shown, alpha=alpha, icc=description, notes=notes)
    if job.format == "TIFF" and job.orientation != 1:
        # Pillow turns TIFF upright when loading; the stored frame is what the file holds.
        decoded.stored = np.ascontiguousarray(unorient(decoded.stored, job.orientation))
        if decoded.shown is not None:
            decoded.shown = np.ascontiguousarray(unorient(decoded.shown, job.orientation))
        if decoded.alpha is not None:
            decoded.alpha = np.ascontiguousarray(unorient(decoded.alpha, job.orientation))
    return decoded


def _alpha_note(stored: Pixels, alpha: NDArray[np.uint8]) -> str:
    hidden = alpha == 0
    said = f"Transparency ({float((alpha < 255).mean()):.1%} of the pixels) was laid on mid-grey"
    if hidden.any():
        first = stored[np.unravel_index(int(hidden.argmax()), hidden.shape)]
        if (hidden & (stored != first).any(axis=2)).any():
            return f"{said}; invisible pixels hold hidden colours, kept in the stored frame."
    return f"{said}; the stored frame ignores it."


def _eight_bits(image: Image.Image, job: Job, notes: list[str]) -> NDArray[np.uint8]:
    """Scale grey of more than 8 bits, or of floating point, to 0..255 explicitly (Pillow would clip)."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        top = (1 << job.bit_depth) - 1 if 8 < job.bit_depth <= 16 else 65535
        notes.append(f"Grey values of {job.bit_depth} bits were scaled from 0..{top} to 0..255.")
        scaled = _scaled(values, 0.0, float(top))
    else:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UnsupportedImage(
                "the picture holds floating-point values that are not finite; export it as 8 or 16 bits",
                code="img.float",
            )
        low, high = float(values.min()), float(values.max())
        if values.dtype.kind == "f" and low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        elif values.dtype.kind == "i" and low >= 0 and high <= 65535 and job.bit_depth <= 16:
            low, high = 0.0, 65535.0
        scaled = _scaled(values, low, high)
        notes.append(f"Values of type {image.mode} were scaled from {low:g}..{high:g} to 0..255.")
    tags = getattr(image, "tag_v2", None)
    if tags is not None and tags.get(262) == 0 and image.mode.startswith("I;16"):
        return np.subtract(255, scaled, dtype=np.uint8)  # white is zero, which Pillow leaves as it is here
    return scaled


def _scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Map low..high to 0..255, in bands of rows so that a large picture takes little more than itself."""
    out = np.empty(values.shape, np.uint8)
    rows = max(1, (1 << 20) // values.shape[1])
    factor = 255.0 / ((high - low) or 1.0)
    for start in range(0, len(values), rows):
        band = (values[start : start + rows].astype(np.float64) - low) * factor
        out[start : start + rows] = np.clip(np.rint(band), 0, 255)
    return out


def orient(array: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn from the stored to the upright frame (a view; EXIF 2.32, tag 0x0112)."""
    match orientation:
        case 2:
            return array[:, ::-1]
        case 3:
            return array[::-1, ::-1]
        case 4:
            return array[::-1]
        case 5:
            return array.swapaxes(0, 1)
        case 6:
            return array.swapaxes(0, 1)[:, ::-1]
        case 7:
            return array[::-1, ::-1].swapaxes(0, 1)
        case 8:
            return array.swapaxes(0, 1)[::-1]
        case _:
            return array


def unorient(array: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn from the upright to the stored frame: all are their own inverse but the two quarter turns."""
    return orient(array, {6: 8, 8: 6}.get(orientation, orientation))
