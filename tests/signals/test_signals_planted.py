"""Traces planted in photographs are found where they are, and untouched photographs raise no alarm."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

from vlmforensics.imaging import decode_trusted, encode, open_case, resize
from vlmforensics.settings import Settings
from vlmforensics.signals import blocks, jpeg_double, jpeg_ghost, jpeg_grid, maps, noise, upsampling
from vlmforensics.signals.jpeg_double import JpegDouble
from vlmforensics.signals.jpeg_ghost import JpegGhost
from vlmforensics.signals.jpeg_grid import JpegGrid
from vlmforensics.signals.jpeg_tables import JpegTables
from vlmforensics.signals.noise import NoiseInconsistency
from vlmforensics.signals.spectrum import Spectrum, fall_off
from vlmforensics.signals.spectrum_features import native_crops, spectrum_features
from vlmforensics.signals.upsampling import Upsampling

PHOTOGRAPHS = ["astronaut", "coffee", "chelsea", "rocket"]
PATCH = (96, 256, 128, 320)  # top, bottom, left, right


def photograph(name: str) -> np.ndarray:
    return np.ascontiguousarray(getattr(data, name)()[..., :3])


def saved(pixels: np.ndarray, quality: int) -> np.ndarray:
    return decode_trusted(encode(np.ascontiguousarray(pixels), "JPEG", quality=quality, subsampling="4:4:4"))


def case(pixels: np.ndarray, quality: int | None = 90):
    pixels = np.ascontiguousarray(pixels)
    data = (
        encode(pixels, "PNG")
        if quality is None
        else encode(pixels, "JPEG", quality=quality, subsampling="4:4:4")
    )
    return open_case(data, settings=Settings(sandbox=False))


def only(evidence, name: str):
    (found,) = [e for e in evidence if e.source == name]
    return found


def overlap(region, shape) -> float:
    """Intersection over union of a region's mask with the patch."""
    truth = np.zeros(shape[:2], bool)
    truth[PATCH[0] : PATCH[1], PATCH[2] : PATCH[3]] = True
    return float((region.mask & truth).sum() / (region.mask | truth).sum())


def patched(background: np.ndarray, patch: np.ndarray) -> np.ndarray:
    out = background.copy()
    top, bottom, left, right = PATCH
    out[top:bottom, left:right] = patch[top:bottom, left:right]
    return out


class TestJpegDouble:
    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    @pytest.mark.parametrize(("first", "second"), [(70, 90), (80, 95), (60, 80), (85, 90)])
    def test_finds_the_first_quality(self, name, first, second):
        (evidence,) = JpegDouble().examine(case(saved(photograph(name), first), second))
        assert evidence.score > jpeg_double.FOUND
        assert abs(evidence.recompute["first_quality"] - first) <= 2
        assert "saved as JPEG before" in evidence.statement

    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    @pytest.mark.parametrize("quality", [75, 85, 90, 95])
    def test_no_alarm_after_one_compression(self, name, quality):
        (evidence,) = JpegDouble().examine(case(photograph(name), quality))
        assert evidence.score < jpeg_double.FOUND
        assert evidence.region is None

    @pytest.mark.parametrize("name", ["astronaut", "coffee"])
    def test_shows_the_part_without_the_first_compression(self, name):
        picture = photograph(name)
        (evidence,) = JpegDouble().examine(case(patched(saved(picture, 65), picture), 92))
        assert evidence.region is not None
        assert overlap(evidence.region, picture.shape) > 0.4

    def test_whole_double_compression_has_no_region(self):
        (evidence,) = JpegDouble().examine(case(saved(photograph("coffee"), 65), 92))
        assert evidence.region is None

    def test_not_for_png(self):
        assert JpegDouble().examine(case(photograph("coffee"), None)) == []


class TestJpegGhost:
    @pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
    @pytest.mark.parametrize(("first", "second"), [(70, 90), (80, 95)])
    def test_patch_of_another_quality(self, name, first, second):
        picture = photograph(name)
        (evidence,) = JpegGhost().examine(case(patched(picture, saved(picture, first)), second))
        assert evidence.score >= jpeg_ghost.FOUND
        assert abs(evidence.recompute["quality"] - first) <= 4
        assert overlap(evidence.region, picture.shape) > 0.4

    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    @pytest.mark.parametrize("quality", [80, 90, 95])
    def test_no_alarm(self, name, quality):
        for pixels in (photograph(name), saved(photograph(name), 72)):
            for evidence in JpegGhost().examine(case(pixels, quality)):
                assert evidence.score < jpeg_ghost.FOUND
                assert evidence.region is None

    def test_not_for_png(self):
        assert JpegGhost().examine(case(photograph("coffee"), None)) == []


