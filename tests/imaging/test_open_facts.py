"""Facts around the pixels: JPEG markers, EXIF, XMP, IPTC, text, profiles; hostile text made harmless."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from skimage import data as pictures

from vlmforensics.imaging import open_case
from vlmforensics.imaging.exif import read_exif, read_iptc
from vlmforensics.imaging.jpegfile import standard_luma
from vlmforensics.imaging.text import clean


def photo() -> Image.Image:
    return Image.fromarray(pictures.astronaut()[:128, :160])


def saved(name: str, image: Image.Image | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    (image or photo()).save(buffer, name, **options)
    return buffer.getvalue()


def segment(code: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(body) + 2) + body


def with_segment(jpeg: bytes, code: int, body: bytes) -> bytes:
    return jpeg[:2] + segment(code, body) + jpeg[2:]


def exif_block(entries: list[tuple[int, int, int, bytes]], order: str = "<") -> bytes:
    """A directory of (tag, type, count, value bytes); long values follow it."""
    head = (b"II*\x00" if order == "<" else b"MM\x00*") + struct.pack(order + "I", 8)
    table, tail = struct.pack(order + "H", len(entries)), b""
    after = 8 + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        field = value.ljust(4, b"\x00") if len(value) <= 4 else struct.pack(order + "I", after + len(tail))
        tail += value if len(value) > 4 else b""
        table += struct.pack(order + "HHI", tag, kind, count) + field
    return head + table + bytes(4) + tail


# --- JPEG -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [1, 10, 37, 50, 75, 90, 95, 100])
def test_quality_of_libjpeg_is_recognised(quality):
    facts = open_case(saved("JPEG", quality=quality)).container.jpeg
    assert facts.quality == quality
    assert facts.quality_distance == 0.0


def test_tables_are_in_natural_order():
    facts = open_case(saved("JPEG", quality=50)).container.jpeg
    assert sorted(facts.quant_tables) == [0, 1]
    assert facts.quant_tables[0].dtype == np.int32
    assert facts.quant_tables[0][0].tolist() == [16, 11, 10, 16, 24, 40, 51, 61], "first row of Annex K.1"
    assert facts.quant_tables[1][0].tolist() == [17, 18, 24, 47, 99, 99, 99, 99], "first row of Annex K.2"


def test_foreign_tables_have_no_quality():
    table = [200, *range(3, 66)]
    facts = open_case(saved("JPEG", qtables=[table, table])).container.jpeg
    assert facts.quality is None
    assert facts.quality_distance > 1


def test_slightly_changed_table_has_a_distance():
    table = standard_luma(80).copy()
    table[20] += 3
    facts = open_case(saved("JPEG", qtables=[table.tolist(), table.tolist()])).container.jpeg
    assert facts.quality_distance == pytest.approx(3 / 64)
    assert facts.quality == 80


@pytest.mark.parametrize(
    ("option", "expected"), [("4:4:4", "4:4:4"), ("4:2:2", "4:2:2"), ("4:2:0", "4:2:0"), ("4:1:1", "4:2:0")]
)
def test_subsampling(option, expected):
    # Pillow reads 4:1:1 as 4:2:0.
    assert open_case(saved("JPEG", subsampling=option)).container.jpeg.subsampling == expected


def test_grey_progressive_and_huffman():
    facts = open_case(saved("JPEG", photo().convert("L"))).container.jpeg
    assert facts.subsampling == "grey"
    assert not facts.progressive
    assert not facts.optimised_huffman
    facts = open_case(saved("JPEG", progressive=True)).container.jpeg
    assert facts.progressive
    assert facts.optimised_huffman
    assert facts.markers.count("SOS") > 3
    assert open_case(saved("JPEG", optimize=True)).container.jpeg.optimised_huffman


def test_marker_order():
    data = with_segment(saved("JPEG", comment=b"a note"), 0xEB, b"C2PA or so")
    container = open_case(data).container
    assert container.jpeg.markers[:3] == ("SOI", "APP11", "APP0")
    assert container.jpeg.markers[-1] == "EOI"
    assert container.text["comment"] == "a note"


def test_restart_markers_are_not_segments():
    data = saved("JPEG", restart_marker_blocks=4)
    markers = open_case(data).container.jpeg.markers
    assert "DRI" in markers
    assert markers.count("SOS") == 1


def test_trailing_bytes_are_counted():
    for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF"):
        case = open_case(saved(name) + b"x" * 777)
        assert case.container.trailing_bytes == 777, name
        assert any("777 bytes follow" in note for note in case.notes)


# --- EXIF -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_of_every_directory(name):
    exif = Image.Exif()
    exif[0x010F] = "Canon"
    exif[0x0131] = "Adobe Photoshop 25.0"
    exif.get_ifd(0x8769)[0x829A] = 0.004
    exif.get_ifd(0x8769)[0x9003] = "2025:01:02 03:04:05"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.5)
    block = Image.Exif()
    block.load(exif.tobytes())  # TIFF is written with its sub-directories only this way
    tags = open_case(saved(name, exif=block)).container.exif
    assert tags["Make"] == "Canon"
    assert tags["Software"] == "Adobe Photoshop 25.0"
    assert float(tags["Exif:ExposureTime"]) == pytest.approx(0.004)
    assert tags["Exif:DateTimeOriginal"] == "2025:01:02 03:04:05"
    assert tags["GPS:GPSLatitudeRef"] == "N"
    assert tags["GPS:GPSLatitude"] == "52 31 12.5"
    assert "ExifOffset" not in tags


def test_user_comment_in_its_encodings():
    for order in "<>":
        text = "masterpiece, Steps: 20\nSampler: Euler a"
        for body in (
            b"ASCII\x00\x00\x00" + text.encode(),
            b"UNICODE\x00" + text.encode("utf-16-le"),
            b"UNICODE\x00" + text.encode("utf-16-be"),
            bytes(8) + text.encode(),
        ):
            sub = exif_block([(0x9286, 7, len(body), body)], order)
            facts = read_exif(sub)
            assert facts.tags["UserComment"] == text


def test_windows_titles():
    body = "Überschrift".encode("utf-16-le") + b"\x00\x00"
    assert read_exif(exif_block([(0x9C9B, 1, len(body), body)])).tags["XPTitle"] == "Überschrift"


def test_thumbnail_bytes():
    thumb = saved("JPEG", photo().resize((40, 32)))
    main = exif_block([(0x0112, 3, 1, b"\x06\x00")])
    link = main.rindex(bytes(4))  # next directory
    second_at = len(main)
    body = struct.pack("<HHHIIHHII", 2, 0x0201, 4, 1, second_at + 30, 0x0202, 4, 1, len(thumb)) + bytes(4)
    block = main[:link] + struct.pack("<I", second_at) + main[link + 4 :] + body
    assert len(block) == second_at + 30
    case = open_case(with_segment(saved("JPEG"), 0xE1, b"Exif\x00\x00" + block + thumb))
    assert case.container.thumbnail == thumb
    assert case.orientation == 6


def test_thumbnail_that_points_outside_is_none():
    block = exif_block([(0x0201, 4, 1, struct.pack("<I", 2**31)), (0x0202, 4, 1, struct.pack("<I", 99))])
    assert read_exif(block).thumbnail is None


def test_hostile_text_is_escaped_and_capped():
    evil = "safe\u202egpj.exe\x1b[31m\x07 <script>alert(1)</script> \u200bzero".encode()
    tags = read_exif(exif_block([(0x0131, 2, len(evil), evil), (0x010E, 2, 300_000, b"A" * 300_000)])).tags
    assert tags["Software"] == "safe\\u202egpj.exe\\x1b[31m\\x07 <script>alert(1)</script> \\u200bzero"
    assert len(tags["ImageDescription"]) < 66_000
    assert "more]" in tags["ImageDescription"]


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\x00",
        b"II*\x00\xff\xff\xff\xff",
        b"II*\x00\x08\x00\x00\x00\xff\xff" + b"\x00" * 40,
        exif_block([(0x8769, 4, 1, struct.pack("<I", 8))]),  # a directory that is its own child
        exif_block([(0x0131, 2, 2**32 - 1, b"x" * 8)]),
        exif_block([(0x0112, 12, 1, struct.pack("<d", float("nan")))]),
        exif_block([(0x829A, 5, 1, struct.pack("<II", 1, 0))]),
        exif_block([(tag, 3, 1, b"\x01\x00") for tag in range(2000)]),
    ],
)
def test_damaged_exif_never_stops_a_picture(block):
    case = open_case(with_segment(saved("JPEG"), 0xE1, b"Exif\x00\x00" + block))
    assert case.orientation == 1
    assert case.width == 160
    assert len(case.container.exif) <= 1024


def test_clean_keeps_layout_and_marks_cuts():
    assert clean("a\r\nb\tc\rd") == "a\nb\tc\nd"
    assert clean(b"caf\xe9") == "café"
    assert clean("café".encode()) == "café"
    assert clean("\ud800x") == "\\ud800x"
    assert clean("x" * 30, 10) == "x" * 10 + "… [20 more]"
    assert clean(("é" * 30).encode(), 10).startswith("é" * 10)
    assert "\x00" not in clean(b"\x00\x01\x02")
    clean("\udcff" * 5).encode("utf-8")


# --- other metadata -------------------------------------------------------------------------------------

PACKET = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>digitalSourceType</rdf:RDF></x:xmpmeta>'


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF"])
def test_xmp(name):
    if name == "GIF":
        data = saved("GIF")
        at = 13 + 3 * (2 << (data[10] & 7))
        steering = b"\x01" + bytes(range(255, -1, -1)) + b"\x00"
        data = data[:at] + b"\x21\xff\x0bXMP DataXMP" + PACKET + steering + data[at:]
    elif name == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", PACKET.decode(), zip=True)
        data = saved("PNG", pnginfo=info)
    elif name == "TIFF":
        data = saved("TIFF", tiffinfo={700: PACKET})
    else:
        data = saved(name, xmp=PACKET)
    container = open_case(data).container
    assert container.xmp == PACKET.decode()
    assert "XML:com.adobe.xmp" not in container.text


def test_extended_xmp_is_joined():
    more = b"http://ns.adobe.com/xmp/extension/\x00" + b"0" * 32
    data = saved("JPEG", xmp=PACKET)
    for offset, part in ((5, b"WORLD"), (0, b"HELLO")):
        data = with_segment(data, 0xE1, more + struct.pack(">II", 10, offset) + part)
    assert open_case(data).container.xmp.endswith("HELLOWORLD")


def test_png_text_chunks():
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a")
    info.add_text("workflow", '{"nodes": [' + "1," * 40_000 + "2]}", zip=True)
    info.add_itxt("Comment", "größe 猫", lang="de", tkey="Kommentar")
    info.add_text("Comment", "second")
    container = open_case(saved("PNG", pnginfo=info)).container
    assert container.text["parameters"] == "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a"
    assert container.text["workflow"].endswith("2]}"), "a large node graph stays whole"
    assert container.text["Comment"] == "größe 猫"
    assert container.text["Comment (2)"] == "second"


def test_text_bomb_is_capped():
    bomb = b"k\x00\x00" + zlib.compress(b"A" * 14_000_000, 9)
    data = saved("PNG")
    chunk = struct.pack(">I", len(bomb)) + b"zTXt" + bomb + struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
    case = open_case(data[:33] + chunk + data[33:])
    assert len(case.container.text["k"]) <= (1 << 20) + 40


def test_iptc():
    def dataset(record: int, number: int, value: bytes) -> bytes:
        return struct.pack(">BBBH", 0x1C, record, number, len(value)) + value

    iim = (
        dataset(1, 90, b"\x1b%G")
        + dataset(2, 0, b"\x00\x04")
        + dataset(2, 25, b"cat")
        + dataset(2, 25, b"dog")
    )
    iim += dataset(2, 80, "Zoë".encode()) + dataset(2, 231, b"other")
    resource = b"8BIM\x04\x04\x00\x00" + struct.pack(">I", len(iim)) + iim
    other = b"8BIM\x04\x25\x00\x00" + struct.pack(">I", 3) + b"abc\x00"
    container = open_case(
        with_segment(saved("JPEG"), 0xED, b"Photoshop 3.0\x00" + other + resource)
    ).container
    assert container.iptc["Keywords"] == "cat; dog"
    assert container.iptc["By-line"] == "Zoë"
    assert container.iptc["2:231"] == "other"
    assert read_iptc(b"\x1c\x02\x19\xff\xff") == {}
    assert open_case(saved("TIFF", tiffinfo={33723: iim})).container.iptc["Keywords"] == "cat; dog"


# --- colour profiles ------------------------------------------------------------------------------------


def wide_profile() -> bytes:
    """An RGB profile with red and green exchanged: an unmistakable effect."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", profile, 128)[0]
    for index in range(count):
        at = 132 + 12 * index
        swap = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(bytes(profile[at : at + 4]))
        if swap:
            profile[at : at + 4] = swap
    return bytes(profile)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_profile_is_applied_for_display_only(name):
    flat = Image.new("RGB", (32, 32), (220, 30, 30))
    case = open_case(saved(name, flat, icc_profile=wide_profile()))
    assert case.stored[16, 16, 0] > 200
    assert case.upright[16, 16, 1] > 200, "red and green exchanged by the profile"
    assert case.upright[16, 16, 0] < 60
    assert case.container.icc
    assert any("to sRGB for display" in note for note in case.notes)


def test_srgb_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    case = open_case(saved("PNG", icc_profile=profile))
    assert case.container.icc == "sRGB built-in"
    assert np.shares_memory(case.stored, case.upright)
    assert case.notes == ()


@pytest.mark.parametrize("profile", [b"junk" * 100, b"x", wide_profile()[:200], bytes(5 << 20)])
def test_bad_profile_is_a_note(profile):
    case = open_case(saved("TIFF", icc_profile=profile))
    np.testing.assert_array_equal(case.upright, case.stored)
    assert any("profile was ignored" in note for note in case.notes)


def test_profile_of_another_colour_space_is_a_note():
    case = open_case(saved("TIFF", photo().convert("CMYK"), icc_profile=wide_profile()))
    assert any("another colour space" in note for note in case.notes)


def test_profile_and_alpha_together():
    image = Image.new("RGBA", (32, 32), (220, 30, 30, 255))
    image.paste((220, 30, 30, 0), (0, 0, 16, 32))
    case = open_case(saved("PNG", image, icc_profile=wide_profile()))
    assert case.upright[5, 5].tolist() == [128, 128, 128]
    assert case.upright[5, 25, 1] > 200
    assert case.stored[5, 25, 0] > 200
