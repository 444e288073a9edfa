"""``open_case``: from a path, bytes or a Pillow image to a ``CaseImage``."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlmforensics.errors import CorruptImage, InputError, UnreadableFile, UnsupportedImage
from vlmforensics.imaging.decode import Decoded, Job, orient
from vlmforensics.imaging.exif import read_exif, read_iptc
from vlmforensics.imaging.header import MAX_EXIF, MAX_XMP, Header
from vlmforensics.imaging.preflight import check_size, preflight, too_many_bytes
from vlmforensics.imaging.sandbox import decode_safely
from vlmforensics.imaging.sniff import EXTENSIONS, sniff
from vlmforensics.imaging.text import clean
from vlmforensics.settings import Settings
from vlmforensics.types import CaseImage, Container

if TYPE_CHECKING:
    from PIL import Image

_URL = re.compile(r"(?i)^((https?|ftp|file|s3|gs)://|data:[\w/.+-]*[,;])")
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_TIFF_MODES = frozenset({"CMYK", "F", "I", "LAB", "YCbCr"})


def open_case(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image,
    *,
    file: str | None = None,
    settings: Settings | None = None,
) -> CaseImage:
    """Open a picture: the only way in.

    Args:
        source: a path, the file's bytes, or a Pillow image (which is encoded losslessly first, and noted).
        file: the label for reports; by default the path as given, ``<bytes>`` or ``<image>``.
        settings: limits; defaults where None.

    Returns:
        The bytes untouched, the facts around the pixels, and the pixels in the stored and the upright
        frame. The arrays are read-only, and one array serves both frames where they are equal.

    Raises:
        UnreadableFile: no such file, a folder, a pipe or device, no permission, empty.
        UnsupportedImage: not a picture of an allowed format.
        CorruptImage: damaged, cut short, or its decoder crashed.
        LimitExceeded: over a limit of ``settings``.
    """
    settings = settings or Settings()
    label = _label(source, file)
    notes: list[str] = []
    try:
        if isinstance(source, str | os.PathLike):
            data = _read_file(os.fsdecode(source), settings)
        elif isinstance(source, bytes | bytearray | memoryview):
            data = _bounded_bytes(source, settings)
        else:
            data = _encode_image(source, settings, notes)
        return _open(data, label, settings, notes)
    except InputError as error:
        error.file = label
        raise


def _label(source: Any, file: str | None) -> str:
    if file is not None:
        text = file
    elif isinstance(source, str | os.PathLike):
        text = os.fsdecode(os.fspath(source))
    else:
        text = "<bytes>" if isinstance(source, bytes | bytearray | memoryview) else "<image>"
    # A name of undecodable bytes holds surrogates, which no JSON or terminal can carry.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _open(data: bytes, label: str, settings: Settings, notes: list[str]) -> CaseImage:
    format_name = sniff(data)
    header = preflight(data, format_name, settings)
    exif = read_exif(header.exif) if header.exif is not None else None
    orientation = exif.orientation if exif is not None else 1
    if header.orientation is not None:
        orientation = header.orientation
    job = Job(format_name, header.width, header.height, header.bit_depth, orientation, settings.max_pixels)
    decoded = decode_safely(data, job, settings)
    if decoded.exif is not None:
        header.keep_exif(decoded.exif[: MAX_EXIF + 8])
        exif = read_exif(header.exif) if header.exif is not None else None
    if decoded.xmp is not None:
        header.keep_xmp(decoded.xmp)
    if decoded.orientation is not None:
        orientation = decoded.orientation
    if decoded.frames is not None:
        header.frames = max(1, decoded.frames)
    notes += _notes(label, header, decoded)
    container = Container(
        format=format_name,
        mode=decoded.mode,
        bit_depth=decoded.bit_depth or header.bit_depth,
        exif=exif.tags if exif is not None else {},
        xmp=clean(header.xmp, MAX_XMP) if header.xmp is not None else None,
        text=header.text,
        iptc=read_iptc(header.iptc) if header.iptc is not None else {},
        icc=decoded.icc,
        thumbnail=exif.thumbnail if exif is not None else None,
        trailing_bytes=header.trailing,
        frames=header.frames,
        jpeg=header.jpeg,
    )
    if exif is not None:
        notes += exif.notes
    shown = decoded.stored if decoded.shown is None else decoded.shown
    return CaseImage(
        file=label,
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        container=container,
        upright=_frozen(orient(shown, orientation)),
        stored=_frozen(decoded.stored),
        orientation=orientation,
        alpha=None if decoded.alpha is None else _frozen(orient(decoded.alpha, orientation)),
        notes=tuple(notes),
    )


def _frozen(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Contiguous and read-only: evidence must not be drawn on, and one array may serve two frames."""
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array


