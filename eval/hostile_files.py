"""Files made to do harm, one by one: bombs, loops, giants, liars, things of two natures, the usual odd sizes.

Where a file unpacks to much, it is made by repeating a small compressed piece, so that making it takes neither memory
nor time.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from vlmforensics.imaging.specimens import exif_block, icc_profile, png, png_chunk, specimens, tiff

MIB = 1 << 20
_XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\x00"
_XMP_MORE = b"http://ns.adobe.com/xmp/extension/\x00"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def hostile_files() -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes), largest some 20 MiB, in a fixed order; the name's first word is the family."""
    known = specimens()
    for maker in FAMILIES.values():
        yield from maker(known)


def segment(code: int, body: bytes) -> bytes:
    """One JPEG segment."""
    return b"\xff" + bytes([code]) + struct.pack(">H", len(body) + 2) + body


def into_jpeg(jpeg: bytes, pieces: bytes) -> bytes:
    """A JPEG with bytes put behind its first marker."""
    return jpeg[:2] + pieces + jpeg[2:]


def into_png(data: bytes, chunks: bytes) -> bytes:
    """A PNG with chunks put behind its header."""
    return data[:33] + chunks + data[33:]


def _zeros(total: int) -> bytes:
    """A zlib stream that unpacks to ``total`` zero bytes, made by repeating the piece of one mebibyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    rest = packer.compress(bytes(total % MIB)) + packer.flush()
    checksum = total % 65521 << 16 | 1  # Adler-32 of zeros
    return b"\x78\xda" + piece * (total // MIB) + rest + checksum.to_bytes(4, "big")


def _bombs(known: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for side in (20_001, 65_535, 2**31 - 1):
        yield f"bomb png {side} a side", png(side, side, 8, 2, b"")
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 6, 0, 0, 0))
    body = png_chunk(b"IDAT", _zeros(9000 * 36001)) + png_chunk(b"IEND", b"")
    yield "bomb png 81 Mpx of zeros", _SIGNATURE + header + body
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
    body = png_chunk(b"IDAT", _zeros(512 * MIB)) + png_chunk(b"IEND", b"")
    yield "bomb png too much data", _SIGNATURE + header + body
    text = png_chunk(b"zTXt", b"parameters\x00\x00" + _zeros(256 * MIB))
    yield "bomb png text", into_png(known["png"], text)
    text = png_chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x01\x00\x00\x00" + _zeros(256 * MIB))
    yield "bomb png xmp", into_png(known["png"], text)
    piece = png_chunk(b"zTXt", b"k\x00\x00" + zlib.compress(b"a" * MIB, 9))
    yield "bomb png texts", into_png(known["png"], piece * (8 * MIB // len(piece)))
    yield "bomb png profile", into_png(known["png"], png_chunk(b"iCCP", b"p\x00\x00" + _zeros(512 * MIB)))
    webp = bytearray(known["webp metadata"])
    at = webp.find(b"VP8X") + 12
    webp[at : at + 6] = b"\xff" * 6
    yield "bomb webp canvas", bytes(webp)
    gif = bytearray(known["gif"])
    gif[6:10] = b"\xff" * 4
    yield "bomb gif screen", bytes(gif)
    yield (
        "bomb gif frames",
        known["gif animated"][:-1] * 1 + known["gif animated"][13 + 768 : -1] * 2000 + b";",
    )
    yield (
        "bomb tiff size",
        tiff(np.zeros((4, 4), np.uint8), extra=((254, 4, 0),)).replace(
            struct.pack("<HHII", 257, 4, 1, 4), struct.pack("<HHII", 257, 4, 1, 10**9)
        ),
    )
    yield "bomb tiff deflate", _tiff_deflate(9000, 9000)
    for name in ("heic", "avif"):
        data = bytearray(known[name])
        at = data.find(b"ispe") + 8
        data[at : at + 8] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
        yield f"bomb {name} size", bytes(data)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(64 * MIB))
    yield "bomb zip", packed.getvalue()
    jpeg = known["jpeg progressive"]
    scan = jpeg.rfind(b"\xff\xda")
    yield "bomb jpeg scans", jpeg[:scan] + jpeg[scan:-2] * 20_000 + jpeg[-2:]


def _tiff_deflate(height: int, width: int) -> bytes:
    data = _zeros(height * width)
    entries = [
        (256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 8), (262, 3, 1), (273, 4, 8), (277, 3, 1),
        (278, 4, height), (279, 4, len(data)),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = b"II*\x00" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(entries)) + table + struct.pack("<I", 0)


def _directory(entries: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + table + struct.pack("<I", following)


def _loops(known: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    jpeg, head = known["jpeg"], b"Exif\x00\x00II*\x00\x08\x00\x00\x00"
    own = head + _directory([(0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8)], 8)
    yield "loop exif points at itself", into_jpeg(jpeg, segment(0xE1, own))
    many = head + _directory([(0x9000 + i, 2, 60_000, 100) for i in range(1000)]) + b"x" * 48_000
    yield "loop exif one text a thousand times", into_jpeg(jpeg, segment(0xE1, many[:65_000]))
    pages = b"II*\x00\x08\x00\x00\x00" + _directory([(256, 4, 1, 8), (257, 4, 1, 8)], 8)
    yield "loop tiff page follows itself", pages
    chain = b"".join(_directory([(256, 4, 1, 8)], 8 + 18 * (i + 1)) for i in range(50_000))
    yield "loop tiff fifty thousand pages", b"II*\x00\x08\x00\x00\x00" + chain
    mpf = b"MPF\x00II*\x00\x08\x00\x00\x00" + _directory(
        [(0xB001, 4, 1, 2**32 - 1), (0xB002, 7, 2**31, 8)], 8
    )
    yield "loop mpf a billion pictures", into_jpeg(jpeg, segment(0xE2, mpf))
    nested = exif_block()
    for _ in range(40):
        nested = (head + _directory([(0x927C, 7, len(nested), 26)]) + nested)[:60_000]
    yield "loop exif within exif", into_jpeg(jpeg, segment(0xE1, nested))
    box = b""
    for _ in range(2000):
        box = struct.pack(">I", len(box) + 8) + b"iprp" + box
    head = known["avif"][: int.from_bytes(known["avif"][:4], "big")]
    yield "loop avif boxes in boxes", head + struct.pack(">I", len(box) + 12) + b"meta" + bytes(4) + box


def _giants(known: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    jpeg = known["jpeg"]
    yield "giant xmp in full segments", into_jpeg(jpeg, segment(0xE1, _XMP_HEAD + b"x" * 65_000) * 150)
    yield (
        "giant xmp in tiny segments",
        into_jpeg(
            jpeg, segment(0xE1, _XMP_HEAD + b"x" * 65_000) * 70 + segment(0xE1, _XMP_HEAD + b"y") * 150_000
        ),
    )
    parts = b"".join(
        segment(0xE1, _XMP_MORE + b"0" * 32 + struct.pack(">II", 2**31, i) + b"z") for i in range(80_000)
    )
    yield "giant extended xmp", into_jpeg(jpeg, parts)
    yield "giant stray bytes", into_jpeg(jpeg, b"\xff\xec\x00\x02." * 1_000_000)
    yield "giant comments", into_jpeg(jpeg, segment(0xFE, b"=1+1" * 16_000) * 300)
    table = segment(0xC4, b"\x00" + bytes(16))
    yield "giant huffman tables", into_jpeg(jpeg, table * 300_000)
    yield "giant markers", into_jpeg(jpeg, segment(0xEB, b"") * 1_000_000)
    iptc = (
        b"Photoshop 3.0\x008BIM\x04\x04\x00\x00"
        + struct.pack(">I", 60_000)
        + b"\x1c\x02\x19\x00\x01k" * 10_000
    )
    yield "giant iptc", into_jpeg(jpeg, segment(0xED, iptc) * 100)
    yield "giant jumbf", into_jpeg(jpeg, segment(0xEB, b"jumb" * 16_000) * 150)
    yield "giant png chunks", into_png(known["png"], png_chunk(b"tEXt", b"k\x00v") * 300_000)
    yield (
        "giant png text",
        into_png(known["png"], png_chunk(b"tEXt", b"parameters\x00" + b"Steps: 1, " * 300_000)),
    )
    yield (
        "giant png node graph",
        into_png(known["png"], png_chunk(b"tEXt", b"prompt\x00" + b'{"1":[' * 90_000)),
    )
    yield "giant trailing bytes", jpeg + bytes(15 * MIB)


def _profiles(known: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    profile = bytearray(icc_profile())
    cases = {
        "tags": (128, 2**32 - 1),
        "size": (0, 2**32 - 1),
        "offset": (136, 2**32 - 8),
        "length": (140, 2**32 - 1),
    }
    for name, (at, value) in cases.items():
        bad = bytearray(profile)
        bad[at : at + 4] = struct.pack(">I", value)
        body = b"ICC_PROFILE\x00\x01\x01" + bytes(bad)
        yield f"profile jpeg {name}", into_jpeg(known["jpeg"], segment(0xE2, body))
        packed = b"p\x00\x00" + zlib.compress(bytes(bad))
        yield f"profile png {name}", into_png(known["png"], png_chunk(b"iCCP", packed))
    pieces = b"".join(
        segment(0xE2, b"ICC_PROFILE\x00" + bytes([i, 255]) + bytes(65_000)) for i in range(1, 256)
    )
    yield "profile jpeg of 255 pieces", into_jpeg(known["jpeg"], pieces)


def _two_natures(known: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("run.sh", "exit 1")
    html = b"<html><script>alert(1)</script></html>"
    for name in ("jpeg", "png", "gif", "webp", "bmp", "tiff", "avif", "heic"):
        yield f"both {name} and zip", known[name] + packed.getvalue()
        yield f"both {name} and html", known[name] + html
        yield f"both {name} and another {name}", known[name] * 2
    yield "both html and jpeg", html + known["jpeg"]
    yield "both pdf and jpeg", b"%PDF-1.7\n" + known["jpeg"]
    yield "both jpeg and html in a comment", into_jpeg(known["jpeg"], segment(0xFE, html))
    yield "both gif and script", b"GIF89a/*" + known["gif"][8:] + b"*/=1;alert(1)"
    yield "both jpeg and png", known["jpeg"] + known["png"]
    yield "both bmp and tiff", known["bmp"][:14] + known["tiff"]


def _odd_sizes(_: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for width, height in (
        (1, 1),
        (1, 50),
        (50, 1),
        (1, 51),
        (1, 20_000),
        (1, 65_535),
        (65_535, 1),
        (0, 5),
        (5, 0),
    ):
        yield f"size {width} x {height}", png(width, height, 8, 2, bytes(3 * width * height))
    for bits, colour in ((3, 2), (8, 1), (16, 3), (0, 0), (255, 255), (16, 6), (4, 4)):
        yield f"size png bits {bits} colour {colour}", png(4, 4, bits, colour, bytes(4 * 4 * 8))
    for photometric in (0, 2, 3, 4, 5, 6, 8, 9, 32_844, 65_535):
        yield f"size tiff photometric {photometric}", tiff(np.ones((5, 4), np.uint8), photometric=photometric)
    for kind in (
        np.uint8,
        np.uint16,
        np.uint32,
        np.uint64,
        np.int8,
        np.int16,
        np.int64,
        np.float16,
        np.float64,
    ):
        for channels in (1, 2, 3, 4, 5, 200):
            shape = (5, 4) if channels == 1 else (5, 4, channels)
            yield f"size tiff {np.dtype(kind).name} of {channels}", tiff(np.ones(shape, kind))


def _liars(known: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    jpeg = bytearray(known["jpeg"])
    at = jpeg.find(b"\xff\xc0")
    for name, offset, value in (
        ("taller", 5, b"\x07\xff"), ("wider", 7, b"\x07\xff"), ("no height", 5, b"\x00\x00"), ("12 bits", 4, b"\x0c"),
        ("two channels", 9, b"\x02"), ("sampling", 11, b"\x4f"), ("no sampling", 11, b"\x00"), ("table", 12, b"\x09"),
    ):  # fmt: skip
        bad = bytearray(jpeg)
        bad[at + offset : at + offset + len(value)] = value
        yield f"liar jpeg {name}", bytes(bad)
    frame = bytes(jpeg[at : at + 19])
    yield "liar jpeg two frames", bytes(jpeg[:at]) + frame + bytes(jpeg[at:])
    for brand in (b"mif1", b"msf1", b"miaf", b"avis", b"hevc", b"crx ", b"qt  "):
        for name in ("avif", "heic"):
            yield f"liar {name} as {brand.decode().strip()}", known[name][:8] + brand + known[name][12:]
    for first in ("jpeg", "png", "gif", "webp", "bmp", "tiff", "avif", "heic"):
        for second in ("jpeg", "png", "gif", "webp", "bmp", "tiff", "avif", "heic"):
            if first != second:
                yield f"liar {first} head on {second}", known[first][:12] + known[second][12:]


def _refused(_: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    yield "refused nothing", b""
    for body in (
        b"\x00",
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"BM",
        b"RIFF",
        _SIGNATURE,
        b"II*\x00",
        b"II+\x00",
    ):
        yield f"refused only {body[:4]!r}", body
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    yield "refused svg", svg
    yield "refused svg with entities", b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaa">]>' + svg
    yield "refused postscript", b"%!PS-Adobe-3.0\n(/etc/passwd) (r) file"
    yield "refused jpeg 2000", b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100)
    yield "refused fits", b"SIMPLE  =                    T" + bytes(2880)
    yield "refused pickle", b"\x80\x04cos\nsystem\n(S'exit 1'\ntR."


FAMILIES: dict[str, Callable[[dict[str, bytes]], Iterator[tuple[str, bytes]]]] = {
    "bomb": _bombs,
    "loop": _loops,
    "giant": _giants,
    "profile": _profiles,
    "both": _two_natures,
    "size": _odd_sizes,
    "liar": _liars,
    "refused": _refused,
}
"""Kind of harm → its files, made from the specimens."""
