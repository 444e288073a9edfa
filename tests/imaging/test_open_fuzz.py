"""Any bytes either decode or raise an ``InputError``: nothing else, ever."""

# ruff: noqa: PT017 - both outcomes are right, and both are checked
from __future__ import annotations

import io
from functools import cache

import numpy as np
import pillow_heif
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from vlmforensics.errors import InputError
from vlmforensics.imaging import open_case
from vlmforensics.settings import Settings

NAMES = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIC")
MAGICS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x20\x00\x00\x00WEBPVP8 ", b"II*\x00", b"MM\x00*",
    b"II+\x00\x08\x00\x00\x00", b"BM\x00\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00", b"GIF89a",
    b"\x00\x00\x00\x1cftypavif", b"\x00\x00\x00\x1cftypheic", b"",
)  # fmt: skip
LIMITS = Settings(max_pixels=4_000_000, decode_seconds=20)
QUICK = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@cache
def valid(name: str) -> bytes:
    """A small file of the format, rich in metadata."""
    pixels = np.random.default_rng(1).integers(0, 256, (24, 40, 3), np.uint8)
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x0131] = 6, "fuzz"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\x00\x00\x00hello"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    if name == "HEIC":
        pillow_heif.from_pillow(image).save(buffer, exif=exif.tobytes())
    elif name == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", "x" * 50, zip=True)
        image.convert("RGBA").save(buffer, name, exif=exif, pnginfo=info)
    elif name in ("BMP", "GIF"):
        image.save(buffer, name)
    else:
        image.save(buffer, name, exif=exif)
    return buffer.getvalue()


def check(data: bytes) -> None:
    try:
        case = open_case(data, file="fuzz", settings=LIMITS)
    except InputError as error:
        assert error.file == "fuzz"
        assert len(error.message) > 10
        assert error.code.startswith("img")
        assert error.code != "img.crash", "a crash of the decoder is worth a look"
    else:
        assert case.upright.dtype == np.uint8
        assert case.upright.size > 0
        for text in (*case.container.exif.values(), *case.container.text.values(), case.container.xmp or ""):
            text.encode("utf-8")
            assert "\x00" not in text
            assert "\x1b" not in text


@QUICK
@given(st.sampled_from(MAGICS), st.binary(max_size=65_536))
def test_any_bytes(magic, rest):
    check((magic + rest)[:65_536])


@pytest.mark.parametrize("name", NAMES)
@QUICK
@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12),
    st.booleans(),
)
def test_changed_bytes(name, changes, early):
    data = bytearray(valid(name))
    for share, value in changes:
        # Headers are where structure lies: half of the runs stay within the first 400 bytes.
        data[int(share * (min(400, len(data)) if early else len(data)))] = value
    check(bytes(data))


@pytest.mark.parametrize("name", NAMES)
@QUICK
@given(st.floats(0, 1), st.floats(0, 1), st.binary(max_size=40))
def test_cut_and_inserted_bytes(name, first, second, piece):
    data = valid(name)
    start, end = sorted((int(first * len(data)), int(second * len(data))))
    check(data[:start] + piece + data[end:])
    check(data[:start] + piece + data[start:])


@pytest.mark.parametrize("name", NAMES)
def test_the_samples_themselves_open(name):
    assert open_case(valid(name)).container.format == name
