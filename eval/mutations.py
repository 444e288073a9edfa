"""Structural mutations of valid files: what lies in the right place is wrong, rather than noise everywhere.

Half of the mutations know the format: a changed PNG chunk gets its right checksum, a JPEG segment or a box its right
length, so that damage reaches what lies behind the first check.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence

_EDGES = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
)
_SMALL = 1 << 16

Mutation = Callable[[bytearray, random.Random, Sequence[bytes]], None]


def mutate(names: Sequence[str], files: Mapping[str, bytes], rng: random.Random) -> tuple[str, bytes]:
    """One mutated file.

    Args:
        names: of the files to choose from.
        files: valid files by name.
        rng: decides everything.

    Returns:
        The name of the file it began as with the mutations applied, and the bytes.
    """
    name = rng.choice(names)
    data = bytearray(files[name])
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        kind, mutation = rng.choice(_MUTATIONS)
        if len(data) > 4:
            mutation(data, rng, [files[rng.choice(names)]])
            done.append(kind)
    return f"{name}: {', '.join(done)}", bytes(data)


def cuts(files: Mapping[str, bytes]) -> list[tuple[str, int]]:
    """(name, length) of every file cut at each 1 % of its length."""
    return [(name, len(data) * share // 100) for name, data in files.items() for share in range(1, 100)]


def _place(data: bytearray, rng: random.Random, size: int = 1) -> int:
    """An offset: half of them within the first 400 bytes, where structure lies."""
    top = max(1, len(data) - size + 1)
    return rng.randrange(min(400, top) if rng.random() < 0.5 else top)


def _bits(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    for _ in range(rng.randrange(1, 9)):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _bytes(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    for _ in range(rng.randrange(1, 5)):
        data[_place(data, rng)] = rng.randrange(256)


def _numbers(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    code = rng.choice(("<H", ">H", "<I", ">I"))
    size = struct.calcsize(code)
    at = _place(data, rng, size)
    value = rng.choice(_EDGES) & ((1 << 8 * size) - 1)
    if rng.random() < 0.3 and at + size <= len(data):
        value = (struct.unpack_from(code, data, at)[0] + rng.choice((-2, -1, 1, 2))) & ((1 << 8 * size) - 1)
    if at + size <= len(data):
        struct.pack_into(code, data, at, value)


def _remove(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 2, 4, 16, 200))]


def _double(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    at, size = _place(data, rng), rng.choice((1, 4, 20, 300))
    if len(data) < _SMALL:
        data[at:at] = data[at : at + size] * rng.choice((1, 1, 2, 50))


def _insert(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    at = _place(data, rng)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 3, 8, 100)))


def _blank(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    at, size = _place(data, rng), rng.choice((2, 8, 64))
    size = len(data[at : at + size])
    data[at : at + size] = bytes([rng.choice((0, 255))]) * size


def _cut(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    del data[rng.randrange(1, len(data)) :]


def _splice(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    other = others[0]
    here, there = _place(data, rng), rng.randrange(len(other))
    data[here:] = other[there:]


def _part(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    """Change, drop, double or move one part of the container, its bookkeeping set right again."""
    if data[:4] == b"\x89PNG":
        _rebuild(data, rng, _png_parts(data), data[:8], _png_part)
    elif data[:2] == b"\xff\xd8":
        _rebuild(data, rng, _jpeg_parts(data), data[:2], bytes)
    elif data[:4] == b"RIFF":
        _rebuild(data, rng, _riff_parts(data), data[:12], bytes)
        if len(data) >= 8:
            struct.pack_into("<I", data, 4, len(data) - 8)
    elif data[4:8] == b"ftyp":
        _rebuild(data, rng, _box_parts(data, 0, len(data)), bytearray(), bytes)
    elif bytes(data[:2]) in (b"II", b"MM"):
        _entry(data, rng)
    else:
        _numbers(data, rng, ())


def _rebuild(
    data: bytearray, rng: random.Random, parts: list[bytes], head: bytearray, seal: Callable[[bytes], bytes]
) -> None:
    if not parts:
        return
    index = rng.randrange(len(parts))
    match rng.randrange(5):
        case 0:
            del parts[index]
        case 1:
            parts.insert(rng.randrange(len(parts) + 1), parts[index])
        case 2:
            parts.insert(rng.randrange(len(parts)), parts.pop(index))
        case _:
            part = bytearray(parts[index])
            for _ in range(rng.randrange(1, 5)):
                if len(part) > 8:
                    part[rng.randrange(8, len(part))] = rng.choice(
                        (0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))
                    )
            parts[index] = seal(bytes(part))
    data[:] = head + b"".join(parts)


def _png_parts(data: bytearray) -> list[bytes]:
    at, parts = 8, []
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        parts.append(bytes(data[at:end]))
        at = end
    return parts


def _png_part(part: bytes) -> bytes:
    body = part[4:-4] if len(part) >= 12 else part[4:]
    return struct.pack(">I", max(0, len(body) - 4)) + body + struct.pack(">I", zlib.crc32(body))


def _jpeg_parts(data: bytearray) -> list[bytes]:
    at, parts = 2, []
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        parts.append(bytes(data[at:end]))
        at = end
    return [*parts, bytes(data[at:])]


def _riff_parts(data: bytearray) -> list[bytes]:
    at, parts = 12, []
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size + (size & 1)
        parts.append(bytes(data[at:end]))
        at = end
    return parts


def _box_parts(data: bytearray, start: int, end: int) -> list[bytes]:
    at, parts = start, []
    while at + 8 <= end:
        size = int.from_bytes(data[at : at + 4], "big") or end - at
        stop = min(end, at + max(8, size))
        parts.append(bytes(data[at:stop]))
        at = stop
    return parts


def _entry(data: bytearray, rng: random.Random) -> None:
    """Change one field of one TIFF directory entry."""
    order = "<" if data[:2] == b"II" else ">"
    if len(data) < 16:
        return
    at = struct.unpack_from(f"{order}I", data, 4)[0]
    if at + 2 > len(data):
        return
    count = struct.unpack_from(f"{order}H", data, at)[0]
    entry = at + 2 + 12 * rng.randrange(max(1, count))
    code, offset = rng.choice((("H", 0), ("H", 2), ("I", 4), ("I", 8), ("H", 8)))
    if entry + 12 <= len(data):
        value = rng.choice((*_EDGES, rng.randrange(1 << 16)))
        struct.pack_into(order + code, data, entry + offset, value & (0xFFFF if code == "H" else 0xFFFFFFFF))


_MUTATIONS: tuple[tuple[str, Mutation], ...] = (
    ("bits", _bits), ("bytes", _bytes), ("numbers", _numbers), ("numbers", _numbers), ("remove", _remove),
    ("double", _double), ("insert", _insert), ("blank", _blank), ("cut", _cut), ("splice", _splice),
    ("part", _part), ("part", _part), ("part", _part), ("part", _part), ("part", _part),
)  # fmt: skip