def _notes(label: str, header: Header, decoded: Decoded) -> list[str]:
    notes = [*header.notes, *decoded.notes]
    suffix = Path(label).suffix.lower().lstrip(".")
    known = {extension for extensions in EXTENSIONS.values() for extension in extensions}
    if suffix in known and suffix not in EXTENSIONS[header.format]:
        notes.append(f"The name ends in .{suffix}, but the content is {header.format}.")
    if header.frames > 1:
        notes.append(f"The file holds {header.frames} frames or pages; only the first was examined.")
    if header.trailing:
        notes.append(f"{header.trailing:,} bytes follow the end of the picture.")
    if header.bit_depth > 8 and decoded.mode in ("RGB", "RGBA"):
        notes.append(f"Channels of {header.bit_depth} bits were reduced to 8 by the decoder.")
    return notes


def _read_file(path: str, settings: Settings) -> bytes:
    """Read a regular file whole; folders, pipes, devices and sockets are refused before they can block."""
    if _URL.match(path):
        raise UnsupportedImage(
            "addresses are not fetched; download the picture and give its path", code="img.url"
        )
    flags = (
        os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    )
    try:
        _check_regular(Path(path).stat(), settings)
        descriptor = os.open(path, flags | getattr(os, "O_NOCTTY", 0))
        with os.fdopen(descriptor, "rb", 0) as stream:
            found = os.fstat(descriptor)  # the name may point elsewhere by now
            _check_regular(found, settings)
            data = _read_bounded(stream, found.st_size, settings.max_bytes)
    except FileNotFoundError as error:
        raise UnreadableFile("there is no such file; check the path", code="img.missing") from error
    except PermissionError as error:
        raise UnreadableFile("no permission to read the file", code="img.permission") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableFile(f"the file can't be read: {reason}") from error
    if len(data) > settings.max_bytes:
        raise too_many_bytes(len(data), settings)
    return data


def _check_regular(found: os.stat_result, settings: Settings) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise UnreadableFile("this is a folder; give a file, or use the batch command", code="img.folder")
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableFile("this is a pipe, socket or device, not a file", code="img.special")
    if found.st_size > settings.max_bytes:
        raise too_many_bytes(found.st_size, settings)


def _read_bounded(stream: Any, size: int, max_bytes: int) -> bytes:
    """Read to the end, at most one byte over the limit, also where the file grows meanwhile."""
    pieces, total = [], 0
    while total <= max_bytes:
        piece = stream.read(min(max(size - total, 0) + 1, max_bytes + 1 - total))
        if not piece:
            break
        pieces.append(piece)
        total += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _bounded_bytes(source: bytes | bytearray | memoryview, settings: Settings) -> bytes:
    size = source.nbytes if isinstance(source, memoryview) else len(source)
    if size > settings.max_bytes:
        raise too_many_bytes(size, settings)
    return bytes(source)


def _encode_image(image: Any, settings: Settings, notes: list[str]) -> bytes:
    """Encode a Pillow image losslessly: what the caller holds are pixels, and a case needs bytes."""
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise UnreadableFile(
            f"give a path, bytes or a Pillow image, not {type(image).__name__}", code="img.source"
        )
    check_size(*image.size, settings)
    buffer = BytesIO()
    try:
        if image.mode not in _PNG_MODES | _TIFF_MODES:
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        name = "PNG" if image.mode in _PNG_MODES else "TIFF"
        orientation = image.getexif().get(0x0112, 1)
        options: dict[str, Any] = {"icc_profile": image.info.get("icc_profile")}
        if orientation in range(2, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            options["exif"] = exif
        options.update({"compress_level": 1} if name == "PNG" else {"compression": "tiff_deflate"})
        image.save(buffer, name, **{key: value for key, value in options.items() if value is not None})
    except (OSError, ValueError, KeyError, SyntaxError, TypeError, AttributeError) as error:
        raise CorruptImage(f"the Pillow image can't be encoded: {clean(str(error), 200)}") from error
    notes.append(
        f"The picture was given as pixels in memory and encoded as {name}: its file and history are unknown."
    )
    return _bounded_bytes(buffer.getvalue(), replace(settings, max_bytes=max(settings.max_bytes, 1 << 30)))