class TestJpegGrid:
    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    @pytest.mark.parametrize(("first", "second"), [(70, 90), (80, 95), (75, None), (90, None)])
    def test_crop_after_jpeg_shifts_the_grid(self, name, first, second):
        cropped = saved(photograph(name), first)[3:, 5:]
        evidence = only(JpegGrid().examine(case(cropped, second)), "jpeg_crop")
        assert evidence.score >= jpeg_grid.FOUND
        assert "offset (3, 5)" in evidence.statement, "first 8 − 5 = 3 across, 8 − 3 = 5 down"

    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    @pytest.mark.parametrize("quality", [None, 60, 75, 90, 95])
    def test_no_alarm(self, name, quality):
        found = JpegGrid().examine(case(photograph(name), quality))
        assert only(found, "jpeg_crop").score < jpeg_grid.FOUND
        assert only(found, "jpeg_grid").score < jpeg_grid.FOUND_LOCALLY
        assert only(found, "jpeg_grid").region is None

    @pytest.mark.parametrize("second", [None, 95])
    def test_pasted_part_has_another_grid(self, second):
        picture = photograph("rocket")
        source = saved(photograph("coffee"), 75)
        picture[PATCH[0] - 3 : PATCH[1], PATCH[2] - 5 : PATCH[3]] = source[: 160 + 3, : 192 + 5]
        evidence = only(JpegGrid().examine(case(picture, second)), "jpeg_grid")
        assert evidence.score >= jpeg_grid.FOUND_LOCALLY
        assert "offset (3, 5)" in evidence.statement
        assert overlap(evidence.region, picture.shape) > 0.3

    def test_crop_of_a_whole_jpeg_is_no_local_finding(self):
        evidence = only(
            JpegGrid().examine(case(saved(photograph("astronaut"), 75)[3:, 5:], None)), "jpeg_grid"
        )
        assert evidence.region is None


class TestTables:
    def test_standard(self):
        (evidence,) = JpegTables().examine(case(photograph("coffee"), 83))
        assert evidence.code == "libjpeg-standard"
        assert "quality 83" in evidence.statement

    def test_own_and_flat(self):
        from dataclasses import replace

        subject = case(photograph("coffee"), 83)

        def examine(table, markers=()):
            facts = replace(subject.container.jpeg, quant_tables={0: table}, markers=markers)
            return JpegTables().examine(replace(subject, container=replace(subject.container, jpeg=facts)))[0]

        assert examine(np.full((8, 8), 3, np.int32)).code == "flat"
        other = blocks.standard_table(83) + np.arange(64, dtype=np.int32).reshape(8, 8) % 5
        assert examine(other).code == "own"
        assert examine(other, ("SOI", "APP14")).code == "adobe-own"


class TestNoise:
    def test_noisier_part(self):
        rng = np.random.default_rng(3)
        picture = photograph("rocket")
        noisy = np.clip(picture + rng.normal(0, 9, picture.shape), 0, 255).astype(np.uint8)
        clean = NoiseInconsistency().examine(case(picture, None))[0]
        (evidence,) = NoiseInconsistency().examine(case(patched(noisy, picture), None))
        assert evidence.score > noise.FOUND > clean.score
        assert "smoother" in evidence.statement
        assert overlap(evidence.region, picture.shape) > 0.3

    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    @pytest.mark.parametrize("quality", [None, 75, 90])
    def test_no_alarm(self, name, quality):
        for evidence in NoiseInconsistency().examine(case(photograph(name), quality)):
            assert evidence.score < noise.FOUND
            assert evidence.region is None


class TestUpsampling:
    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    @pytest.mark.parametrize(("factor", "how"), [(1.3, "bilinear"), (1.5, "bicubic"), (3, "nearest")])
    def test_enlarged(self, name, factor, how):
        picture = photograph(name)[:300, :440]
        larger = resize(
            picture, round(picture.shape[1] * factor), round(picture.shape[0] * factor), resample=how
        )
        evidence = only(Upsampling().examine(case(larger, None)), "upsampling")
        assert evidence.score >= upsampling.FOUND
        expected = 1 / factor if factor >= 2 else 1 - 1 / factor
        assert evidence.recompute["frequency"] == pytest.approx(expected, abs=0.005)

    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    @pytest.mark.parametrize("how", ["nearest", "bilinear"])
    @pytest.mark.parametrize("quality", [None, 90])
    def test_doubled(self, name, how, quality):
        picture = photograph(name)[:300, :440]
        larger = resize(picture, picture.shape[1] * 2, picture.shape[0] * 2, resample=how)
        assert only(Upsampling().examine(case(larger, quality)), "npr").score >= upsampling.FOUND_CELLS

    # The astronaut ships resampled already: it is a finding, not a false alarm.
    @pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket"])
    @pytest.mark.parametrize("quality", [None, 75, 90])
    def test_no_alarm(self, name, quality):
        found = Upsampling().examine(case(photograph(name), quality))
        assert only(found, "upsampling").score < upsampling.FOUND
        assert only(found, "npr").score < upsampling.FOUND_CELLS


