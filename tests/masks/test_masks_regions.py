"""From the square map to the upright picture: alignment, specks, boxes, order."""

import numpy as np
import pytest

from vlmforensics.masks.regions import (
    PixelCalibration,
    find_regions,
    stretch,
    to_mask,
    top_logit,
    with_places,
)

SIZES = [(256, 256), (640, 480), (480, 640), (333, 1001), (64, 64), (90, 2000), (1500, 100)]


def planted(width, height, box):
    """What a perfect decoder would say on its 256 × 256 frame about a tampered box of the picture."""
    x0, y0, x1, y1 = box
    full = np.zeros((height, width), np.float32)
    full[y0:y1, x0:x1] = 1
    rows = (np.arange(256) + 0.5) * height / 256
    columns = (np.arange(256) + 0.5) * width / 256
    inside = full[np.minimum(rows.astype(int), height - 1)][:, np.minimum(columns.astype(int), width - 1)]
    return np.where(inside > 0, 8.0, -8.0).astype(np.float32), full.astype(bool)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_planted_square_comes_back_where_it_was(width, height):
    box = (width // 4, height // 2, width // 4 + width // 3, height // 2 + height // 3)
    logits, truth = planted(width, height, box)
    mask = to_mask(logits, 0.0, width, height, PixelCalibration())
    assert mask.soft.shape == mask.binary.shape == (height, width)
    assert mask.soft.dtype == np.float32
    # The frame has 256 cells a side, so an edge may be off by half a cell and a pixel of rounding, never more.
    slack_x, slack_y = width / 512 + 1, height / 512 + 1
    found = mask.boxes[0]
    for got, want, slack in zip(found.as_list(), box, (slack_x, slack_y, slack_x, slack_y), strict=True):
        assert abs(got - want) <= slack
    overlap = (mask.binary & truth).sum() / (mask.binary | truth).sum()
    assert overlap > 0.9


def test_alignment_is_unbiased():
    """A map that is symmetric about the centre stays symmetric: no half-pixel drift to one side."""
    half = np.linspace(-3, 3, 128, dtype=np.float32)
    row = np.concatenate([half, half[::-1]])
    for width, height in SIZES:
        out = stretch(np.tile(row, (256, 1)), width, height)
        np.testing.assert_allclose(out, out[:, ::-1], atol=2e-4)


def test_mirroring_commutes():
    logits = np.random.default_rng(0).normal(0, 3, (256, 256)).astype(np.float32)
    plain = to_mask(logits, 0.0, 301, 211, PixelCalibration())
    mirrored = to_mask(np.ascontiguousarray(logits[:, ::-1]), 0.0, 301, 211, PixelCalibration())
    np.testing.assert_allclose(plain.soft[:, ::-1], mirrored.soft, atol=1e-5)


def test_regions_are_exact_and_ordered():
    soft = np.full((200, 300), 0.1, np.float32)
    soft[10:30, 20:60] = 0.8
    soft[100:180, 150:290] = 0.6
    binary, boxes, confidences = find_regions(soft, 0.5, 0.0005)
    assert [box.as_list() for box in boxes] == [[150, 100, 290, 180], [20, 10, 60, 30]]
    assert confidences == pytest.approx((0.6, 0.8), abs=1e-6)
    assert binary.sum() == 20 * 40 + 80 * 140


def test_specks_are_removed_and_regions_stay():
    soft = np.zeros((400, 400), np.float32)
    soft[5:10, 5:10] = 0.9  # 25 px
    soft[50:80, 50:80] = 0.9
    binary, boxes, _ = find_regions(soft, 0.5, 0.0005)
    assert [box.as_list() for box in boxes] == [[50, 50, 80, 80]]
    assert not binary[5:10, 5:10].any()
    # A region below the given share goes as well.
    assert not find_regions(soft, 0.5, 0.01)[1]


def test_diagonal_neighbours_are_one_region():
    soft = np.zeros((60, 60), np.float32)
    soft[10:20, 10:20] = soft[20:30, 20:30] = 1
    assert [box.as_list() for box in find_regions(soft, 0.5, 0.0)[1]] == [[10, 10, 30, 30]]


def test_nothing_found_is_an_empty_mask():
    mask = to_mask(np.full((256, 256), -5, np.float32), -4.0, 120, 80, PixelCalibration())
    assert mask.boxes == ()
    assert mask.confidences == ()
    assert not mask.binary.any()
    assert mask.area_fraction == 0
    assert mask.presence == pytest.approx(1 / (1 + np.exp(4)), abs=1e-6)


def test_calibration_moves_probabilities_as_stated():
    calibration = PixelCalibration(
        slope=2, presence=0.5, bias=-1, presence_slope=3, presence_top=2, presence_bias=0.25
    )
    mask = to_mask(np.full((256, 256), 0.75, np.float32), 1.5, 64, 64, calibration)
    np.testing.assert_allclose(mask.soft, 1 / (1 + np.exp(-(2 * 0.75 + 0.5 * 1.5 - 1))), rtol=1e-5)
    assert mask.presence == pytest.approx(1 / (1 + np.exp(-(3 * 1.5 + 2 * 0.75 + 0.25))))
    assert PixelCalibration.from_json(calibration.to_json()) == calibration


def test_top_is_the_mean_of_the_highest_logits():
    logits = np.zeros((256, 256), np.float32)
    logits.flat[:328] = 4  # half a percent of 65,536
    assert top_logit(logits) == pytest.approx(4)
    logits.flat[:164] = 0
    assert top_logit(logits) == pytest.approx(2)


def test_places_of_other_findings_join_the_mask():
    logits, _ = planted(100, 80, (0, 0, 40, 40))
    mask = to_mask(logits, 0.0, 100, 80, PixelCalibration(threshold=0.6))
    assert with_places(mask, []) is mask
    place = np.zeros((80, 100), bool)
    place[60:70, 80:95] = True
    both = with_places(mask, [place])
    assert len(both.boxes) == len(both.confidences) == 2
    assert both.boxes[1].as_list() == [80, 60, 95, 70]
    assert both.confidences[1] == pytest.approx(0.6)
    np.testing.assert_array_equal(both.binary, mask.binary | place)
    np.testing.assert_array_equal(both.soft[~place], mask.soft[~place])
    assert mask.soft[65, 85] < 0.1  # the head's own map stays as it was
