"""Votes for a JPEG grid, texture contrast, faces, and error levels as a picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from vlmforensics.imaging import decode_trusted, encode, open_case
from vlmforensics.settings import Settings
from vlmforensics.signals import SOURCES, ela, faces, jpeg_votes
from vlmforensics.signals.blocks import block_dct
from vlmforensics.signals.faces import Faces
from vlmforensics.signals.jpeg_votes import JpegVotes, grid_votes, zeros
from vlmforensics.signals.maps import luma
from vlmforensics.signals.texture import TextureContrast, texture_features

PHOTOGRAPHS = ["astronaut", "coffee", "chelsea", "rocket"]
PATCH = (slice(96, 256), slice(128, 320))


def photograph(name: str) -> np.ndarray:
    return np.ascontiguousarray(getattr(data, name)()[..., :3])


def saved(pixels: np.ndarray, quality: int) -> np.ndarray:
    return decode_trusted(encode(np.ascontiguousarray(pixels), "JPEG", quality=quality, subsampling="4:4:4"))


def case(pixels: np.ndarray, quality: int | None = None):
    pixels = np.ascontiguousarray(pixels)
    if quality is None:
        return open_case(encode(pixels, "PNG"), settings=Settings(sandbox=False))
    file = encode(pixels, "JPEG", quality=quality, subsampling="4:4:4")
    return open_case(file, settings=Settings(sandbox=False))


class TestVotes:
    def test_zeros_are_those_of_each_block(self):
        plane = np.rint(luma(saved(photograph("coffee"), 80)))[:64, :80]
        count = zeros(plane)
        for top, left in ((0, 0), (3, 5), (7, 1)):
            blocks = np.abs(block_dct(plane, top, left)) < 0.499
            blocks[..., 0, 0] = False
            expected = blocks.sum(axis=(2, 3))
            seen = count[top::8, left::8][: expected.shape[0], : expected.shape[1]]
            assert np.array_equal(seen, expected)

    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    @pytest.mark.parametrize("quality", [95, 85, 70])
    def test_no_alarm(self, name, quality):
        (evidence,) = JpegVotes().examine(case(photograph(name), quality))
        assert evidence.recompute["main"] == [0, 0]
        assert evidence.score <= 0
        assert evidence.region is None

    def test_former_jpeg_is_recognised_by_its_grid(self):
        (evidence,) = JpegVotes().examine(case(saved(photograph("astronaut"), 80)[5:, 2:]))
        assert evidence.recompute["main"] == [6, 3]

    @pytest.mark.parametrize("name", ["astronaut", "coffee"])
    def test_part_moved_off_the_grid(self, name):
        picture = saved(photograph(name), 80)
        source = np.roll(picture, (3, 5), (0, 1))
        picture[PATCH] = source[PATCH]
        (evidence,) = JpegVotes().examine(case(picture))
        assert evidence.score > 0
        assert "offset (5, 3)" in evidence.statement
        truth = np.zeros(picture.shape[:2], bool)
        truth[PATCH] = True
        mask = evidence.region.mask
        assert (mask & truth).sum() / (mask | truth).sum() > 0.4

    @pytest.mark.parametrize(("top", "left"), [(0, 0), (130, 200), (260, 0)])
    def test_a_part_weighs_the_same_at_the_border(self, top, left):
        votes = np.zeros((300, 400), bool)
        votes[top : top + 40, left : left + 40] = True
        part, score = jpeg_votes._part(votes, np.flatnonzero(votes), 12)
        assert np.array_equal(part, votes)
        assert 30 < score < 40

    def test_noise_has_no_grid(self):
        noise = np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.float32)
        assert grid_votes(noise).main is None


class TestTexture:
    def test_vector_is_finite_and_of_one_length(self):
        vectors = [texture_features(photograph(name)) for name in PHOTOGRAPHS]
        assert {vector.shape for vector in vectors} == {(53,)}
        assert all(np.isfinite(vector).all() for vector in vectors)

    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    def test_noise_that_does_not_follow_texture_lowers_the_contrast(self, name):
        rng = np.random.default_rng(1)
        picture = photograph(name)
        smooth = cv2.GaussianBlur(picture, (0, 0), 1.5)
        even = np.clip(smooth + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
        before, after = (TextureContrast().examine(case(pixels))[0].score for pixels in (picture, even))
        assert after < before - 0.5

    def test_flat_says_nothing(self):
        assert TextureContrast().examine(case(np.full((300, 300, 3), 120, np.uint8))) == []


class TestFaces:
    def test_finds_the_face_and_no_alarm(self):
        (evidence,) = Faces().examine(case(photograph("astronaut")))
        ((x0, y0, x1, y1),) = evidence.recompute["faces"]
        assert x0 < 222 < x1
        assert y0 < 114 < y1
        assert evidence.score < faces.FOUND
        assert evidence.region is None

    @pytest.mark.parametrize("quality", [90, 75])
    def test_no_alarm_after_compression(self, quality):
        (evidence,) = Faces().examine(case(photograph("astronaut"), quality))
        assert evidence.score < faces.FOUND

    def test_softened_face(self):
        picture = photograph("astronaut")
        soft = cv2.GaussianBlur(picture, (0, 0), 2.0)
        mask = cv2.ellipse(np.zeros(picture.shape[:2], np.float32), (222, 114), (36, 46), 0, 0, 360, 1, -1)
        alpha = cv2.GaussianBlur(mask, (0, 0), 3)[..., None]
        swapped = np.rint(picture * (1 - alpha) + soft * alpha).astype(np.uint8)
        (evidence,) = Faces().examine(case(swapped))
        assert evidence.score >= faces.FOUND
        assert evidence.region is not None
        assert "softer" in evidence.statement

    @pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket"])
    def test_no_face_no_evidence(self, name):
        assert Faces().examine(case(photograph(name))) == []


class TestErrorLevels:
    def test_picture_of_the_upright_frame(self):
        subject = case(photograph("coffee"), 90)
        drawn = ela.error_levels(subject)
        assert drawn.shape == subject.upright.shape
        assert drawn.dtype == np.uint8

    def test_a_part_saved_at_the_same_quality_stays_dark(self):
        picture = photograph("coffee")
        done = saved(picture, ela.QUALITY)
        mixed = picture.copy()
        mixed[:200] = done[:200]
        drawn = ela.error_levels(case(mixed)).mean(axis=2)
        assert drawn[:192].mean() < 0.5 * drawn[208:].mean()

    def test_is_no_source(self):
        assert not any("ela" in target.split(":")[0].split(".")[-1] for target in SOURCES)
