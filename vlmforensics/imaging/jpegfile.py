"""JPEG from its markers: order, tables and segments are evidence, so no decoder reads them for us.

References:
    ITU-T T.81 (1992), Annex B (markers) and K (typical tables); Independent JPEG Group, jcparam.c
    (quality scaling).
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
from numpy.typing import NDArray

from vlmforensics.errors import UnsupportedImage
from vlmforensics.imaging.exif import iptc_of_photoshop
from vlmforensics.imaging.header import MAX_XMP, Header, corrupt, truncated
from vlmforensics.imaging.ifd import BadStructureError, TiffBlock
from vlmforensics.imaging.text import clean
from vlmforensics.types import JpegFacts

_MAX_MARKERS = 4096
_MAX_TABLES = 256
_SOI, _EOI, _SOS, _DQT, _DHT, _COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xFE
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
_SOFS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
# In entropy-coded data FF is followed by 00 (stuffing) or RSTn; anything else is the next marker.
_NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_EXIF, _XMP = b"Exif\x00\x00", b"http://ns.adobe.com/xap/1.0/\x00"
_XMP_MORE, _PHOTOSHOP = b"http://ns.adobe.com/xmp/extension/\x00", b"Photoshop 3.0\x00"
# SHA-256 (start) of Annex K's four Huffman tables, each as 16 counts and its symbols.
_STANDARD_HUFFMAN = frozenset(
    {"2f66814c875b5317", "a6283a08f5d97906", "602f734c8c12c1d9", "13f90e3c9dc476c6"}
)
_NAMES = {_EOI: "EOI", _SOS: "SOS", _DQT: "DQT", _DHT: "DHT", _COM: "COM", 0xDD: "DRI", 0xDC: "DNL"}
_SUBSAMPLING = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (1, 2): "4:4:0",
    (4, 1): "4:1:1",
    (4, 2): "4:1:0",
}
# Annex K.1 tables, natural order.
_LUMA = np.array(
    [
        16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14,
        17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49,
        64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
    ],
    np.int64,
)  # fmt: skip


def _zigzag() -> NDArray[np.intp]:
    """Index in natural order of each zig-zag position: intp (64,)."""
    cells = [(row, column) for row in range(8) for column in range(8)]
    cells.sort(key=lambda cell: (sum(cell), cell[0] if sum(cell) % 2 else cell[1]))
    return np.array([8 * row + column for row, column in cells], np.intp)


def standard_luma(quality: int) -> NDArray[np.int64]:
    """Give libjpeg's luma table of a quality 1..100: int64 (64,), natural order."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((_LUMA * scale + 50) // 100, 1, 255)


def estimate_quality(luma: NDArray[np.int32]) -> tuple[int | None, float]:
    """Find the libjpeg quality whose luma table is nearest.

    Args:
        luma: int32 (8, 8), natural order.

    Returns:
        The quality, or None where even the nearest is far (over 1 and over a tenth of the table's mean),
        and the mean absolute difference from that nearest table (0 = the standard's own).
    """
    flat = luma.ravel().astype(np.int64)
    distances = [float(np.abs(standard_luma(quality) - flat).mean()) for quality in range(1, 101)]
    best = int(np.argmin(distances))
    near = distances[best] <= max(1.0, 0.1 * float(flat.mean()))
    return (best + 1 if near else None), distances[best]


