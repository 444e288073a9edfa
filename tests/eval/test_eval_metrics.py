"""Each metric against an answer worked out by hand or by another road."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmforensics.eval import metrics as m
from vlmforensics.fusion.logistic import balanced_weights
from vlmforensics.fusion.measure import calibration_figures

TRUTH = ["real", "real", "real", "synthetic", "synthetic", "tampered"]
SAID = ["real", "real", "synthetic", "synthetic", "inconclusive", "real"]
POSITIVE = np.array([False, False, False, True, True])
SCORE = np.array([0.1, 0.4, 0.35, 0.8, 0.35])


def test_accuracy_counts_inconclusive_as_wrong():
    assert m.accuracy(TRUTH, SAID) == pytest.approx(3 / 6)


def test_balanced_accuracy():
    assert m.balanced_accuracy(TRUTH, SAID) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_macro_f1():
    # real: 2 hits, 1 wrongly called, 1 missed; synthetic: 1, 1, 1; tampered: none
    assert m.macro_f1(TRUTH, SAID) == pytest.approx((4 / 6 + 2 / 4 + 0) / 3)


def test_f1_of_a_label_is_fakevlms_with_real_as_positive():
    # the replication of FakeVLM on FakeClue: 1760 real right, 48 real called fake, 20 fake called real
    truth = ["real"] * 1808 + ["fake"] * 3188
    said = ["real"] * 1760 + ["fake"] * 48 + ["real"] * 20 + ["fake"] * 3168
    assert m.f1(truth, said, "real") == pytest.approx(2 * 1760 / (2 * 1760 + 48 + 20))


def test_confusion():
    table = m.confusion(TRUTH, SAID, ("real", "synthetic", "tampered", "inconclusive"))
    assert table["real"] == {"real": 2, "synthetic": 1, "tampered": 0, "inconclusive": 0}
    assert table["synthetic"]["inconclusive"] == 1
    assert "inconclusive" not in table


def test_auc_counts_pairs():
    # pairs (0.8 and 0.35 against 0.1, 0.4, 0.35): 3 wins; 1 win, 1 loss, 1 tie
    assert m.roc_auc(POSITIVE, SCORE) == pytest.approx((3 + 1.5) / 6)


def test_average_precision():
    # sorted: 0.8 (hit), 0.4 (miss), then 0.35 twice (one hit): precision 1 and 2/4 at recall steps of a half
    assert m.average_precision(POSITIVE, SCORE) == pytest.approx(0.5 * 1 + 0.5 * 2 / 4)


def test_tpr_at_fpr():
    truth = np.array([False] * 100 + [True] * 4)
    score = np.concatenate([np.arange(100), [50.5, 97.5, 98.5, 120.0]])
    # one false alarm in a hundred is allowed: the threshold lies between 98 and 99
    assert m.tpr_at_fpr(truth, score, 0.01) == pytest.approx(2 / 4)
    assert m.tpr_at_fpr(truth, score, 0.0) == pytest.approx(1 / 4)


def test_equal_error_rate():
    truth = np.array([False] * 4 + [True] * 4)
    # over 3.5: one negative of four accused, one positive of four missed
    assert m.equal_error_rate(truth, np.array([1, 2, 3, 6, 3.2, 4, 5, 7.0])) == pytest.approx(0.25)
    assert m.equal_error_rate(truth, np.array([1, 2, 3, 4, 5, 6, 7, 8.0])) == 0.0
    assert m.equal_error_rate(truth, np.array([5, 6, 7, 8, 1, 2, 3, 4.0])) == 1.0


def test_one_class_has_no_curve():
    only = np.ones(3, bool)
    for figure in (m.roc_auc, m.average_precision, m.tpr_at_fpr, m.equal_error_rate):
        assert math.isnan(figure(only, np.arange(3.0)))
    assert m.roc_points(only, np.arange(3.0)) == m.det_points(only, np.arange(3.0)) == []


def test_det_points_are_probits():
    truth = np.array([False, False, True, True])
    # over 2.5: half of the negatives accused, half of the positives missed
    assert (0.0, 0.0) in m.det_points(truth, np.array([1.0, 3.0, 2.0, 4.0]))


def test_calibration_error_in_equal_bins():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.4, 0.6]])
    labels = np.array([0, 1, 1, 1])
    error, table = m.expected_calibration_error(p, labels, bins=2)
    # bins {0.6, 0.6}: one of two right; {0.8, 0.9}: one of two right
    assert error == pytest.approx(0.5 * abs(0.6 - 0.5) + 0.5 * abs(0.85 - 0.5))
    assert [row["n"] for row in table] == [2, 2]


def test_calibration_error_agrees_with_fusions():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 400)
    labels = np.array([rng.choice(3, p=row) for row in p])
    weights = balanced_weights(labels)
    theirs = calibration_figures(np.log(p), labels, weights)
    assert m.expected_calibration_error(p, labels, weights=weights)[0] == pytest.approx(
        theirs["ece"], abs=0.01
    )
    assert m.brier(p, labels, weights=weights) == pytest.approx(theirs["brier"])


def test_brier():
    p = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]])
    assert m.brier(p, np.array([0, 0])) == pytest.approx(((0.09 + 0.04 + 0.01) + (1 + 1)) / 2)


def test_cllr_of_known_ratios():
    # a ratio of 3 for the right side costs log2(4/3) on either side
    three = np.array([math.log(3)])
    assert m.cllr(three, -three) == pytest.approx(math.log2(4 / 3))
    assert m.cllr(np.zeros(5), np.zeros(9)) == pytest.approx(1.0)
    assert m.cllr(-three, three) > 1


def test_min_cllr():
    # separated scores can be made perfect; ones that say nothing cost one bit whatever is done
    assert m.min_cllr(np.array([-1.0, -2.0]), np.array([-5.0, -3.0, -4.0])) == pytest.approx(0, abs=1e-9)
    assert m.min_cllr(np.zeros(4), np.zeros(4)) == pytest.approx(1.0)
    # one pair swapped among two and two: pooled block of odds 1 costs a bit for half of the pictures
    assert m.min_cllr(np.array([4.0, 2.0]), np.array([1.0, 3.0])) == pytest.approx(0.5)


@given(st.lists(st.tuples(st.floats(-5, 5), st.booleans()), min_size=4, max_size=30))
def test_recalibration_never_costs(rows):
    target = np.array([score for score, own in rows if own])
    other = np.array([score for score, own in rows if not own])
    if len(target) and len(other):
        assert m.min_cllr(target, other) <= m.cllr(target, other) + 1e-9


def test_risk_coverage_and_its_area():
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    right = np.array([True, True, False, True])
    assert m.risk_coverage(confidence, right) == [(0.25, 0.0), (0.5, 0.0), (0.75, 1 / 3), (1.0, 0.25)]
    assert m.aurc(confidence, right) == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)


def test_ties_are_decided_together():
    same = np.full(4, 0.5)
    right = np.array([True, False, True, False])
    assert m.risk_coverage(same, right) == [(1.0, 0.5)]
    assert m.aurc(same, right) == m.aurc(same, ~right) == pytest.approx(0.5)


def test_false_accusations():
    found = m.false_accusations(TRUTH + ["real"] * 97, SAID + ["real"] * 90 + ["inconclusive"] * 7)
    assert (found["count"], found["n"]) == (1, 100)
    # Clopper-Pearson of 1 in 100, as in every table
    assert found["low"] == pytest.approx(0.000253, abs=1e-6)
    assert found["high"] == pytest.approx(0.054459, abs=1e-6)


def test_rule_of_three():
    assert m.clopper_pearson(0, 300)[1] == pytest.approx(1 - 0.025 ** (1 / 300))
    assert m.clopper_pearson(0, 0) == (0.0, 1.0)


def test_bootstrap_draws_families():
    # two families of a hundred alike pictures: the mean can only be 0, a half or 1
    labels, families = ["real"] * 200, ["a"] * 100 + ["b"] * 100
    values = np.repeat([0.0, 1.0], 100)
    means = m.mean_of(values, m.draws(labels, families))
    assert set(means) == {0.0, 0.5, 1.0}
    assert m.interval(means) == (0.0, 1.0)
    assert m.bootstrap(lambda rows: values[rows].mean(), labels, families) == (0.0, 1.0)
    alone = m.interval(m.mean_of(values, m.draws(labels, ["a"] * 200)))
    assert 0.4 < alone[0] < 0.5 < alone[1] < 0.6


def test_figures_of_drawn_pictures_are_those_of_repeated_ones():
    rng = np.random.default_rng(2)
    labels = np.array(["real", "fake"] * 12)
    score = rng.integers(0, 5, 24).astype(float)  # with ties
    weights = m.draws(labels.tolist(), [f"f{i % 4}" for i in range(24)], rounds=20)
    fast = m.auc_of(labels == "fake", score, weights)
    right = rng.random(24) > 0.4
    balanced = m.balanced_of(right.astype(float), labels.tolist(), weights)
    for row, auc, share in zip(weights, fast, balanced, strict=True):
        drawn = np.repeat(np.arange(24), row.astype(int))
        assert len(drawn) == 24  # families of one size
        assert auc == pytest.approx(m.roc_auc(labels[drawn] == "fake", score[drawn]))
        own = [right[drawn][labels[drawn] == label].mean() for label in ("real", "fake")]
        assert share == pytest.approx(np.mean(own))


def test_pixel_figures():
    truth = np.zeros((10, 10), bool)
    truth[:5, :4] = True  # 20 pixels
    marked = np.zeros((10, 10), bool)
    marked[:5, 2:6] = True  # 20 pixels, 10 of them right
    found = m.pixel_figures(marked, truth)
    assert found.f1 == pytest.approx(2 * 10 / 40)
    assert found.iou == pytest.approx(10 / 30)
    # the map has two levels: true positive rate 1/2 at false positive rate 10/80
    assert found.auc == pytest.approx(0.5 + (0.5 - 10 / 80) / 2)


def test_pixel_figures_agree_with_coco():
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    rng = np.random.default_rng(3)
    truth, marked = rng.random((2, 40, 30)) > 0.6
    pair = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in (marked, truth)]
    assert m.pixel_figures(marked, truth).iou == pytest.approx(float(coco.iou(pair[:1], pair[1:], [0])[0, 0]))


def test_trufors_rule_forgives_borders_and_inversion():
    truth = np.zeros((80, 80), bool)
    truth[20:60, 20:60] = True
    larger = np.zeros_like(truth)
    larger[15:65, 15:65] = True
    assert m.pixel_figures(larger, truth).f1 < 0.9
    assert m.pixel_figures(larger, truth, trufor=True).f1 == 1.0
    assert m.pixel_figures(~truth, truth).f1 == 0.0
    assert m.pixel_figures(~truth, truth, trufor=True).f1 == 1.0


def test_rouge_l():
    pytest.importorskip("rouge_score", reason="the eval extra is not installed")
    # common subsequence "the cat on the mat", 5 of 6 words on either side
    assert m.rouge_l("the cat sat on the mat", ["the cat is on the mat"]) == pytest.approx(5 / 6)
    assert m.rouge_l("the cat", ["a dog", "The cat!"]) == 1.0
    assert m.rouge_l("the cat", []) == 0.0


def test_css_takes_the_best_reference():
    vectors = {"said": [1.0, 0.0], "near": [3.0, 4.0], "far": [0.0, 2.0]}
    found = m.css(["said"], [["far", "near"]], lambda texts: np.array([vectors[text] for text in texts]))
    assert found == [pytest.approx(0.6)]


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("This is a fake image. The eyes are real.", "fake"),
        ("The image looks real. No fake traces.", "real"),
        ("This is not a real photo.", "real"),  # the published parse reads it so
        ("It looks unrealistic.", "real"),
        ("Let me look. It is fake.", "fake"),
        ("Synthetic, without doubt.", None),
    ],
)
def test_published_reading_of_answers(answer, label):
    assert m.published_label(answer) == label
