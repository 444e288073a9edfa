"""PNG, WebP, GIF and BMP from their chunks and headers, without decoding."""

from __future__ import annotations

import struct
import zlib

from vlmforensics.imaging.header import MAX_CHUNK_TEXT, MAX_XMP, Header, corrupt, truncated
from vlmforensics.imaging.text import clean

_XMP_KEY = "XML:com.adobe.xmp"


def read_png(data: bytes, header: Header) -> None:
    """Walk a PNG's chunks; checksums of critical chunks are verified.

    Raises:
        CorruptImage: cut short, wrong checksum, no IHDR or no picture data.
    """
    at, has_data = 8, False
    while True:
        if at + 12 > len(data):
            raise truncated("its end chunk is missing")
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 8 + size
        header.count_piece()
        if end + 4 > len(data):
            raise truncated(f"its {kind.decode('latin-1')!r} chunk runs over the end")
        if at == 8 and (kind != b"IHDR" or size != 13):
            raise corrupt("it does not begin with a PNG header")
        critical = not kind[0] & 0x20
        if critical and zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            raise corrupt(f"the checksum of a {kind.decode('latin-1')!r} chunk is wrong")
        if kind == b"IHDR" and at == 8:
            header.width, header.height, header.bit_depth = struct.unpack_from(">IIB", data, at + 8)
        elif kind == b"IDAT":
            has_data = True
        else:
            _png_extra(header, kind, data[at + 8 : end] if kind in _PNG_KEPT else b"")
        at = end + 4
        if kind == b"IEND":
            break
    if not has_data:
        raise corrupt("it holds no picture data")
    header.trailing = len(data) - at


_PNG_KEPT = frozenset({b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"acTL"})


def _png_extra(header: Header, kind: bytes, body: bytes) -> None:
    if kind == b"eXIf":
        header.keep_exif(body)
    elif kind == b"acTL" and len(body) >= 8:
        header.frames = max(1, int.from_bytes(body[:4], "big"))
    elif kind in (b"tEXt", b"zTXt", b"iTXt") and header.takes_text:
        key, value = _png_text(kind, body)
        if key == _XMP_KEY:
            header.keep_xmp(value)
        else:
            header.keep_text(clean(key, 80), clean(value, MAX_CHUNK_TEXT))


def _png_text(kind: bytes, body: bytes) -> tuple[str, bytes]:
    """Split a text chunk into key and raw value; what does not decompress becomes a note in the value."""
    raw_key, _, rest = body.partition(b"\x00")
    key = raw_key[:80].decode("latin-1")
    compressed = kind == b"zTXt"
    if kind == b"zTXt":
        rest = rest[1:]
    elif kind == b"iTXt":
        compressed, rest = rest[:1] == b"\x01", rest[2:]
        rest = rest.partition(b"\x00")[2].partition(b"\x00")[2]  # language tag, translated key
    if not compressed:
        return key, rest
    cap = MAX_XMP if key == _XMP_KEY else MAX_CHUNK_TEXT
    try:
        return key, zlib.decompressobj().decompress(rest, cap)
    except zlib.error:
        return key, f"<{len(rest)} bytes that do not decompress>".encode()


def read_webp(data: bytes, header: Header) -> None:
    """Walk a WebP's RIFF chunks; the canvas comes from VP8X, else from the only frame.

    Raises:
        CorruptImage: cut short or without a frame.
    """
    at, has_data = 12, False
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise truncated("the container is longer than the file")
    canvas = animated = False
    frames = 0
    while at + 8 <= end:
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = at + 8
        header.count_piece()
        if body + size > end:
            raise truncated(f"its {kind.decode('latin-1')!r} chunk runs over the end")
        if kind == b"VP8X" and size >= 10 and at == 12:
            canvas, animated = True, bool(data[body] & 2)
            header.width = 1 + int.from_bytes(data[body + 4 : body + 7], "little")
            header.height = 1 + int.from_bytes(data[body + 7 : body + 10], "little")
        elif kind in (b"VP8 ", b"VP8L"):
            has_data = True
            if not canvas:
                header.width, header.height = _webp_frame(kind, data, body, size)
        elif kind == b"ANMF":
            has_data, frames = True, frames + 1
        elif kind == b"EXIF":
            header.keep_exif(data[body : body + size])
        elif kind == b"XMP ":
            header.keep_xmp(data[body : body + size])
        at = body + size + (size & 1)
    if not has_data:
        raise corrupt("it holds no picture data")
    header.frames = max(1, frames) if animated else 1
    header.trailing = len(data) - end


