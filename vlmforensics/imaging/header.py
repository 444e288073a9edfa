"""What preflight knows of a file before any pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass, field

from vlmforensics.errors import CorruptImage, LimitExceeded
from vlmforensics.types import JpegFacts

MAX_EXIF = 1 << 20
"""Bytes of EXIF that are read; larger blocks are noted and left alone."""
MAX_XMP = 4 << 20
"""Bytes of XMP that are kept."""
MAX_CHUNK_TEXT = 1 << 20
"""Bytes of one text chunk after decompression (a node graph of a generator may take hundreds of KiB)."""
MAX_TEXTS = 256
"""Text chunks that are kept."""
MAX_TEXT_IN_ALL = 4 << 20
"""Characters of all text chunks together; what comes after is noted and left alone."""
MAX_PACKETS = 64
"""XMP packets that are joined; a file has one, or one and its extension."""
MAX_PIECES = 1 << 18
"""Segments, chunks or sub-blocks of a file; each costs time before anything is decoded."""


@dataclass
class Header:
    """Filled in by the reader of each format.

    Attributes:
        format: one of ``sniff.FORMATS``.
        width: as stored, in pixels, before any orientation.
        height: as stored.
        bit_depth: bits per channel as stored.
        frames: frames or pages declared or counted.
        trailing: bytes after the picture's end.
        exif: the TIFF-structured block, without prefix; or None.
        xmp: raw XMP packet, or None.
        iptc: raw IPTC-IIM datasets, or None.
        text: raw text by key.
        jpeg: marker facts of a JPEG.
        orientation: EXIF orientation where the container itself holds it (TIFF), else None.
        notes: what the reader had to say.
    """

    format: str
    width: int = 0
    height: int = 0
    bit_depth: int = 8
    frames: int = 1
    trailing: int = 0
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    text: dict[str, str] = field(default_factory=dict)
    jpeg: JpegFacts | None = None
    orientation: int | None = None
    notes: list[str] = field(default_factory=list)
    _packets: int = 0
    _text_size: int = 0
    _pieces: int = 0

    def count_piece(self) -> None:
        """Count a segment, chunk or sub-block.

        Raises:
            LimitExceeded: more than ``MAX_PIECES``.
        """
        self._pieces += 1
        if self._pieces > MAX_PIECES:
            raise LimitExceeded(
                f"the file is cut into more than {MAX_PIECES:,} pieces, as no program writes it; save the picture anew",
                code="img.limit.pieces",
            )

    def keep_exif(self, block: bytes) -> None:
        """Keep the first EXIF block, without its prefix, if it is within the cap."""
        block = block.removeprefix(b"Exif\x00\x00")
        if self.exif is not None:
            return
        if len(block) > MAX_EXIF:
            self.notes.append(f"An EXIF block of {len(block):,} bytes was too large to be read.")
            return
        self.exif = block

    def keep_xmp(self, packet: bytes) -> None:
        """Keep an XMP packet, or append a further one, within the caps."""
        self._packets += 1
        if self._packets > MAX_PACKETS or len(self.xmp or b"") >= MAX_XMP:
            if self._packets == MAX_PACKETS + 1:
                self.notes.append(f"XMP packets after the {MAX_PACKETS}th were left alone.")
            return
        joined = packet if self.xmp is None else self.xmp + b"\n" + packet
        if len(joined) > MAX_XMP:
            self.notes.append(f"XMP of {len(joined):,} bytes was cut at {MAX_XMP:,}.")
        self.xmp = joined[:MAX_XMP]

    @property
    def takes_text(self) -> bool:
        """False once the caps of texts are reached: further ones needn't be decompressed."""
        return len(self.text) < MAX_TEXTS and self._text_size < MAX_TEXT_IN_ALL

    def keep_text(self, key: str, value: str) -> None:
        """Keep a text under its key, within the caps; a repeated key gets a number."""
        if not self.takes_text:
            return
        self._text_size += len(value)
        if not self.takes_text:
            self.notes.append("The file holds more text than is kept; what comes later was left alone.")
        name, count = key, 1
        while name in self.text:
            count += 1
            name = f"{key} ({count})"
        self.text[name] = value


def truncated(what: str) -> CorruptImage:
    """The error for a file that ends too early."""
    return CorruptImage(
        f"the file is cut short ({what}); it was not copied or downloaded whole", code="img.truncated"
    )


def corrupt(what: str) -> CorruptImage:
    """The error for a file that contradicts itself."""
    return CorruptImage(f"the file is damaged: {what}")
