"""Large pictures: work is bounded, and what was planted is still found; smaller ones are examined as ever."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
from skimage import data

from vlmforensics.imaging import decode_trusted, encode, open_case
from vlmforensics.settings import Settings
from vlmforensics.signals import duplicates, maps, upsampling
from vlmforensics.signals.chromatic import ChromaticAberration
from vlmforensics.signals.clusters import ResidualClusters
from vlmforensics.signals.copymove import FOUND, LARGE_KEYPOINTS, CopyMove
from vlmforensics.signals.faces import Faces
from vlmforensics.signals.jpeg_double import JpegDouble
from vlmforensics.signals.jpeg_grid import JpegGrid
from vlmforensics.signals.jpeg_votes import JpegVotes
from vlmforensics.signals.upsampling import Upsampling

SIZE = (2800, 2100)
"""Width and height, 5.9 megapixels."""


def enlarged(name: str, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A photograph with a sensor's noise at its new size."""
    shipped = np.ascontiguousarray(getattr(data, name)()[..., :3])
    larger = cv2.resize(shipped, size, interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(3).normal(0, 3, larger.shape[:2])
    return np.clip(larger + noise[..., None], 0, 255).astype(np.uint8)


def case(pixels: np.ndarray, quality: int = 92):
    return open_case(encode(pixels, "JPEG", quality=quality), settings=Settings(sandbox=False))


class TestReduction:
    @pytest.mark.parametrize("shape", [(300, 400), (1000, 2000), (1999, 1000), (2000, 700)])
    def test_up_to_two_megapixels_is_one_plain_reduction(self, shape):
        pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        assert maps.halved(pixels, 10, 10) is pixels
        found = maps.reduced(pixels, 500_000)
        if shape[0] * shape[1] <= 500_000:
            assert found is pixels
        else:
            expected = cv2.resize(pixels, found.shape[1::-1], interpolation=cv2.INTER_AREA)
            assert np.array_equal(found, expected)

    @pytest.mark.parametrize("shape", [(2100, 2800), (2101, 2799), (900, 9001), (4000, 3000)])
    def test_large_pictures_keep_their_content(self, shape):
        y, x = np.mgrid[: shape[0], : shape[1]]
        pixels = (127 + 60 * np.sin(x / 90) + 60 * np.cos(y / 70)).astype(np.uint8)
        found = maps.reduced(pixels, 800_000)
        assert 0.9 * 800_000 < found.size < 1.01 * 800_000
        expected = cv2.resize(pixels, found.shape[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(found.astype(int) - expected).max() <= 3

    def test_halving_stops_before_the_size_that_is_needed(self):
        pixels = np.zeros((3000, 4000), np.uint8)
        assert maps.halved(pixels, 1033, 775).shape == (1500, 2000)
        assert maps.halved(pixels, 2001, 100).shape == (3000, 4000)


class TestCopyMove:
    @pytest.mark.parametrize(("name", "source", "copy"), [("coffee", (700, 700), (2200, 1500))])
    def test_both_parts_are_found(self, name, source, copy, monkeypatch):
        seen = []
        plain = duplicates.reduced
        monkeypatch.setattr(
            duplicates, "reduced", lambda plane, limit: seen.append(plain(plane, limit)) or seen[-1]
        )
        forged = enlarged(name)
        disc = cv2.circle(np.zeros(forged.shape[:2], np.uint8), source, 240, 1, -1)
        affine = np.array([[1.0, 0, copy[0] - source[0]], [0, 1.0, copy[1] - source[1]]])
        moved = cv2.warpAffine(disc, affine, SIZE, flags=cv2.INTER_NEAREST)
        forged = np.where(moved[..., None] > 0, cv2.warpAffine(forged, affine, SIZE), forged)
        (evidence,) = CopyMove().examine(case(forged))
        truth = (disc + moved) > 0
        assert evidence.score >= FOUND
        assert (evidence.region.mask & truth).sum() / (evidence.region.mask | truth).sum() > 0.3
        assert [plane.size <= 1.01 * LARGE_KEYPOINTS[1] for plane in seen] == [True]

    def test_no_alarm(self):
        (evidence,) = CopyMove().examine(case(enlarged("coffee")))
        assert evidence.score < FOUND

    def test_keypoints_of_a_reduced_plane_are_in_its_own_pixels(self):
        y, x = np.mgrid[:600, :900]
        spots = [(x - column) ** 2 + (y - row) ** 2 for row in (100, 300, 500) for column in (150, 450, 750)]
        plane = (60 + 150 * np.exp(-np.min(spots, axis=0) / 128)).astype(np.float32)
        found = duplicates._keypoints(plane, 500, 300_000)
        number = np.rint((found.place - (150, 100)) / (300, 200))
        assert len(np.unique(number, axis=0)) == 9
        assert np.abs(number * (300, 200) + (150, 100) - found.place).max() < 0.75


def test_upsampling_is_found_in_a_bounded_window():
    shipped = np.ascontiguousarray(data.coffee())
    larger = cv2.resize(shipped, None, fx=5, fy=5, interpolation=cv2.INTER_LINEAR)
    found = {evidence.source: evidence for evidence in Upsampling().examine(case(larger, 95))}
    assert found["upsampling"].score >= upsampling.FOUND
    _, _, width, height = found["upsampling"].recompute["window"]
    assert width * height <= maps.LARGE


def test_an_earlier_compression_is_found():
    before = decode_trusted(encode(enlarged("coffee"), "JPEG", quality=70, subsampling="4:4:4"))
    (evidence,) = JpegDouble().examine(case(before, 92))
    assert abs(evidence.recompute["first_quality"] - 70) <= 2
    assert "saved as JPEG before" in evidence.statement


def test_a_softened_face_is_found():
    picture = enlarged("astronaut", (2100, 2100))
    soft = cv2.GaussianBlur(picture, (0, 0), 3.0)
    mask = cv2.ellipse(np.zeros(picture.shape[:2], np.float32), (910, 467), (148, 189), 0, 0, 360, 1, -1)
    swapped = np.where(mask[..., None] > 0, soft, picture)
    (plain,), (softened,) = Faces().examine(case(picture)), Faces().examine(case(swapped))
    ((x0, y0, x1, y1),) = softened.recompute["faces"]
    assert x0 < 910 < x1
    assert y0 < 467 < y1
    assert softened.score > plain.score + 0.3


@pytest.mark.parametrize("source", [JpegGrid(), JpegVotes(), ResidualClusters()])
def test_half_a_window_of_large_pictures(source):
    limit = sys.modules[type(source).__module__].LIMIT
    for evidence in source.examine(case(enlarged("coffee"))):
        _, _, width, height = evidence.recompute["window"]
        assert width * height <= limit / 2


def test_an_aberration_is_measured_in_pixels_of_the_picture():
    picture = enlarged("coffee")
    grown = cv2.getRotationMatrix2D((SIZE[0] / 2, SIZE[1] / 2), 0, 1.002)
    grey = picture[..., 1]
    lens = np.dstack([cv2.warpAffine(grey, grown, SIZE, flags=cv2.INTER_CUBIC), grey, grey])
    (evidence,) = ChromaticAberration().examine(case(lens, 95))
    shift = float(evidence.statement.split(" by ")[1].split()[0])
    assert shift == pytest.approx(0.002 * np.hypot(*SIZE) / 2, rel=0.25)
