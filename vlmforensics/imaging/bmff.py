"""AVIF and HEIC: the boxes around the pictures, read just far enough to know their sizes.

References:
    ISO/IEC 14496-12 (boxes), 23008-12 (``ispe``, ``pixi``).
"""

from __future__ import annotations

from collections.abc import Iterator

from vlmforensics.errors import UnsupportedImage
from vlmforensics.imaging.header import Header, corrupt, truncated

_MAX_BOXES = 4096


def _boxes(
    data: bytes, start: int, end: int, known: frozenset[bytes] | None = None
) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, body start, body end) of the boxes in a range, up to the first that is not ``known``.

    Raises:
        CorruptImage: a box runs over the end of its range.
    """
    at, count = start, 0
    while at + 8 <= end and count < _MAX_BOXES:
        size, kind, body = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if known is not None and kind not in known:
            return
        if size == 1:
            size, body = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        elif size == 0:
            size = end - at
        if size < body - at or at + size > end:
            raise truncated(f"its {kind.decode('latin-1')!r} box runs over the end")
        yield kind, body, at + size
        at, count = at + size, count + 1


_TOP_LEVEL = frozenset({b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip", b"uuid", b"idat", b"styp"})


def read_bmff(data: bytes, header: Header) -> None:
    """Find the largest picture declared (``ispe``) and the depth (``pixi``).

    The size is the largest one and serves the limits; rotation and cropping are the decoder's to apply.

    Raises:
        CorruptImage: cut short, or no picture declared.
        UnsupportedImage: a video in a picture's clothing.
    """
    at, moving = 0, False
    for kind, body, end in _boxes(data, 0, len(data), _TOP_LEVEL):  # what follows is not part of the picture
        at, moving = end, moving or kind == b"moov"
        if kind == b"meta":
            _meta(header, data, body + 4, end)
    header.trailing = len(data) - at
    if moving and not header.width:
        raise UnsupportedImage(
            "this is a sequence without a still picture; export one frame", code="img.video"
        )
    if not header.width or not header.height:
        raise corrupt("it declares no picture size")


def _meta(header: Header, data: bytes, start: int, end: int) -> None:
    for kind, body, stop in _boxes(data, start, end):
        if kind != b"iprp":
            continue
        for inner, inner_body, inner_stop in _boxes(data, body, stop):
            if inner == b"ipco":
                _properties(header, data, inner_body, inner_stop)


def _properties(header: Header, data: bytes, start: int, end: int) -> None:
    for kind, body, stop in _boxes(data, start, end):
        if kind == b"ispe" and stop - body >= 12:
            width, height = (int.from_bytes(data[body + at : body + at + 4], "big") for at in (4, 8))
            if width * height > header.width * header.height:
                header.width, header.height = width, height
        elif kind == b"pixi" and stop - body >= 6 and data[body + 4]:
            header.bit_depth = max(header.bit_depth, min(data[body + 5], 16))
