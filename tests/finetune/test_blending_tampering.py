"""The generator of tampered pictures: determinism, masks that tell the truth, the shared chain."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vlmforensics.errors import SettingsError
from vlmforensics.finetune import shapes
from vlmforensics.finetune.distort import process, recompress
from vlmforensics.finetune.tampering import KINDS, UNSEEN_KINDS, _multiband, _poisson, boundary, tamper


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[:160, 60:260])


@pytest.fixture(scope="module")
def donor() -> np.ndarray:
    from skimage import data

    return np.ascontiguousarray(data.coffee()[100:300, 100:340])


@pytest.mark.parametrize("kind", KINDS + UNSEEN_KINDS)
def test_each_kind_is_seeded_and_marks_what_it_changed(
    pixels: np.ndarray, donor: np.ndarray, kind: str
) -> None:
    before = pixels.copy()
    made = tamper(pixels, donor, np.random.default_rng(5), kinds=[kind])
    again = tamper(pixels, donor, np.random.default_rng(5), kinds=[kind])
    other = tamper(pixels, donor, np.random.default_rng(6), kinds=[kind])
    assert np.array_equal(pixels, before), "the authentic picture must stay as it is"
    assert np.array_equal(made.pixels, again.pixels)
    assert np.array_equal(made.mask, again.mask)
    assert not np.array_equal(made.pixels, other.pixels)
    assert made.kind == kind
    assert made.pixels.shape == pixels.shape
    assert made.pixels.dtype == np.uint8
    assert made.mask.shape == pixels.shape[:2]
    assert made.mask.dtype == np.float32
    assert 0.0 <= made.mask.min() <= made.mask.max() <= 1.0
    assert 0.004 < float(made.mask.mean()) < 0.6


@pytest.mark.parametrize("kind", ["paste", "copy-move", "fill", "colour", "resynthesis"])
@pytest.mark.parametrize("seed", range(4))
def test_nothing_changes_far_outside_the_mask(
    pixels: np.ndarray, donor: np.ndarray, kind: str, seed: int
) -> None:
    made = tamper(pixels, donor, np.random.default_rng(seed), kinds=[kind])
    changed = np.abs(made.pixels.astype(int) - pixels).max(axis=2) > 2
    near = cv2.dilate((made.mask > 0.001).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert not (changed & ~near).any()
    assert changed.any()


def test_self_blending_keeps_one_of_the_two_sides(pixels: np.ndarray, donor: np.ndarray) -> None:
    kept = []
    for seed in range(10):
        made = tamper(pixels, donor, np.random.default_rng(seed), kinds=["self-blend"])
        gap = np.abs(made.pixels.astype(int) - pixels).max(axis=2)
        inside, outside = gap[made.mask > 0.999], gap[made.mask == 0]
        if made.blend != "poisson" and inside.size:
            kept.append(min(np.median(inside), np.median(outside)) <= 1)
    # In three of ten cases the pasted side is shifted as well, and then neither side stays.
    assert sum(kept) >= len(kept) / 2


def test_poisson_and_multiband_are_in_register(pixels: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    mask, _ = shapes.draw(pixels, rng, shapes=["polygon"])
    assert np.abs(_poisson(pixels, pixels, mask, rng).astype(int) - pixels).max() <= 2
    assert np.abs(_multiband(pixels, pixels, mask).astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_shapes_stay_off_the_frame(pixels: np.ndarray, shape: str) -> None:
    for seed in range(5):
        mask, _ = shapes.draw(pixels, np.random.default_rng(seed), shapes=[shape])
        frame = mask.copy()
        frame[3:-3, 3:-3] = 0
        assert not frame.any()
        assert set(np.unique(mask)) <= {0.0, 1.0}
        assert 0.004 < float(mask.mean()) <= 0.5


def test_boundary_is_one_on_the_seam_and_zero_away_from_it() -> None:
    mask = np.zeros((64, 64), np.float32)
    mask[:, 32:] = 1
    edge = boundary(mask)
    assert edge[:, 31:33].min() > 0.9
    assert edge[:, :20].max() < 0.01
    assert edge[:, 44:].max() < 0.01
    assert np.allclose(boundary(np.full((16, 16), 0.5, np.float32)), 1.0)


def test_chain_depends_on_the_seed_not_on_the_class(pixels: np.ndarray) -> None:
    mask = np.zeros(pixels.shape[:2], np.float32)
    mask[40:80, 40:90] = 1
    sizes = set()
    for seed in range(12):
        first, small = recompress(pixels, mask, np.random.default_rng(seed))
        again, _ = recompress(pixels, 0 * mask, np.random.default_rng(seed))
        assert np.array_equal(first, again), "the mask must not influence the chain"
        assert small.shape == first.shape[:2]
        assert abs(float(small.mean()) - float(mask.mean())) < 0.02
        sizes.add(first.shape)
    assert len(sizes) > 4


def test_chain_takes_a_given_scale(pixels: np.ndarray) -> None:
    mask = np.zeros(pixels.shape[:2], np.float32)
    out, _ = recompress(pixels, mask, np.random.default_rng(0), scale=0.5)
    assert out.shape == (80, 100, 3)


def test_processing_changes_but_keeps_the_size(pixels: np.ndarray) -> None:
    for seed in range(20):
        out = process(pixels, np.random.default_rng(seed))
        assert out.shape == pixels.shape
        assert out.dtype == np.uint8
        assert np.abs(out.astype(int) - pixels).mean() > 0.05
        assert np.array_equal(out, process(pixels, np.random.default_rng(seed)))


def test_flat_and_tiny_pictures(donor: np.ndarray) -> None:
    flat = np.full((48, 40, 3), 90, np.uint8)
    for seed in range(5):
        made = tamper(flat, donor, np.random.default_rng(seed))
        assert np.abs(made.pixels.astype(int) - flat).max() > 1
    with pytest.raises(SettingsError, match="32 px"):
        tamper(flat[:20], donor, np.random.default_rng(0))
    with pytest.raises(SettingsError, match="unknown way"):
        tamper(flat, donor, np.random.default_rng(0), kinds=["magic"])
