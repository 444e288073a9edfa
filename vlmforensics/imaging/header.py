"""What preflight knows of a file before any pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass, field

from vlmforensics.errors import CorruptImage
from vlmforensics.types import JpegFacts

MAX_EXIF = 1 << 20
"""Bytes of EXIF that are read; larger blocks are noted and left alone."""
MAX_XMP = 4 << 20
"""Bytes of XMP that are kept."""
MAX_CHUNK_TEXT = 1 << 20
"""Bytes of one text chunk after decompression (a node graph of a generator may take hundreds of KiB)."""
MAX_TEXTS = 256
"""Text chunks that are kept."""


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
        """Keep an XMP packet, or append a further one, within the cap."""
        joined = packet if self.xmp is None else self.xmp + b"\n" + packet
        if len(joined) > MAX_XMP:
            self.notes.append(f"XMP of {len(joined):,} bytes was cut at {MAX_XMP:,}.")
        self.xmp = joined[:MAX_XMP]

    def keep_text(self, key: str, value: str) -> None:
        """Keep a text under its key; a repeated key gets a number."""
        if len(self.text) >= MAX_TEXTS:
            return
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