def _webp_frame(kind: bytes, data: bytes, at: int, size: int) -> tuple[int, int]:
    """Width and height from a frame's own header (RFC 6386 section 9.1; WebP lossless, section 3)."""
    if kind == b"VP8 " and size >= 10 and data[at + 3 : at + 6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, at + 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and size >= 5 and data[at] == 0x2F:
        bits = int.from_bytes(data[at + 1 : at + 5], "little")
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    raise corrupt("its frame header is malformed")


def read_gif(data: bytes, header: Header) -> None:
    """Walk a GIF's blocks and count its frames.

    Raises:
        CorruptImage: cut short or without a frame.
    """
    if len(data) < 13:
        raise truncated("it ends inside its header")
    header.width, header.height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _colour_table(flags)
    frames = 0
    while True:
        kind = data[at : at + 1]
        if kind == b"\x3b":
            break
        if kind == b"\x21":
            at = _gif_extension(header, data, at)
        elif kind == b"\x2c" and at + 10 <= len(data):
            left, top, width, height, flags = struct.unpack_from("<HHHHB", data, at + 1)
            if frames == 0:  # viewers widen the screen to the first frame
                header.width, header.height = (
                    max(header.width, left + width),
                    max(header.height, top + height),
                )
            frames += 1
            at = _gif_blocks(header, data, at + 11 + _colour_table(flags))
        elif not kind or kind == b"\x2c":
            raise truncated("its end mark is missing")
        else:
            raise corrupt("an unknown GIF block")
    if not frames:
        raise corrupt("it holds no picture data")
    header.frames = frames
    header.trailing = len(data) - at - 1


def _colour_table(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_blocks(header: Header, data: bytes, at: int) -> int:
    """Skip sub-blocks; returns the offset behind their terminator."""
    total = len(data)
    while at < total:
        header.count_piece()
        size = data[at]
        at += 1 + size
        if size == 0:
            return at
    raise truncated("a GIF block runs over the end")


def _gif_extension(header: Header, data: bytes, at: int) -> int:
    label = data[at + 1 : at + 2]
    end = _gif_blocks(header, data, at + 2)
    if label == b"\xfe":
        body, position = bytearray(), at + 2
        while data[position] and len(body) < MAX_CHUNK_TEXT:
            body += data[position + 1 : position + 1 + data[position]]
            position += 1 + data[position]
        header.keep_text("comment", clean(bytes(body)))
    elif label == b"\xff" and data[at + 3 : at + 14] == b"XMP DataXMP":
        # The packet stands raw, followed by 257 bytes that steer readers of sub-blocks to the end.
        header.keep_xmp(data[at + 14 : max(at + 14, end - 258)])
    return end


def read_bmp(data: bytes, header: Header) -> None:
    """Read a BMP's headers and check that its rows are there.

    Raises:
        CorruptImage: cut short or contradictory.
    """
    if len(data) < 26:
        raise truncated("it ends inside its header")
    declared, first, info = *struct.unpack_from("<I", data, 2), *struct.unpack_from("<II", data, 10)
    if info == 12:
        header.width, header.height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        if len(data) < 14 + info:
            raise truncated("it ends inside its header")
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        if width <= 0:
            raise corrupt("its width is not positive")
        header.width, header.height = width, abs(height)  # negative: rows from the top
    header.bit_depth = {16: 5}.get(bits, 8)
    rows = (header.width * bits + 31) // 32 * 4 * header.height if compression in (0, 3, 6) else 0
    if first + rows > len(data):
        raise truncated("rows are missing")
    header.trailing = max(0, len(data) - max(declared, first + rows)) if rows else 0
