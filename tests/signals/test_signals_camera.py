"""Traces of the camera: mosaic, lens, residual statistics, thumbnail; found where planted, silent where not."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from skimage import data

from vlmforensics.imaging import encode, open_case, resize, sandbox
from vlmforensics.settings import Settings
from vlmforensics.signals import cfa, chromatic, clusters, load_sources, thumbnail
from vlmforensics.signals.cfa import ColourFilterArray
from vlmforensics.signals.chromatic import ChromaticAberration
from vlmforensics.signals.clusters import ResidualClusters
from vlmforensics.signals.thumbnail import Thumbnail

PHOTOGRAPHS = ["astronaut", "coffee", "chelsea", "rocket"]
PATCH = (slice(96, 256), slice(128, 320))


def photograph(name: str) -> np.ndarray:
    return np.ascontiguousarray(getattr(data, name)()[..., :3])


def case(pixels: np.ndarray, quality: int | None = None):
    pixels = np.ascontiguousarray(pixels)
    if quality is None:
        return open_case(encode(pixels, "PNG"), settings=Settings(sandbox=False))
    saved = encode(pixels, "JPEG", quality=quality, subsampling="4:4:4")
    return open_case(saved, settings=Settings(sandbox=False))


def overlap(mask: np.ndarray) -> float:
    truth = np.zeros(mask.shape, bool)
    truth[PATCH] = True
    return float((mask & truth).sum() / (mask | truth).sum())


def demosaiced(pixels: np.ndarray, seed: int = 0) -> np.ndarray:
    """The picture as a Bayer sensor would have taken it: one channel a pixel, with noise, then interpolated."""
    rng = np.random.default_rng(seed)
    noisy = np.clip(pixels + rng.normal(0, 2, pixels.shape), 0, 255).astype(np.uint8)
    raw = noisy[..., 1].copy()
    raw[::2, ::2], raw[1::2, 1::2] = noisy[::2, ::2, 0], noisy[1::2, 1::2, 2]
    return np.ascontiguousarray(cv2.cvtColor(raw, cv2.COLOR_BayerRG2RGB))


class TestMosaic:
    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    def test_trace_is_found(self, name):
        whole, part = ColourFilterArray().examine(case(demosaiced(photograph(name))))
        assert whole.score <= -cfa.PRESENT
        assert "carries the checkerboard" in whole.statement
        assert part.score < cfa.FOUND
        assert part.region is None

    @pytest.mark.parametrize("name", ["coffee", "astronaut"])
    def test_part_without_it(self, name):
        picture = demosaiced(photograph(name))
        smooth = cv2.GaussianBlur(photograph(name), (0, 0), 0.8)
        rng = np.random.default_rng(1)
        pasted = np.clip(smooth + rng.normal(0, 1.5, picture.shape), 0, 255).astype(np.uint8)
        picture[PATCH] = pasted[PATCH]
        _, part = ColourFilterArray().examine(case(picture))
        assert part.score >= cfa.FOUND
        assert overlap(part.region.mask) > 0.4

    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    @pytest.mark.parametrize("quality", [None, 90, 75])
    def test_no_alarm(self, name, quality):
        (whole,) = ColourFilterArray().examine(case(photograph(name), quality))
        assert whole.score > -cfa.PRESENT

    def test_grey_says_nothing(self):
        grey = np.repeat(photograph("coffee")[..., :1], 3, axis=2)
        assert ColourFilterArray().examine(case(grey)) == []


def through_a_lens(pixels: np.ndarray, expansion: float) -> np.ndarray:
    """Enlarge red about the centre."""
    height, width = pixels.shape[:2]
    affine = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 0, 1 + expansion)
    out = pixels.copy()
    out[..., 0] = cv2.warpAffine(
        pixels[..., 0], affine, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    return out


def aligned(name: str) -> np.ndarray:
    """A picture without aberration: one channel's detail in all three."""
    picture = photograph(name).astype(np.float32)
    colour = cv2.GaussianBlur(picture, (0, 0), 12) - cv2.GaussianBlur(picture[..., 1], (0, 0), 12)[..., None]
    return np.clip(picture[..., 1:2] + colour, 0, 255).astype(np.uint8)