class TestSpectrum:
    def test_power_law_is_recovered(self):
        rng = np.random.default_rng(0)
        side = 256
        radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
        radius[0, 0] = 1
        for exponent in (1.6, 2.4):
            field = np.fft.irfft2(
                np.fft.rfft2(rng.normal(size=(side, side))) / radius ** (exponent / 2), (side, side)
            )
            plane = (128 + 30 * field / field.std()).astype(np.float32)
            law = fall_off([plane])
            assert law.exponent == pytest.approx(exponent, abs=0.4)
            assert abs(law.excess) < 3

    def test_blur_lies_under_the_law(self):
        import cv2

        plane = maps.luma(photograph("coffee"))
        assert fall_off([cv2.GaussianBlur(plane, (0, 0), 1.0)]).excess < fall_off([plane]).excess - 6

    def test_vector(self):
        (evidence,) = Spectrum().examine(case(photograph("coffee")))
        assert len(evidence.vector) == len(spectrum_features(photograph("coffee")))
        assert "1/f^" in evidence.statement

    def test_flat_says_nothing(self):
        assert Spectrum().examine(case(np.full((128, 128, 3), 90, np.uint8))) == []


class TestFeatures:
    def test_deterministic_finite_and_one_length(self):
        vectors = [spectrum_features(photograph(name)) for name in PHOTOGRAPHS]
        vectors += [
            spectrum_features(np.zeros((64, 64, 3), np.uint8)),
            spectrum_features(photograph("coffee")[:64, :200]),
        ]
        assert len({v.shape for v in vectors}) == 1
        assert all(v.dtype == np.float32 and np.isfinite(v).all() for v in vectors)
        assert np.array_equal(vectors[0], spectrum_features(photograph("astronaut")))

    def test_too_small(self):
        with pytest.raises(ValueError, match="64"):
            spectrum_features(np.zeros((63, 200, 3), np.uint8))

    def test_size_hardly_matters(self):
        """A larger window of one texture has nearly the features of a smaller one, against another texture."""
        rng = np.random.default_rng(5)
        grain = rng.normal(128, 12, (1024, 1280, 3)).clip(0, 255).astype(np.uint8)
        small, large = spectrum_features(grain[:320, :320]), spectrum_features(grain)
        other = spectrum_features(photograph("coffee"))
        assert np.abs(small - large).mean() < 0.1 * np.abs(small - other).mean()

    @pytest.mark.parametrize("shape", [(64, 64), (255, 300), (300, 257), (512, 4000), (3000, 2000)])
    def test_crops_are_inside_bounded_and_aligned(self, shape):
        crops = native_crops(np.zeros((*shape, 3), np.uint8))
        assert 1 <= len(crops) <= 9
        assert all(c.shape[0] % 8 == 0 and c.shape[1] % 8 == 0 and min(c.shape[:2]) >= 64 for c in crops)


class TestMaps:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_upright_agrees_with_imaging(self, orientation):
        from PIL import Image, ImageOps

        stored = np.arange(12, dtype=np.uint8).reshape(3, 4)
        image = Image.fromarray(stored)
        exif = image.getexif()
        exif[0x0112] = orientation
        shown = np.asarray(ImageOps.exif_transpose(image))
        assert np.array_equal(maps.upright(stored, orientation), shown)

    def test_place_spans_the_picture(self):
        part = np.ones((2, 3), np.float32)
        whole = maps.place(part, 32, top=64, left=32, height=256, width=320)
        assert whole.shape == (32, 40)
        rows, columns = np.where(whole)
        assert (rows.min() * 8, (rows.max() + 1) * 8) == (64, 128)
        assert (columns.min() * 8, (columns.max() + 1) * 8) == (32, 128)

    @pytest.mark.parametrize("shape", [(100, 100), (1, 5000), (5000, 1), (777, 1234)])
    def test_centre_is_bounded_and_aligned(self, shape):
        window, top, left = maps.centre(np.zeros(shape, np.uint8), 2000)
        assert window.size <= max(2000, 0) or window.shape == shape
        assert top % 8 == 0
        assert left % 8 == 0
        assert window.size
