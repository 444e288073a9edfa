"""What can't be examined ends in a typed error that names the file and says what to do."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from vlmforensics.errors import CorruptImage, InputError, LimitExceeded, UnreadableFile, UnsupportedImage
from vlmforensics.imaging import case, open_case
from vlmforensics.imaging.decode import Job, decode
from vlmforensics.settings import Settings


def noise(height=40, width=56) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8))


def saved(name: str, image: Image.Image | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    image = image or noise()
    if name == "HEIC":
        pillow_heif.from_pillow(image).save(buffer)
    else:
        image.save(buffer, name, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, whole: bool = True) -> bytes:
    head = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    row = min((width + 7) // 8 + 1, 4000)
    deflate = zlib.compressobj(9)
    data = deflate.compress(bytes(row) * min(height, 200)) + deflate.flush()
    return head + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"") if whole else head


def tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 8)]
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + body + bytes(4)


def gif(width: int, height: int) -> bytes:
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + screen + frame + b";"


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def webp(width: int, height: int) -> bytes:
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    "data",
    [
        png(30_000, 30_000),
        png(30_000, 30_000, whole=False),
        png(50_000, 50_000),
        png(2**31 - 1, 2**31 - 1, whole=False),
        png(20_000, 5_001),
        tiff(50_000, 50_000),
        gif(60_000, 60_000),
        bmp(40_000, -40_000),
        webp(16_000_000, 16_000_000),
    ],
    ids=["png", "png-header", "png-50k", "png-max", "png-pixels", "tiff", "gif", "bmp", "webp"],
)
def test_bombs_are_refused_by_their_header(data, monkeypatch):
    def decoder(*_):
        pytest.fail("the decoder was asked")

    monkeypatch.setattr(case, "decode_safely", decoder)
    with pytest.raises(LimitExceeded, match="over the limit"):
        open_case(data)


def test_jpeg_and_heic_bombs():
    data = bytearray(saved("JPEG"))
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(LimitExceeded):
        open_case(bytes(data))
    data = bytearray(saved("HEIC", noise(64, 64)))
    at = data.find(b"ispe")
    data[at + 8 : at + 16] = struct.pack(">II", 60_000, 60_000)
    with pytest.raises(LimitExceeded):
        open_case(bytes(data))


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ({"max_bytes": 500}, "img.limit.bytes"),
        ({"max_pixels": 2000}, "img.limit.pixels"),
        ({"max_side": 50}, "img.limit.side"),
        ({"max_aspect": 1.3}, "img.limit.aspect"),
    ],
)
def test_each_limit(limit, code, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(saved("PNG"))
    for source in (path, path.read_bytes()):
        with pytest.raises(LimitExceeded) as caught:
            open_case(source, settings=Settings(**limit))
        assert caught.value.code == code
        assert next(iter(limit)) in caught.value.message


def test_frame_limit():
    frames = [Image.new("RGB", (8, 8), (level * 20, 0, 0)) for level in range(6)]
    for name in ("GIF", "WEBP", "TIFF", "PNG"):
        data = saved(name, frames[0], save_all=True, append_images=frames[1:])
        with pytest.raises(LimitExceeded) as caught:
            open_case(data, settings=Settings(max_frames=5))
        assert caught.value.code == "img.limit.frames", name
        assert open_case(data, settings=Settings(max_frames=6)).container.frames == 6


@pytest.mark.slow
@pytest.mark.parametrize("sandbox", [True, False])
def test_pillow_warning_size_is_ours_to_set(sandbox):
    """Pillow warns above 89 Mpx; our own limit governs, in both directions."""
    data = saved("PNG", Image.new("1", (11_000, 9_000)))
    assert open_case(data, settings=Settings(sandbox=sandbox)).width == 11_000
    assert Image.MAX_IMAGE_PIXELS == 89_478_485, "put back"


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIC"])
def test_truncated_at_many_lengths(name):
    """Whatever is cut off, even one byte, is noticed; nothing is ever half decoded."""
    data = saved(name, noise(64, 96))
    lengths = sorted(
        {int(len(data) * share) for share in np.linspace(0.02, 0.995, 23)} | {len(data) - 1, 1, 3, 12}
    )
    for length in lengths:
        with pytest.raises(InputError) as caught:
            open_case(data[:length], file="cut.bin")
        assert caught.value.file == "cut.bin"
        if length > 64:
            assert isinstance(caught.value, CorruptImage), (length, caught.value)


def test_truncated_progressive_jpeg():
    data = saved("JPEG", noise(96, 96), progressive=True)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(CorruptImage) as caught:
            open_case(data[: int(len(data) * share)])
        assert caught.value.code == "img.truncated"


@pytest.mark.parametrize(
    ("data", "code", "word"),
    [
        (b"", "img.empty", "empty"),
        (b"Just a letter to a friend, named photo.jpg.\n" * 9, "img.text", "text"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "img.svg", "PNG"),
        (b"\xef\xbb\xbf  <svg width='9'></svg>", "img.svg", "PNG"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "img.html", "web page"),
        (b"%PDF-1.7\n%\xe2\xe3", "img.unsupported", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "img.unsupported", "PostScript"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(20), "img.unsupported", "JPEG 2000"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(20), "img.unsupported", "JPEG XL"),
        (b"8BPS\x00\x01" + bytes(20), "img.unsupported", "Photoshop"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00isommp42", "img.video", "frame"),
        (b"\x00\x00\x00\x18ftypcrx \x00\x00\x00\x00crx isom", "img.raw", "raw"),
        (b"PK\x03\x04" + bytes(30), "img.unsupported", "archive"),
        (b"\x7fELF" + bytes(30), "img.unsupported", "program"),
        (bytes(range(128, 256)) * 3, "img.unsupported", "JPEG"),
        (b"P6 2 2 255 " + bytes(12), "img.unsupported", "PNG"),
    ],
)
def test_not_a_picture(data, code, word, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        open_case(path)
    assert caught.value.code == code
    assert caught.value.file == str(path)
    assert word in caught.value.message
    assert isinstance(caught.value, UnreadableFile if code == "img.empty" else UnsupportedImage)


def test_only_allowed_decoders_answer():
    """Pillow would open these; the door does not."""
    for name in ("PPM", "TGA", "PCX", "ICO", "ICNS", "JPEG2000", "SGI", "IM", "DDS"):
        with pytest.raises(UnsupportedImage):
            open_case(saved(name, noise(64, 64)))


def test_raw_in_tiff_clothing():
    data = bytearray(saved("TIFF"))
    at = data.find(struct.pack("<HHI", 262, 3, 1))
    data[at + 8 : at + 10] = struct.pack("<H", 32803)  # colour filter array
    with pytest.raises(UnsupportedImage) as caught:
        open_case(bytes(data))
    assert caught.value.code == "img.raw"


@pytest.mark.parametrize(
    "address", ["https://example.org/a.jpg", "HTTP://x/y", "file:///etc/passwd", "data:image/png;base64,AA"]
)
def test_addresses_are_not_fetched(address):
    with pytest.raises(UnsupportedImage) as caught:
        open_case(address)
    assert caught.value.code == "img.url"


def test_special_files_never_hang(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "fifo")
    for name, code in (
        ("folder", "img.folder"),
        ("link", "img.folder"),
        ("fifo", "img.special"),
        ("gone", "img.missing"),
    ):
        with pytest.raises(UnreadableFile) as caught:
            open_case(tmp_path / name)
        assert caught.value.code == code
    for path in (tmp_path / "loop", "/dev/zero", "/dev/null", "a\x00b", "", "x" * 5000):
        with pytest.raises(UnreadableFile):
            open_case(path)


def test_symlink_to_a_picture_is_followed(tmp_path):
    (tmp_path / "a.png").write_bytes(saved("PNG"))
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    assert open_case(tmp_path / "b.png").width == 56


def test_large_file_is_refused_before_reading(tmp_path, monkeypatch):
    def reader(*_):
        pytest.fail("the file was read")

    monkeypatch.setattr(case, "_read_bounded", reader)
    path = tmp_path / "huge.jpg"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # sparse
    with pytest.raises(LimitExceeded):
        open_case(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(saved("PNG"))
    path.chmod(0)
    with pytest.raises(UnreadableFile) as caught:
        open_case(path)
    assert caught.value.code == "img.permission"


def test_undecodable_name_can_be_carried(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\xfe.png")
    try:
        path.write_bytes(saved("PNG"))
    except OSError:
        pytest.skip("this file system refuses such names")
    case = open_case(path)
    case.file.encode("utf-8")


def test_wrong_extension_is_noted(tmp_path):
    path = tmp_path / "holiday.jpg"
    path.write_bytes(saved("PNG"))
    case = open_case(path)
    assert case.container.format == "PNG"
    assert any(".jpg" in note and "PNG" in note for note in case.notes)
    path = tmp_path / "holiday.jpeg"
    path.write_bytes(saved("JPEG"))
    assert open_case(path).notes == ()


def test_contradictions_are_refused():
    data = bytearray(saved("JPEG"))
    at = data.find(b"\xff\xc0")
    frame = bytes(data[at : at + 19])
    with pytest.raises(CorruptImage, match="two frame headers"):
        open_case(bytes(data[:at]) + frame + bytes(data[at:]))
    data = bytearray(saved("PNG"))
    data[20] ^= 1  # a width that the checksum does not cover any more
    with pytest.raises(CorruptImage, match="checksum"):
        open_case(bytes(data))
    data = bytearray(saved("PNG"))
    data[data.find(b"IDAT") + 30] ^= 0xFF
    with pytest.raises(CorruptImage):
        open_case(bytes(data))


def test_float_with_holes_is_refused():
    plane = np.ones((20, 30), np.float32)
    plane[3, 4] = np.nan
    with pytest.raises(UnsupportedImage) as caught:
        open_case(saved("TIFF", Image.fromarray(plane)))
    assert caught.value.code == "img.float"


def test_truncated_pillow_setting_of_others_is_overruled(monkeypatch):
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = saved("JPEG", noise(200, 200), quality=95)
    with pytest.raises(CorruptImage) as caught:
        decode(data[: len(data) // 2], Job("JPEG", 200, 200, 8, 1, 10**6))
    assert caught.value.code == "img.truncated"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True, "put back"


def test_wrong_kinds_of_source():
    for source in (None, 7, ["a.png"], np.zeros((4, 4, 3), np.uint8)):
        with pytest.raises(UnreadableFile):
            open_case(source)
