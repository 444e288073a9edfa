"""Drawings show exactly what was found, and not by colour alone."""

from __future__ import annotations

import numpy as np
import pytest

from vlmforensics.errors import Defect
from vlmforensics.imaging import colour_map, overlay, overlay_layer
from vlmforensics.types import Box


def picture(height=120, width=160) -> np.ndarray:
    return np.random.default_rng(2).integers(60, 200, (height, width, 3), np.uint8)


def lightness(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(float) @ np.array([0.2126, 0.7152, 0.0722])


def test_mask_is_drawn_on_its_pixels_and_no_other():
    pixels = picture()
    mask = np.random.default_rng(0).random(pixels.shape[:2]) < 0.3
    mask[30:70, 40:90] = True
    drawn = overlay(pixels, mask=mask)
    changed = (drawn != pixels).any(axis=2)
    assert not changed[~mask].any()
    assert changed[mask].mean() > 0.97


def test_mask_has_a_contour_of_black_and_white():
    pixels = picture()
    mask = np.zeros(pixels.shape[:2], np.bool_)
    mask[30:70, 40:90] = True
    edge = overlay(pixels, mask=mask)[30, 40:90]
    black, white = (edge == 0).all(axis=1), (edge == 255).all(axis=1)
    assert (black | white).all()
    assert black.any()
    assert white.any()
    inside = overlay(pixels, mask=mask)[40:60, 50:80]
    assert not (inside == 0).all(axis=2).any()


def test_contour_closes_along_the_border():
    mask = np.ones((120, 160), np.bool_)
    drawn = overlay(picture(), mask=mask)
    for line in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
        assert np.isin(line, (0, 255)).all()


def test_empty_mask_and_nothing_change_nothing():
    pixels = picture()
    np.testing.assert_array_equal(overlay(pixels, mask=np.zeros(pixels.shape[:2], np.bool_)), pixels)
    drawn = overlay(pixels)
    np.testing.assert_array_equal(drawn, pixels)
    assert not np.shares_memory(drawn, pixels)


def test_the_picture_itself_is_never_drawn_on():
    pixels = picture()
    pixels.flags.writeable = False
    before = pixels.copy()
    mask = np.ones(pixels.shape[:2], np.bool_)
    overlay(pixels, mask=mask, heatmap=np.ones((4, 4), np.float32), boxes=[Box(1, 1, 50, 50)], labels=["x"])
    np.testing.assert_array_equal(pixels, before)


def test_mask_of_another_size_is_a_defect():
    with pytest.raises(Defect):
        overlay(picture(), mask=np.zeros((5, 5), np.bool_))


def test_heat_is_blended_by_its_value():
    pixels = picture()
    heat = np.zeros((2, 2), np.float32)
    np.testing.assert_array_equal(overlay(pixels, heatmap=heat), pixels)
    heat[:, 1] = 1
    drawn = overlay(pixels, heatmap=heat, opacity=1.0)
    assert (drawn[:, :30] == pixels[:, :30]).all()
    assert (drawn[:, -30:] == (252, 255, 164)).all()


def test_colour_map_grows_in_lightness():
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    colours = colour_map(ramp, 256, 3)
    assert colours.shape == (3, 256, 3)
    steps = np.diff(lightness(colours[0]))
    assert (steps > -0.5).all()
    assert lightness(colours[0])[-1] - lightness(colours[0])[0] > 200


def test_colour_map_of_odd_values():
    heat = np.array([[np.nan, -3.0], [np.inf, 0.5]], np.float32)
    colours = colour_map(heat, 2, 2)
    assert colours[0, 0].tolist() == colours[0, 1].tolist() == [0, 0, 4]
    assert colours[1, 0].tolist() == [252, 255, 164]


def test_boxes_are_outlined_in_black_and_white():
    pixels = picture()
    box = Box(40, 30, 100, 80)
    drawn = overlay(pixels, boxes=[box])
    assert (drawn[30, 40:100] == 0).all()
    assert (drawn[79, 40:100] == 0).all()
    assert (drawn[31, 41:99] == 255).all()
    changed = (drawn != pixels).any(axis=2)
    assert not changed[:30].any()
    assert not changed[80:].any()
    assert not changed[40:70, 50:90].any()


def test_labels_stay_inside_the_picture():
    pixels = picture(200, 300)
    for box in (Box(0, 0, 20, 20), Box(280, 180, 300, 200), Box(0, 190, 10, 500), Box(600, 600, 700, 700)):
        drawn = overlay(pixels, boxes=[box], labels=["Region A: 97 %"])
        assert drawn.shape == pixels.shape
        assert ((drawn != pixels).any(axis=2)).sum() > 400, "plate and text are drawn"


def test_hostile_labels_are_harmless():
    drawn = overlay(picture(), boxes=[Box(5, 5, 60, 60)], labels=["a\u202eb\n" * 4000])
    assert drawn.shape == (120, 160, 3)
    overlay(picture(), boxes=[Box(5, 5, 60, 60), Box(9, 9, 10, 10)], labels=[""])


def test_a_layer_over_the_picture_is_the_overlay():
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (90, 140, 3), np.uint8)
    mask = np.zeros((90, 140), bool)
    mask[20:60, 30:90] = True
    marks = {
        "mask": mask,
        "heatmap": rng.random((9, 14), np.float32),
        "boxes": [Box(10, 40, 70, 80)],
        "labels": ["E1"],
    }
    layer = overlay_layer(140, 90, **marks).astype(np.float32)
    alpha = layer[..., 3:] / 255
    shown = layer[..., :3] * alpha + pixels * (1 - alpha)
    assert np.abs(shown - overlay(pixels, **marks)).max() <= 3
    assert overlay_layer(8, 6).max() == 0
