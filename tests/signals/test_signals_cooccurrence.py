"""Co-occurrence features: symmetries, bounds, and what blur and noise do to them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from vlmforensics.imaging import encode, open_case
from vlmforensics.settings import Settings
from vlmforensics.signals import cooccurrence
from vlmforensics.signals.cooccurrence import COLOURS, RUNS, Cooccurrence, cooccurrence_features

PICTURE = np.ascontiguousarray(data.coffee()[:256, :256])


def case(pixels):
    return open_case(encode(np.ascontiguousarray(pixels), "PNG"), settings=Settings(sandbox=False))


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.transpose(1, 0, 2),
        lambda p: p[::-1],
        lambda p: p[:, ::-1],
        lambda p: 255 - p,
        np.rot90,
    ],
    ids=["transposed", "upside down", "mirrored", "negative", "turned"],
)
def test_symmetries(change):
    """Neither turning nor mirroring nor inverting a picture changes what its detail is like."""
    changed = np.ascontiguousarray(change(PICTURE))
    np.testing.assert_allclose(cooccurrence_features(changed), cooccurrence_features(PICTURE), atol=1e-3)


def test_classes():
    for length, number in ((3, 10), (4, 25)):
        index, classes = cooccurrence.run_classes(length)
        assert classes == number
        assert len(index) == 3**length
        assert set(index) == set(range(number))
        assert index[0] == index[-1], "all down and all up are one class"


def test_known_counts():
    """A ramp has no second difference; one-pixel stripes swing at every step."""
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32), (64, 64)).copy()
    levels = cooccurrence._levels(ramp, 2, 2.0)
    assert (levels == 1).all()
    stripes = np.broadcast_to((np.arange(64) % 2 * 100).astype(np.float32), (64, 64)).copy()
    counts = cooccurrence._run_counts(cooccurrence._levels(stripes, 3, 8.0))
    assert np.count_nonzero(counts) == 1, "down, up, down, up is the only class"
    assert counts.sum() == 64 * (64 - 3 - 3)


def test_frequencies_sum_to_one():
    vector = cooccurrence_features(PICTURE)
    assert vector.shape == (25 * len(RUNS) + 10 * len(COLOURS),)
    assert vector.dtype == np.float32
    parts = np.split(np.exp(vector), [25 * i for i in range(1, len(RUNS) + 1)])
    for part in parts[: len(RUNS)]:
        assert part.sum() == pytest.approx(1, abs=0.01)


def test_blur_makes_runs_flat_and_noise_breaks_them():
    rng = np.random.default_rng(0)
    blurred = cv2.GaussianBlur(PICTURE, (0, 0), 1.5)
    noisy = np.clip(PICTURE + rng.normal(0, 10, PICTURE.shape), 0, 255).astype(np.uint8)
    scores = [Cooccurrence().examine(case(p))[0].score for p in (blurred, PICTURE, noisy)]
    assert scores[0] < scores[1] < scores[2]


def test_says_nothing_of_flat_or_tiny_pictures():
    assert Cooccurrence().examine(case(np.full((100, 100, 3), 40, np.uint8))) == []
    assert Cooccurrence().examine(case(PICTURE[:60, :60])) == []
    with pytest.raises(ValueError, match="64"):
        cooccurrence_features(PICTURE[:63])


def test_size_hardly_matters():
    rng = np.random.default_rng(5)
    grain = rng.normal(128, 12, (900, 1300, 3)).clip(0, 255).astype(np.uint8)
    small, large = cooccurrence_features(grain[:256, :256]), cooccurrence_features(grain)
    assert np.abs(np.exp(small) - np.exp(large)).max() < 0.01
