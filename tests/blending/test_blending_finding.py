"""Maps to evidence: the strongest trace, boxes in picture pixels, sentences with numbers."""

from __future__ import annotations

import numpy as np

from vlmforensics.blending.finding import evidence, sentence, sigmoid, stretched, strongest


def spot(rows: slice, columns: slice, value: float, shape: tuple[int, int] = (50, 60)) -> np.ndarray:
    out = np.zeros(shape, np.float32)
    out[rows, columns] = value
    return out


def test_strongest_trace_is_the_heaviest_and_its_box_is_in_pixels() -> None:
    boundary = spot(slice(10, 20), slice(5, 30), 0.8) + spot(slice(40, 44), slice(50, 54), 0.9)
    trace = strongest(boundary, 240, 200, 0.3)
    assert trace is not None
    assert trace.box.as_list() == [20, 40, 120, 80]
    assert trace.peak == np.float32(0.8)
    assert int(trace.cells.sum()) == 250


def test_specks_and_faint_maps_are_no_trace() -> None:
    assert strongest(spot(slice(3, 4), slice(3, 5), 0.9), 240, 200, 0.3) is None
    assert strongest(spot(slice(0, 50), slice(0, 60), 0.3), 240, 200, 0.3) is None
    assert strongest(np.zeros((1, 1), np.float32), 4, 4, 0.3) is None


def test_box_stays_inside_a_picture_whose_sides_four_does_not_divide() -> None:
    trace = strongest(np.ones((25, 16), np.float32), 67, 103, 0.5)
    assert trace is not None
    assert trace.box.as_list() == [0, 0, 67, 103]
    assert stretched(trace.cells, 67, 103).shape == (103, 67)
    assert stretched(trace.cells, 67, 103).all()


def test_statement_carries_score_peak_and_box() -> None:
    made = evidence(
        score=0.834,
        boundary=spot(slice(10, 20), slice(5, 30), 0.91),
        size=(240, 200),
        threshold=0.3,
        covered=1.0,
        recompute={"tile": 512},
    )
    assert made.statement == (
        "The blending detector gives 0.83 out of 1 for a composited boundary; the strongest trace, 0.91, lies in "
        "the box (20, 40)-(120, 80)."
    )
    assert made.source == "blending"
    assert made.score == 0.834
    assert made.region is not None
    assert made.region.mask is not None
    assert made.region.mask.shape == (200, 240)
    assert made.region.mask[40:80, 20:120].all()
    assert int(made.region.mask.sum()) == 40 * 100
    assert "0.83" in sentence(made)
    assert "(20, 40)" in sentence(made)


def test_no_trace_and_partial_cover_are_said() -> None:
    blank = np.zeros((50, 60), np.float32)
    made = evidence(score=0.1, boundary=blank, size=(240, 200), threshold=0.3, covered=0.4, recompute={})
    assert made.region is None
    assert made.statement.endswith("no trace in its map exceeds 0.30, with 40% of the picture examined.")
    assert "0.10" in sentence(made)


def test_sigmoid_is_stable_at_the_ends() -> None:
    out = sigmoid(np.array([-np.inf, -1e4, 0.0, 1e4]))
    assert out.tolist() == [0.0, 0.0, 0.5, 1.0]