class _Reader:
    """Walks the markers of one JPEG; ``run`` fills in its header."""

    def __init__(self, data: bytes, header: Header) -> None:
        self.data, self.header = data, header
        self.markers = ["SOI"]
        self.tables: dict[int, NDArray[np.int32]] = {}
        self.components: list[tuple[int, int]] = []
        self.luma_table = 0
        self.progressive = False
        self.frame_seen = self.scan_seen = False
        self.huffman: list[str] = []
        self.extended_xmp: dict[int, bytes] = {}
        self.extended_size = self.stray = self.strays = 0

    def run(self) -> None:
        at = 2
        while True:
            at = self._to_marker(at)
            self.header.count_piece()
            code = self.data[at]
            at += 1
            if len(self.markers) < _MAX_MARKERS:
                self.markers.append(_name(code))
            if code == _EOI:
                break
            if code in _ALONE:
                continue
            if code == _SOI:
                raise corrupt("a second picture begins inside the first")
            size = int.from_bytes(self.data[at : at + 2], "big")
            if at + 2 > len(self.data) or at + size > len(self.data):
                raise truncated("a segment runs over the end")
            if size < 2:
                raise corrupt("a segment has no room for its own length")
            self._segment(code, self.data[at + 2 : at + size])
            at += size
            if code == _SOS:
                self.scan_seen = True
                following = _NEXT_MARKER.search(self.data, at)
                if following is None:
                    raise truncated("the end marker is missing")
                at = following.start()
        if not self.scan_seen:
            raise corrupt("it holds no picture data")
        self.header.trailing = len(self.data) - at
        self._finish()

    def _to_marker(self, at: int) -> int:
        """Skip to the byte after the next FF that is not fill; decoders skip stray bytes too."""
        if self.data[at : at + 1] != b"\xff":
            stray = self.data.find(b"\xff", at)
            if stray < 0:
                raise truncated("the end marker is missing")
            self.stray, self.strays = self.stray + stray - at, self.strays + 1
            at = stray
        while at < len(self.data) and self.data[at] == 0xFF:
            at += 1
        if at >= len(self.data):
            raise truncated("the end marker is missing")
        if self.data[at] == 0:
            raise corrupt("picture data outside a scan")
        return at

    def _segment(self, code: int, body: bytes) -> None:
        if code in _SOFS:
            self._frame(code, body)
        elif code == _DQT and not self.scan_seen:
            self._quantisation(body)
        elif code == _DHT:
            self._huffman(body)
        elif code == _SOS and not self.frame_seen:
            raise corrupt("a scan comes before the frame header")
        elif code == _COM:
            self.header.keep_text("comment", clean(body))
        elif code == 0xE1:
            self._app1(body)
        elif code == 0xE2 and body.startswith(b"MPF\x00"):
            self._pictures(body[4:])
        elif code == 0xED and body.startswith(_PHOTOSHOP):
            self.header.iptc = self.header.iptc or iptc_of_photoshop(body[len(_PHOTOSHOP) :])

    def _frame(self, code: int, body: bytes) -> None:
        if self.frame_seen:
            raise corrupt("it has two frame headers")
        self.frame_seen = True
        if code not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
            raise _unsupported("lossless and hierarchical JPEG")
        if len(body) < 6 or len(body) < 6 + 3 * body[5]:
            raise corrupt("its frame header is too short")
        if body[0] != 8:
            raise _unsupported(f"JPEG of {body[0]} bits")
        header, count = self.header, body[5]
        header.bit_depth = body[0]
        header.height, header.width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
        if count not in (1, 3, 4):
            raise _unsupported(f"JPEG of {count} channels")
        sampling = [body[7 + 3 * index] for index in range(count)]
        self.components = [(value >> 4, value & 15) for value in sampling]
        self.luma_table = body[8]
        self.progressive = code in (0xC2, 0xCA)

    def _quantisation(self, body: bytes) -> None:
        order, at = _zigzag(), 0
        while at < len(body):
            precision, name = body[at] >> 4, body[at] & 15
            kind = ">u2" if precision else "u1"
            values = np.frombuffer(body[at + 1 : at + 1 + 64 * (1 + (precision > 0))], kind)
            if values.size != 64 or precision > 1 or name > 3:
                raise corrupt("a quantisation table is malformed")
            table = np.zeros(64, np.int32)
            table[order] = values
            self.tables[name] = table.reshape(8, 8)
            at += 1 + values.nbytes

    def _huffman(self, body: bytes) -> None:
        at = 0
        while at + 17 <= len(body) and len(self.huffman) < _MAX_TABLES:
            size = 17 + sum(body[at + 1 : at + 17])
            self.huffman.append(hashlib.sha256(body[at + 1 : at + size]).hexdigest()[:16])
            at += size

    def _app1(self, body: bytes) -> None:
        if body.startswith(_EXIF):
            self.header.keep_exif(body)
        elif body.startswith(_XMP):
            self.header.keep_xmp(body[len(_XMP) :])
        elif body.startswith(_XMP_MORE) and len(body) > len(_XMP_MORE) + 40:
            start = len(_XMP_MORE) + 32  # after the packet's digest: total size, offset of this part
            offset = int.from_bytes(body[start + 4 : start + 8], "big")
            if self.extended_size < MAX_XMP and len(self.extended_xmp) < _MAX_MARKERS:
                self.extended_size += len(body)
                self.extended_xmp.setdefault(offset, body[start + 8 :])

    def _pictures(self, body: bytes) -> None:
        """Count the pictures of a multi-picture file (CIPA DC-007): further ones follow the first."""
        try:
            tiff = TiffBlock(body)
            entries, _ = tiff.directory(tiff.first)
            count = tiff.integer(entries, 0xB001, 1) or 1
        except BadStructureError:
            self.header.notes.append("The multi-picture index is damaged.")
            return
        self.header.frames = max(self.header.frames, min(count, 1 << 16), 1)

    def _finish(self) -> None:
        if self.strays:
            places = "two JPEG segments" if self.strays == 1 else f"JPEG segments, in {self.strays:,} places"
            self.header.notes.append(f"{self.stray:,} stray bytes stand between {places}.")
        if self.extended_xmp:
            self.header.keep_xmp(b"".join(part for _, part in sorted(self.extended_xmp.items())))
        luma = self.tables.get(self.luma_table)
        quality, distance = estimate_quality(luma) if luma is not None else (None, 0.0)
        self.header.jpeg = JpegFacts(
            quant_tables=self.tables,
            subsampling=self._subsampling(),
            progressive=self.progressive,
            quality=quality,
            quality_distance=distance,
            markers=tuple(self.markers),
            optimised_huffman=any(digest not in _STANDARD_HUFFMAN for digest in self.huffman),
        )

    def _subsampling(self) -> str:
        if len(self.components) == 1:
            return "grey"
        (across, down), second, third = self.components[:3]
        if second != third or not second[0] or not second[1] or across % second[0] or down % second[1]:
            return "other"
        return _SUBSAMPLING.get((across // second[0], down // second[1]), "other")


def _unsupported(what: str) -> UnsupportedImage:
    return UnsupportedImage(f"{what} is not examined; save it as PNG", code="img.jpeg")


def _name(code: int) -> str:
    if code in _SOFS:
        return f"SOF{code - 0xC0}"
    if 0xE0 <= code <= 0xEF:
        return f"APP{code - 0xE0}"
    if 0xD0 <= code <= 0xD7:
        return f"RST{code - 0xD0}"
    return _NAMES.get(code, f"0x{code:02X}")


def read_jpeg(data: bytes, header: Header) -> None:
    """Read a JPEG's markers from SOI to the first EOI.

    Raises:
        CorruptImage: cut short, two frames, no frame, malformed tables.
        UnsupportedImage: not 8 bits, or neither 1, 3 nor 4 channels, or lossless.
    """
    _Reader(data, header).run()
