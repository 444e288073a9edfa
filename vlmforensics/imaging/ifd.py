"""Bounded reader of TIFF structure, shared by TIFF files, EXIF blocks and multi-picture indices.

Every offset is checked, every count capped, loops cut; nothing is believed that the bytes do not hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAX_ENTRIES = 1024
"""Entries of one directory that are read."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8}
_SIZES[18] = 8
_CODES = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q"}
_CODES[18] = "Q"
ASCII, RATIONAL, SRATIONAL, UNDEFINED = 2, 5, 10, 7


class BadStructureError(ValueError):
    """The bytes are not TIFF structure, or point outside themselves."""


@dataclass(frozen=True)
class Entry:
    """One tag of a directory: ``kind`` is the TIFF type, ``size`` its bytes, ``at`` where they begin."""

    tag: int
    kind: int
    count: int
    at: int
    size: int


class TiffBlock:
    """A block of bytes in TIFF structure (classic or big).

    Args:
        data: the block; offsets count from its first byte.

    Raises:
        BadStructureError: no TIFF header.
    """

    def __init__(self, data: bytes) -> None:
        order = {b"II": "<", b"MM": ">"}.get(data[:2])
        if order is None or len(data) < 8:
            raise BadStructureError("no TIFF header")
        self.data, self.order = data, order
        magic = struct.unpack_from(order + "H", data, 2)[0]
        if magic not in (42, 43) or (magic == 43 and len(data) < 16):
            raise BadStructureError("no TIFF header")
        self.big = magic == 43
        self.first: int = struct.unpack_from(order + ("Q" if self.big else "I"), data, 8 if self.big else 4)[
            0
        ]

    def directory(self, offset: int) -> tuple[dict[int, Entry], int]:
        """Read the directory at ``offset``.

        Returns:
            Entries by tag (the first of a repeated tag; those that point outside are left out), and the
            offset of the next directory, 0 where there is none.

        Raises:
            BadStructureError: the directory itself lies outside the block.
        """
        count_code, entry_size, next_code = ("Q", 20, "Q") if self.big else ("H", 12, "I")
        count = self._number(count_code, offset)
        at = offset + struct.calcsize(self.order + count_code)
        entries: dict[int, Entry] = {}
        for index in range(min(count, MAX_ENTRIES)):
            entry = self._entry(at + index * entry_size)
            if entry is not None:
                entries.setdefault(entry.tag, entry)
        try:
            following = self._number(next_code, at + count * entry_size)
        except BadStructureError:
            following = 0  # many EXIF writers leave the last link out
        return entries, following

    def chain(self, limit: int) -> Iterator[tuple[dict[int, Entry], int]]:
        """Walk the directories from the first on, at most ``limit``, never the same twice."""
        seen: set[int] = set()
        offset = self.first
        while offset and offset not in seen and len(seen) < limit:
            seen.add(offset)
            entries, following = self.directory(offset)
            yield entries, offset
            offset = following

    def _number(self, code: str, at: int) -> int:
        try:
            return int(struct.unpack_from(self.order + code, self.data, at)[0])
        except (struct.error, OverflowError) as error:
            raise BadStructureError(f"an offset points outside the data ({at})") from error

    def _entry(self, at: int) -> Entry | None:
        tag, kind = self._number("H", at), self._number("H", at + 2)
        count = self._number("Q" if self.big else "I", at + 4)
        if kind not in _SIZES:
            return None
        size, inline_at = _SIZES[kind] * count, at + (12 if self.big else 8)
        where = inline_at
        if size > (8 if self.big else 4):
            where = self._number("Q" if self.big else "I", inline_at)
        if where + size > len(self.data):
            return None
        return Entry(tag, kind, count, where, size)

    def raw(self, entry: Entry, cap: int) -> bytes:
        """The entry's bytes, at most ``cap``."""
        return bytes(self.data[entry.at : entry.at + min(entry.size, cap)])

    def numbers(self, entry: Entry, cap: int) -> tuple[float, ...]:
        """The entry's values, at most ``cap``: integers or floats; empty for text and fractions."""
        code = _CODES.get(entry.kind)
        if code is None:
            return ()
        return struct.unpack_from(f"{self.order}{min(entry.count, cap)}{code}", self.data, entry.at)

    def fractions(self, entry: Entry, cap: int) -> tuple[tuple[int, int], ...]:
        """The entry's (numerator, denominator) pairs, at most ``cap``; empty for other types."""
        if entry.kind not in (RATIONAL, SRATIONAL):
            return ()
        code = "I" if entry.kind == RATIONAL else "i"
        flat = struct.unpack_from(f"{self.order}{2 * min(entry.count, cap)}{code}", self.data, entry.at)
        return tuple(zip(flat[::2], flat[1::2], strict=True))

    def integer(self, entries: dict[int, Entry], tag: int, default: int | None = None) -> int | None:
        """The first value of a tag as an integer, or ``default``."""
        entry = entries.get(tag)
        values = self.numbers(entry, 1) if entry is not None and entry.count else ()
        return int(values[0]) if values and values[0] == values[0] and abs(values[0]) < 2**63 else default
