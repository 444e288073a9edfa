"""Files that drown a reader in pieces of metadata: all caps hold together, not only each for itself."""

from __future__ import annotations

import struct
import zlib

import pytest

from vlmforensics.errors import InputError, LimitExceeded
from vlmforensics.imaging import open_case
from vlmforensics.imaging.header import MAX_PACKETS, MAX_PIECES, MAX_TEXT_IN_ALL, MAX_XMP, Header
from vlmforensics.imaging.preflight import preflight
from vlmforensics.imaging.specimens import png_chunk, specimens
from vlmforensics.settings import Settings

KNOWN = specimens()
SETTINGS = Settings(sandbox=False)
XMP, MORE = b"http://ns.adobe.com/xap/1.0/\x00", b"http://ns.adobe.com/xmp/extension/\x00"


def segment(code: int, body: bytes) -> bytes:
    return b"\xff" + bytes([code]) + struct.pack(">H", len(body) + 2) + body


def jpeg(pieces: bytes) -> bytes:
    return KNOWN["jpeg"][:2] + pieces + KNOWN["jpeg"][2:]


def png(chunks: bytes) -> bytes:
    return KNOWN["png"][:33] + chunks + KNOWN["png"][33:]


def read(data: bytes, name: str = "JPEG") -> Header:
    return preflight(data, name, SETTINGS)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("JPEG", jpeg(segment(0xEB, b"") * (MAX_PIECES + 1))),
        ("PNG", png(png_chunk(b"tEXt", b"k\x00v") * (MAX_PIECES + 1))),
        ("WEBP", b"RIFF\xff\xff\xff\x00WEBP" + b"abcd\x00\x00\x00\x00" * 2**21),
        ("GIF", KNOWN["gif"][:-1] + b"\x21\xfe" + b"\x01x" * (MAX_PIECES + 1) + b"\x00;"),
    ],
    ids=["jpeg", "png", "webp", "gif"],
)
def test_pieces_without_number_are_refused(name, data):
    with pytest.raises(InputError) as caught:
        read(data, name)
    assert caught.value.code in ("img.limit.pieces", "img.truncated")
    if name != "WEBP":
        assert isinstance(caught.value, LimitExceeded)


def test_stray_bytes_make_one_note():
    header = read(jpeg(b"\xff\xec\x00\x02." * 5000))
    assert [note for note in header.notes if "stray" in note] == [
        "5,000 stray bytes stand between JPEG segments, in 5,000 places."
    ]


def test_xmp_packets_are_joined_up_to_a_number_and_a_size():
    header = read(jpeg(segment(0xE1, XMP + b"y") * 1000))
    assert header.xmp == b"\n".join([b"y"] * MAX_PACKETS)
    assert len(header.notes) == 1
    header = read(jpeg(segment(0xE1, XMP + b"x" * 65_000) * 70))
    assert len(header.xmp) <= MAX_XMP
    assert len(header.notes) == 1


def test_extended_xmp_is_capped_by_parts_and_size():
    parts = b"".join(
        segment(0xE1, MORE + b"0" * 32 + struct.pack(">II", 2**31, i) + b"z") for i in range(9000)
    )
    assert len(read(jpeg(parts)).xmp) < 9000


def test_texts_are_capped_in_all_and_not_unpacked_beyond(monkeypatch):
    unpacked = []
    real = zlib.decompressobj

    def counting(*arguments):
        unpacked.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(zlib, "decompressobj", counting)
    header = read(png(png_chunk(b"zTXt", b"k\x00\x00" + zlib.compress(b"a" * 2**20, 9)) * 500), "PNG")
    assert sum(map(len, header.text.values())) <= MAX_TEXT_IN_ALL + 2**20
    assert len(unpacked) < 10
    assert sum("more text" in note for note in header.notes) == 1


def test_a_thousand_tags_that_share_a_text_do_not_multiply_it():
    entries = b"".join(struct.pack("<HHII", 0xC000 + i, 2, 40_000, 20_000) for i in range(1000))
    block = b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", 1000) + entries + bytes(4)
    block += b" " * (20_000 - len(block)) + b"x" * 40_000
    case = open_case(jpeg(segment(0xE1, b"Exif\x00\x00" + block)), settings=SETTINGS)
    assert 0 < sum(map(len, case.container.exif.values())) < 2**20 + 65_536


def test_huffman_tables_beyond_number():
    header = read(jpeg(segment(0xC4, b"\x00" + bytes(16)) * 2000))
    assert header.jpeg.optimised_huffman


def test_specimens_are_the_same_each_time_and_all_open():
    again = specimens()
    assert again == KNOWN
    opened = 0
    for name, data in KNOWN.items():
        if name in ("tiff nan", "tiff infinite"):
            with pytest.raises(InputError, match="not finite"):
                open_case(data, settings=SETTINGS)
            continue
        case = open_case(data, settings=SETTINGS)
        assert case.container.format.lower() == name.split(" ")[0]
        opened += 1
    assert opened == len(KNOWN) - 2
