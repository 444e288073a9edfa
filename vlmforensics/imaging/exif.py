"""EXIF and IPTC as text: every directory, capped, hostile values made harmless."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import ExifTags

from vlmforensics.imaging import ifd
from vlmforensics.imaging.ifd import BadStructureError, Entry, TiffBlock
from vlmforensics.imaging.text import MAX_TEXT, clean

MAX_THUMBNAIL = 512 * 1024
"""Bytes of an embedded thumbnail that are kept."""
_MAX_TAGS = 1024
_MAX_CHARACTERS = 1 << 20  # of all values together: a thousand tags may point at one long text
_MAX_NUMBERS = 64
_EXIF_IFD, _GPS_IFD, _INTEROP_IFD, _ORIENTATION = 0x8769, 0x8825, 0xA005, 0x0112
_THUMBNAIL_AT, _THUMBNAIL_SIZE = 0x0201, 0x0202
# Offsets and payloads that are read elsewhere or mean nothing as text: strips and tiles, XMP, IPTC, ICC,
# Photoshop.
_SKIPPED = frozenset({_EXIF_IFD, _GPS_IFD, _INTEROP_IFD, 273, 279, 324, 325, 700, 33723, 34675, 34377})
_WINDOWS_TEXT = frozenset(range(0x9C9B, 0x9CA0))  # XPTitle … XPSubject: UTF-16 little-endian
_COMMENT_TAGS = frozenset({0x9286, 0x001B, 0x001C})  # UserComment and two GPS texts: encoding first


@dataclass
class Exif:
    """What an EXIF block says.

    Attributes:
        tags: name → text; ``Exif:``, ``GPS:``, ``Interop:`` and ``Thumbnail:`` before those of other
            directories.
        orientation: 1..8; 1 where absent or out of range.
        thumbnail: the embedded JPEG, or None.
        notes: what was wrong with it.
    """

    tags: dict[str, str] = field(default_factory=dict)
    orientation: int = 1
    thumbnail: bytes | None = None
    notes: list[str] = field(default_factory=list)
    _characters: int = 0

    def keep(self, key: str, value: str) -> None:
        """Keep a value under the first name it has, within the cap of all values together."""
        if key not in self.tags:
            self.tags[key] = value
            self._characters += len(value)

    @property
    def full(self) -> bool:
        """True once a cap is reached."""
        return len(self.tags) >= _MAX_TAGS or self._characters >= _MAX_CHARACTERS


def read_exif(block: bytes) -> Exif:
    """Read an EXIF block (TIFF structure, no prefix); damage ends in a note, never in an error."""
    facts = Exif()
    try:
        tiff = TiffBlock(block)
        main, following = tiff.directory(tiff.first)
        orientation = tiff.integer(main, _ORIENTATION, 1) or 1
        facts.orientation = orientation if 1 <= orientation <= 8 else 1
        _collect(tiff, main, "", facts)
        exif = _sub_directory(tiff, main, _EXIF_IFD, "Exif:", facts)
        _sub_directory(tiff, main, _GPS_IFD, "GPS:", facts)
        _sub_directory(tiff, exif, _INTEROP_IFD, "Interop:", facts)
        if following:
            second, _ = tiff.directory(following)
            _collect(tiff, second, "Thumbnail:", facts)
            facts.thumbnail = _thumbnail(tiff, second)
    except BadStructureError as error:
        facts.notes.append(f"The EXIF block is damaged: {error}.")
    return facts


def _sub_directory(
    tiff: TiffBlock, parent: dict[int, Entry], pointer: int, prefix: str, facts: Exif
) -> dict[int, Entry]:
    offset = tiff.integer(parent, pointer)
    if not offset:
        return {}
    try:
        entries, _ = tiff.directory(offset)
    except BadStructureError as error:
        facts.notes.append(f"The EXIF directory {prefix[:-1]} is damaged: {error}.")
        return {}
    _collect(tiff, entries, prefix, facts)
    return entries


def _collect(tiff: TiffBlock, entries: dict[int, Entry], prefix: str, facts: Exif) -> None:
    names = ExifTags.GPSTAGS if prefix == "GPS:" else ExifTags.TAGS
    for tag, entry in entries.items():
        if tag in _SKIPPED or facts.full:
            continue
        name = names.get(tag)
        key = f"{prefix}{name if isinstance(name, str) else f'0x{tag:04X}'}"
        facts.keep(key, _value(tiff, entry))


def _value(tiff: TiffBlock, entry: Entry) -> str:
    """Word one value: text as text, numbers by blanks, fractions as decimals, the rest by its size."""
    if entry.kind == ifd.ASCII:
        return clean(tiff.raw(entry, 4 * MAX_TEXT))
    if entry.tag in _WINDOWS_TEXT:
        return clean(tiff.raw(entry, 4 * MAX_TEXT).decode("utf-16-le", "replace"))
    if entry.tag in _COMMENT_TAGS and entry.kind in (ifd.UNDEFINED, 1):
        return _comment(tiff.raw(entry, 4 * MAX_TEXT), tiff.order)
    if entry.kind == ifd.UNDEFINED:
        raw = tiff.raw(entry, 256)
        plain = raw.rstrip(b"\x00")
        if entry.size <= 256 and plain and all(32 <= byte < 127 for byte in plain):
            return clean(plain)
        return " ".join(str(byte) for byte in raw) if entry.size <= 8 else f"<{entry.size} bytes>"
    if entry.kind in (ifd.RATIONAL, ifd.SRATIONAL):
        words = [_fraction(*pair) for pair in tiff.fractions(entry, _MAX_NUMBERS)]
    else:
        words = [
            f"{number:.9g}" if isinstance(number, float) else str(number)
            for number in tiff.numbers(entry, _MAX_NUMBERS)
        ]
    more = entry.count - len(words)
    return " ".join(words) + (f" … [{more} more]" if more > 0 else "")


def _fraction(above: int, below: int) -> str:
    return f"{above / below:.9g}" if below else f"{above}/0"


def _comment(raw: bytes, order: str) -> str:
    """Decode a text that names its own encoding in eight bytes (EXIF 2.32, 4.6.5, UserComment)."""
    code, body = raw[:8].rstrip(b"\x00 ").upper(), raw[8:]
    if code == b"UNICODE":
        # The standard leaves the byte order open; writers disagree. Latin text has its zeros on one side.
        zeros_high, zeros_low = body[0:2000:2].count(0), body[1:2000:2].count(0)
        if zeros_high != zeros_low:
            order = ">" if zeros_high > zeros_low else "<"
        return clean(body.decode("utf-16-be" if order == ">" else "utf-16-le", "replace"))
    if code == b"JIS":
        return clean(body.decode("iso2022_jp", "replace"))
    return clean(body if code in (b"ASCII", b"") else raw)


def _thumbnail(tiff: TiffBlock, entries: dict[int, Entry]) -> bytes | None:
    at, size = tiff.integer(entries, _THUMBNAIL_AT), tiff.integer(entries, _THUMBNAIL_SIZE)
    if not at or not size or size > MAX_THUMBNAIL or at + size > len(tiff.data) or at < 0 or size < 0:
        return None
    return bytes(tiff.data[at : at + size])


_IPTC_NAMES = {
    (1, 90): "CodedCharacterSet",
    (2, 5): "ObjectName",
    (2, 7): "EditStatus",
    (2, 25): "Keywords",
    (2, 40): "SpecialInstructions",
    (2, 55): "DateCreated",
    (2, 60): "TimeCreated",
    (2, 62): "DigitalCreationDate",
    (2, 65): "OriginatingProgram",
    (2, 70): "ProgramVersion",
    (2, 80): "By-line",
    (2, 85): "By-lineTitle",
    (2, 90): "City",
    (2, 101): "Country-PrimaryLocationName",
    (2, 103): "OriginalTransmissionReference",
    (2, 105): "Headline",
    (2, 110): "Credit",
    (2, 115): "Source",
    (2, 116): "CopyrightNotice",
    (2, 118): "Contact",
    (2, 120): "Caption-Abstract",
    (2, 122): "Writer-Editor",
}


def read_iptc(data: bytes) -> dict[str, str]:
    """Read IPTC-IIM datasets (marker 0x1C, record, dataset, length); stops at the first damaged one.

    Returns:
        Dataset name, or ``record:dataset``, → text; repeated datasets are joined by ``"; "``.
    """
    found: dict[str, str] = {}
    at = 0
    while at + 5 <= len(data) and data[at] == 0x1C and len(found) < _MAX_TAGS:
        record, dataset, size = data[at + 1], data[at + 2], int.from_bytes(data[at + 3 : at + 5], "big")
        if size & 0x8000 or at + 5 + size > len(data):  # extended lengths are not used by text datasets
            break
        value = data[at + 5 : at + 5 + size]
        at += 5 + size
        if record not in (1, 2) or not value:
            continue
        name = _IPTC_NAMES.get((record, dataset), f"{record}:{dataset}")
        text = clean(value) if any(byte >= 32 for byte in value) and b"\x1b" not in value else value.hex()
        known = found.get(name)
        if known is None or len(known) < MAX_TEXT:
            found[name] = text if known is None else f"{known}; {text}"
    return found


def iptc_of_photoshop(data: bytes) -> bytes | None:
    """Find the IPTC resource (0x0404) among Photoshop's ``8BIM`` blocks."""
    at = 0
    while at + 12 <= len(data) and data[at : at + 4] == b"8BIM":
        name_size = (data[at + 6] + 2) & ~1  # Pascal string, padded to even
        size_at = at + 6 + name_size
        size = int.from_bytes(data[size_at : size_at + 4], "big")
        body = size_at + 4
        if data[at + 4 : at + 6] == b"\x04\x04":
            return data[body : body + size]
        at = body + size + (size & 1)
    return None