class TestLens:
    @pytest.mark.parametrize("name", ["astronaut", "coffee", "rocket"])
    def test_expansion_is_measured(self, name):
        found = chromatic.aberration(through_a_lens(aligned(name), 0.004), 0)
        assert found.expansion == pytest.approx(0.004, rel=0.3)
        (evidence,) = ChromaticAberration().examine(case(through_a_lens(aligned(name), 0.004)))
        assert evidence.score < chromatic.FOUND
        assert evidence.region is None

    def test_part_from_the_other_side_of_a_lens(self):
        picture = through_a_lens(aligned("astronaut"), 0.006)
        other = aligned("astronaut")
        other[..., 0] = np.roll(other[..., 0], (-1, 1), (0, 1))
        part = (slice(256, 480), slice(32, 224))
        picture[part] = other[part]
        (evidence,) = ChromaticAberration().examine(case(picture))
        assert evidence.score >= chromatic.FOUND
        truth = np.zeros(picture.shape[:2], bool)
        truth[part] = True
        mask = evidence.region.mask
        assert (mask & truth).sum() / (mask | truth).sum() > 0.25

    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    @pytest.mark.parametrize("quality", [None, 85])
    def test_no_alarm(self, name, quality):
        for evidence in ChromaticAberration().examine(case(photograph(name), quality)):
            assert evidence.score < chromatic.FOUND

    def test_nothing_to_measure(self):
        assert ChromaticAberration().examine(case(aligned("coffee"))) == []


class TestClusters:
    def test_part_with_other_statistics(self):
        rng = np.random.default_rng(5)
        scene = resize(photograph("coffee"), 1000, 666)
        picture = np.clip(scene + rng.normal(0, 3, scene.shape), 0, 255).astype(np.uint8)
        smooth = cv2.GaussianBlur(rng.normal(0, 6, scene.shape), (0, 0), 1.0) * 2
        part = (slice(200, 440), slice(300, 620))
        picture[part] = np.clip(scene + smooth, 0, 255).astype(np.uint8)[part]
        (evidence,) = ResidualClusters().examine(case(picture))
        assert evidence.score >= clusters.FOUND
        truth = np.zeros(picture.shape[:2], bool)
        truth[part] = True
        mask = evidence.region.mask
        assert (mask & truth).sum() / (mask | truth).sum() > 0.4

    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    @pytest.mark.parametrize("quality", [None, 90])
    def test_no_alarm(self, name, quality):
        for evidence in ResidualClusters().examine(case(photograph(name), quality)):
            assert evidence.score < clusters.FOUND
            assert evidence.region is None


class TestThumbnail:
    @staticmethod
    def with_preview(pixels: np.ndarray, preview: np.ndarray):
        subject = case(pixels, 90)
        small = resize(np.ascontiguousarray(preview), 160, round(160 * preview.shape[0] / preview.shape[1]))
        held = encode(small, "JPEG", quality=75)
        return replace(subject, container=replace(subject.container, thumbnail=held))

    def test_edited_after_the_preview_was_made(self):
        picture = photograph("coffee")
        edited = picture.copy()
        edited[PATCH] = photograph("rocket")[PATCH]
        (evidence,) = Thumbnail().examine(self.with_preview(edited, picture))
        assert evidence.code == "differs"
        assert overlap(evidence.region.mask) > 0.4

    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    def test_no_alarm(self, name):
        picture = photograph(name)
        brighter = np.clip(picture * 0.9 + 15, 0, 255).astype(np.uint8)
        (evidence,) = Thumbnail().examine(self.with_preview(picture, brighter))
        assert evidence.code == "agrees"
        assert evidence.score < thumbnail.FOUND

    def test_black_bars_are_no_difference(self):
        picture = photograph("coffee")
        barred = np.pad(picture, ((25, 25), (0, 0), (0, 0)))
        (evidence,) = Thumbnail().examine(self.with_preview(picture, barred))
        assert evidence.code == "agrees"

    def test_crop(self):
        picture = photograph("coffee")
        (evidence,) = Thumbnail().examine(self.with_preview(picture[:, 200:560], picture))
        assert evidence.code == "cropped"

    def test_is_decoded_as_the_settings_say(self, monkeypatch):
        monkeypatch.setattr(sandbox, "shared", lambda settings: pytest.fail("the worker was asked"))
        (source,) = (s for s in load_sources(Settings(sandbox=False)) if s.name == "thumbnail")
        picture = photograph("coffee")
        assert source.examine(self.with_preview(picture, picture))[0].code == "agrees"

    def test_damaged_or_none(self):
        subject = case(photograph("coffee"), 90)
        assert Thumbnail().examine(subject) == []
        broken = replace(subject, container=replace(subject.container, thumbnail=b"\xff\xd8\xff\xe0broken"))
        assert Thumbnail().examine(broken) == []
