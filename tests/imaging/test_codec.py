"""Encoding, trusted decoding, resizing and masks as text."""

# ruff: noqa: PT017 - both outcomes are right, and both are checked
from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as referee

from vlmforensics.errors import Defect, InputError, SettingsError
from vlmforensics.imaging import (
    decode_trusted,
    encode,
    open_case,
    resize,
    resize_plane,
    rle_decode,
    rle_encode,
    thumbnail,
    to_jpeg_preview,
    to_png,
)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


def test_exact_encodings_come_back():
    pixels = noise(33, 47, 3)
    for data in (
        encode(pixels, "PNG"),
        encode(pixels, "PNG", optimise=True),
        encode(pixels, "WEBP", lossless=True),
    ):
        np.testing.assert_array_equal(decode_trusted(data), pixels)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("quality", [5, 60, 95])
def test_jpeg_is_encoded_as_asked_and_without_metadata(quality, subsampling):
    data = encode(noise(64, 64, 3), "JPEG", quality=quality, subsampling=subsampling)
    container = open_case(data).container
    assert container.jpeg.quality == quality
    assert container.jpeg.subsampling == subsampling
    assert container.exif == {}
    assert container.icc is None
    assert data == encode(noise(64, 64, 3), "JPEG", quality=quality, subsampling=subsampling), (
        "same bytes again"
    )


def test_decode_trusted_is_writable_rgb():
    pixels = decode_trusted(encode(noise(20, 30), "JPEG"))
    assert pixels.shape == (20, 30, 3)
    pixels[0, 0] = 7


def test_encode_refuses_nonsense():
    with pytest.raises(SettingsError):
        encode(noise(8, 8, 3), "GIF")
    with pytest.raises(SettingsError):
        encode(noise(8, 8, 3), quality=0)
    with pytest.raises(SettingsError):
        encode(noise(8, 8, 3), subsampling="4:1:1")
    for array in (noise(8, 8, 2), noise(8), noise(0, 8, 3), noise(8, 8, 3).astype(np.float32)):
        with pytest.raises(Defect):
            encode(array)


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3), (9, 7, 4)])
def test_to_png(shape):
    array = noise(*shape)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(to_png(array)))), array)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(to_png(array[:, ::-1])))), array[:, ::-1])


def test_preview_is_small_enough():
    case = open_case(to_jpeg_preview(noise(300, 900, 3), side=256))
    assert (case.width, case.height) == (256, 85)
    assert open_case(to_jpeg_preview(noise(30, 90, 3), side=256)).width == 90, "never enlarged"


def test_resize_is_antialiased_and_nearest_is_not():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    for name in ("bilinear", "bicubic", "lanczos", "box"):
        small = resize(stripes, 16, 16, resample=name)
        assert small.shape == (16, 16, 3)
        assert np.abs(small[:, 2:-2].astype(int) - 128).max() <= 3, name
    assert set(np.unique(resize(stripes, 16, 16, resample="nearest"))) <= {0, 255}


def test_resize_keeps_its_input_apart():
    pixels = noise(10, 12, 3)
    same = resize(pixels, 12, 10)
    np.testing.assert_array_equal(same, pixels)
    same[:] = 0
    assert pixels.any()
    with pytest.raises(SettingsError):
        resize(pixels, 0, 4)
    with pytest.raises(SettingsError):
        resize(pixels, 4, 4, resample="sinc")


def test_resize_plane_keeps_the_mean_and_the_type():
    plane = np.random.default_rng(0).random((40, 60)).astype(np.float64)
    small = resize_plane(plane, 15, 10, resample="box")
    assert small.dtype == np.float32
    assert small.shape == (10, 15)
    assert small.mean() == pytest.approx(plane.mean(), abs=1e-6)
    large = resize_plane(plane, 600, 400)
    assert large.min() >= plane.min() - 1e-6
    assert large.max() <= plane.max() + 1e-6


@pytest.mark.parametrize(
    ("shape", "side", "expected"), [((100, 50), 20, (20, 10)), ((3, 2000), 100, (1, 100))]
)
def test_thumbnail(shape, side, expected):
    assert thumbnail(noise(*shape, 3), side).shape[:2] == expected


# --- masks as text ---


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)))
def test_rle_agrees_with_pycocotools(mask):
    ours = rle_encode(mask)
    theirs = referee.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert ours == {"size": list(theirs["size"]), "counts": theirs["counts"].decode()}
    np.testing.assert_array_equal(rle_decode(ours), mask)
    np.testing.assert_array_equal(rle_decode(theirs), mask)


@pytest.mark.parametrize("density", [0.0, 1e-5, 0.01, 0.5, 1.0])
def test_rle_of_a_large_mask(density):
    mask = np.random.default_rng(1).random((700, 900)) < density
    ours = rle_encode(mask)
    assert ours["counts"] == referee.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    np.testing.assert_array_equal(rle_decode(ours), mask)


def test_rle_of_nothing():
    empty = np.zeros((0, 7), np.bool_)
    assert rle_decode(rle_encode(empty)).shape == (0, 7)


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
    st.integers(0, 50),
    st.integers(0, 50),
)
def test_any_text_decodes_or_is_refused(counts, height, width):
    try:
        mask = rle_decode({"size": [height, width], "counts": counts})
    except InputError as error:
        assert error.code == "rle.invalid"
    else:
        assert mask.shape == (height, width)


@pytest.mark.parametrize(
    "rle",
    [
        {},
        {"size": [2, 2]},
        {"size": [2], "counts": "4"},
        {"size": [2, 2], "counts": "5"},
        {"size": [2, 2], "counts": "é"},
        {"size": [2, 2], "counts": 4},
        {"size": [-2, -2], "counts": "4"},
        {"size": [10**6, 10**6], "counts": "4"},
        {"size": [2, 2], "counts": "o" * 12},
        {"size": [2, 2], "counts": "ooooooo0" * 9},
    ],
)
def test_damaged_rle_is_refused(rle):
    with pytest.raises(InputError):
        rle_decode(rle)


def test_only_masks_are_encoded():
    with pytest.raises(Defect):
        rle_encode(np.zeros((3, 3), np.uint8))
