"""The judge: exact sums, order, caps, abstention, gates and failures."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmforensics.errors import Defect, SettingsError
from vlmforensics.fusion import Calibration, Gate, judge, mask_agreement
from vlmforensics.fusion.conformal import LabelScores, nonconformity
from vlmforensics.fusion.judge import _share, ruled_out_below
from vlmforensics.fusion.scale import as_map, cap_for, llr_from_logits
from vlmforensics.strength import strength_of
from vlmforensics.types import LABELS, Box, Evidence, Region, SourceFailure

COUNTS = {"real": 300, "synthetic": 200, "tampered": 100}


def logistic(weight: float, slope: tuple[float, float, float], cap: float = 4.6, reach: float = 2.0) -> dict:
    """A source calibrated by hand."""
    return {
        "kind": "logistic", "weight": weight, "cap": cap, "reach": reach, "provenance": False, "fixed": False,
        "counts": COUNTS, "task": "real against the rest",
        "parameters": {
            "centre": 0.5, "scale": 0.2, "low": 0.0, "high": 1.0,
            "bias": [0.0, 0.0, 0.0], "slope": list(slope), "curve": [0.0, 0.0, 0.0],
        },
        "reliability": {"balanced_accuracy": 0.7, "low": 0.65, "high": 0.75, "n": 600},
    }  # fmt: skip


def record() -> dict:
    """A whole calibration file, as JSON values."""
    even = [float(value) for value in np.linspace(-4, 4, 199)]
    scores = LabelScores.of(np.array(even), 12).to_json()
    scores = json.loads(json.dumps(scores, default=lambda array: array.tolist()))
    return {
        "schema": "vlmforensics.calibration/1",
        "labels": list(LABELS),
        "prior": {"real": 0.1, "synthetic": -0.05, "tampered": -0.05},
        "sources": {
            "noise": logistic(0.6, (-1.2, 0.9, 0.3)),
            "blending": logistic(0.5, (-0.8, -0.2, 1.0)),
            "vlm": {
                **logistic(0.8, (0, 0, 0)),
                "kind": "vector",
                "parameters": {
                    "centre": [-1.1] * 3, "scale": [1.0] * 3, "low": [-9.0] * 3, "high": [0.0] * 3,
                    "bias": [0.0] * 3, "weights": np.eye(3).tolist(),
                },
            },
            "metadata": {
                **logistic(1.0, (0, 0, 0), cap=8.0, reach=0.2),
                "kind": "table", "provenance": True, "fixed": True,
                "parameters": {"basis": "declared", "rows": {
                    "sd-parameters": {"llr": {"real": -6.0, "synthetic": 7.0, "tampered": -2.0}},
                    "camera-exif": {"llr": {"real": 0.1, "synthetic": -0.1, "tampered": 0.0}},
                }},
            },
        },
        "conformal": {"real": scores, "synthetic": scores, "tampered": scores},
        "decision": {"levels": {"synthetic": 0.1, "tampered": 0.1}, "margin": 0.4},
        "distance": None,
        "quality": {},
        "origin": {"seed": 0},
    }  # fmt: skip


FROZEN = Calibration.from_json(record())


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration.from_json(record())


def finding(source: str, score: float | None = None, **kwargs) -> Evidence:
    return Evidence(source, f"The {source} value is {score}.", score=score, **kwargs)


def sd_parameters() -> Evidence:
    return finding("metadata", code="sd-parameters")


numbers = st.floats(-3, 4, allow_nan=False)
log_probabilities = st.tuples(*[st.floats(-20, 0)] * 3)


@st.composite
def evidence_sets(draw) -> list[Evidence]:
    items = [
        finding("noise", draw(numbers)),
        finding("blending", draw(numbers)),
        finding("vlm", vector=draw(log_probabilities)),
        finding("metadata", code=draw(st.sampled_from(["sd-parameters", "camera-exif", "never-seen"]))),
        finding("chroma", draw(numbers)),
    ]
    return draw(st.lists(st.sampled_from(items), unique_by=lambda item: item.source))


@given(evidence_sets())
@settings(max_examples=150, deadline=None)
def test_prior_and_contributions_reproduce_the_log_odds(evidence):
    weighed, verdict = judge(evidence, FROZEN)
    total = {
        label: verdict.prior[label] + math.fsum(e.contribution[label] for e in weighed) for label in LABELS
    }
    for a in LABELS:
        for b in LABELS:
            found = math.log(verdict.probabilities[a]) - math.log(verdict.probabilities[b])
            assert found == pytest.approx(total[a] - total[b], abs=1e-9)
    assert sum(verdict.probabilities.values()) == pytest.approx(1, abs=1e-12)
    assert verdict.leading == max(LABELS, key=lambda label: verdict.probabilities[label])


@given(evidence_sets(), st.randoms())
@settings(max_examples=80, deadline=None)
def test_order_does_not_matter(evidence, random):
    calibration = FROZEN
    shuffled = list(evidence)
    random.shuffle(shuffled)
    first, verdict = judge(evidence, calibration)
    second, again = judge(shuffled, calibration)
    assert [(e.id, e.source, dict(e.contribution)) for e in first] == [
        (e.id, e.source, dict(e.contribution)) for e in second
    ]
    assert verdict.label == again.label
    assert dict(verdict.probabilities) == dict(again.probabilities)


@given(evidence_sets())
@settings(max_examples=80, deadline=None)
def test_ids_follow_weight_and_llr_never_exceeds_the_cap(evidence):
    calibration = FROZEN
    weighed, _ = judge(evidence, calibration)
    sizes = [max(abs(value) for value in e.contribution.values()) for e in weighed]
    assert sizes == sorted(sizes, reverse=True)
    assert [e.id for e in weighed] == [f"E{i}" for i in range(1, len(weighed) + 1)]
    for e in weighed:
        source = calibration.sources.get(e.source)
        if source is not None:
            assert all(abs(value) <= source.cap for value in e.llr.values())


def test_unknown_source_and_unknown_code_count_zero_and_say_so(calibration):
    items = [finding("chroma", 99.0), finding("metadata", code="martian")]
    weighed, verdict = judge(items, calibration)
    assert {e.source: e.strength for e in weighed} == dict.fromkeys(("chroma", "metadata"), "not calibrated")
    assert all(value == 0 for e in weighed for value in e.contribution.values())
    _, empty = judge([], calibration)
    assert dict(verdict.probabilities) == dict(empty.probabilities)


def test_evidence_without_a_number_says_nothing(calibration):
    weighed, _ = judge([finding("noise")], calibration)
    assert weighed[0].strength == "no support"
    assert set(weighed[0].contribution.values()) == {0.0}


def test_removing_an_evidence_moves_log_odds_by_its_contribution(calibration):
    items = [finding("noise", 0.9), finding("blending", 0.2), finding("vlm", vector=(-0.2, -2.0, -3.0))]
    weighed, verdict = judge(items, calibration)
    for dropped in weighed:
        _, rest = judge([item for item in items if item.source != dropped.source], calibration)
        for a, b in (("real", "synthetic"), ("synthetic", "tampered")):
            before = math.log(verdict.probabilities[a] / verdict.probabilities[b])
            after = math.log(rest.probabilities[a] / rest.probabilities[b])
            moved = dropped.contribution[a] - dropped.contribution[b]
            assert before - after == pytest.approx(moved, abs=1e-9)


def test_a_score_beyond_the_calibrated_range_is_held_at_its_end(calibration):
    far, _ = judge([finding("noise", 1e9)], calibration)
    end, _ = judge([finding("noise", 1.0)], calibration)
    assert dict(far[0].llr) == dict(end[0].llr)


def test_a_larger_alpha_never_withdraws_an_accusation(calibration):
    cases = [
        [finding("noise", n / 10), finding("blending", b / 10), finding("vlm", vector=(-v / 4, -1.0, -1.5))]
        for n in range(0, 11, 2) for b in range(0, 11, 2) for v in range(0, 20, 4)
    ]  # fmt: skip
    accused = []
    for alpha in (0.001, 0.01, 0.05, 0.2, 0.4):
        labels = [judge(case, calibration, alpha=alpha)[1].label for case in cases]
        accused.append({i for i, label in enumerate(labels) if label in ("synthetic", "tampered")})
    assert all(a <= b for a, b in pairwise(accused))
    assert accused[-1]


def test_alpha_below_one_over_n_accuses_nobody_and_says_why(calibration):
    _, verdict = judge([sd_parameters(), finding("noise", 1.0)], calibration, alpha=0.001)
    assert verdict.label == "inconclusive"
    assert "needs at least 999 real calibration pictures" in verdict.abstention
    assert not calibration.guarantee(0.001).possible
    promise = calibration.guarantee(0.05)
    assert promise.possible
    assert 0.05 < promise.upper < 0.12
    assert "199" in promise.sentence


def test_generation_metadata_goes_through_the_same_sum_and_decides(calibration):
    weighed, verdict = judge([sd_parameters()], calibration)
    assert verdict.label == "synthetic"
    assert weighed[0].strength == "strong support for synthetic"


def test_two_labels_left_need_the_margin():
    changed = record()
    near = {"n": 999, "groups": 3, "points": [-9.0, -5.0], "above": [500, 0]}
    wide = {"n": 999, "groups": 3, "points": [50.0], "above": [0]}
    changed["conformal"] = {"real": near, "synthetic": wide, "tampered": wide}
    changed["decision"]["margin"] = 3.0
    calibration = Calibration.from_json(changed)
    _, close = judge([finding("noise", 0.9)], calibration)
    assert close.label == "inconclusive"
    assert "can't tell whether" in close.abstention
    _, clear = judge([sd_parameters()], calibration)
    assert clear.label == "synthetic"


def test_contradiction_where_no_label_fits():
    changed = record()
    never = {"n": 999, "groups": 3, "points": [-50.0], "above": [0]}
    changed["conformal"] = dict.fromkeys(LABELS, never)
    _, verdict = judge([finding("noise", 0.5)], Calibration.from_json(changed))
    assert verdict.label == "inconclusive"
    assert "contradict" in verdict.abstention


def test_pixel_gate_silences_pixels_but_not_generation_metadata(calibration):
    gate = Gate("tiny", "The picture is 20 × 20 pixels, too small to measure.")
    pixels = [finding("noise", 1.0), finding("vlm", vector=(-9.0, -0.1, -9.0))]
    weighed, verdict = judge(pixels, calibration, gates=[gate])
    assert verdict.label == "inconclusive"
    assert verdict.abstention == gate.reason
    assert {e.strength for e in weighed} == {"outside calibration"}
    assert all(value == 0 for e in weighed for value in e.contribution.values())
    _, stated = judge([*pixels, sd_parameters()], calibration, gates=[gate])
    assert stated.label == "synthetic"
    hard = Gate("policy", "This kind of file is not judged.", pixels=False)
    _, refused = judge([sd_parameters()], calibration, gates=[hard])
    assert refused.label == "inconclusive"
    assert refused.abstention == hard.reason


def test_a_broken_source_never_leads_to_real_and_may_block_an_accusation():
    calibration = Calibration.from_json(record())
    calm = [finding("noise", 0.0), finding("vlm", vector=(-0.01, -6.0, -6.0))]
    assert judge(calm, calibration)[1].label == "real"
    _, broken = judge(calm, calibration, failures=[SourceFailure("blending", "defect")])
    assert broken.label == "inconclusive"
    assert "blending" in broken.abstention
    _, unknown = judge(calm, calibration, failures=[SourceFailure("chroma", "defect")])
    assert unknown.label == "real"
    strong = [sd_parameters(), finding("vlm", vector=(-9.0, -0.1, -9.0))]
    assert judge(strong, calibration, failures=[SourceFailure("noise", "defect")])[1].label == "synthetic"
    changed = record()
    changed["sources"]["noise"]["reach"] = 60.0
    _, blocked = judge(strong, Calibration.from_json(changed), failures=[SourceFailure("noise", "x")])
    assert blocked.label == "inconclusive"


def test_where_only_a_finding_names_a_place_the_verdict_points_at_it(calibration):
    region = Region(Box(1, 1, 5, 5))
    strong = [finding("blending", 1.0, region=region), finding("vlm", vector=(-9.0, -9.0, -0.1))]
    _, placed = judge(strong, calibration, mask_area=0.0)
    assert placed.label == "tampered"
    assert "finding names" in placed.mask_agreement
    _, unplaced = judge([finding("blending", 1.0), strong[1]], calibration, mask_area=0.0)
    assert "unknown" in unplaced.mask_agreement
    _, masked = judge(strong, calibration, mask_area=0.1)
    assert "10 %" in masked.mask_agreement


def test_bad_arguments(calibration):
    with pytest.raises(SettingsError):
        judge([], calibration, alpha=0.7)
    with pytest.raises(Defect):
        judge([finding("noise", 1.0), finding("noise", 2.0)], calibration)
    with pytest.raises(Defect):
        judge([], calibration, mask_area=1.5)
    with pytest.raises(SettingsError, match="different versions"):
        judge([finding("vlm", vector=(0.0, 1.0))], calibration)


@pytest.mark.parametrize("label", [*LABELS, "inconclusive"])
def test_mask_agreement_names_the_area(label):
    assert mask_agreement(label, None) is None
    assert "12 %" in mask_agreement(label, 0.12)
    assert "%" not in mask_agreement(label, 0.0)


def test_verbal_scale_follows_enfsi():
    for ratio, words in ((1.5, "no support"), (5, "weak"), (50, "moderate "), (500, "moderately strong"),
                         (5e3, "strong"), (5e5, "very strong"), (5e6, "extremely strong")):  # fmt: skip
        assert strength_of(np.array([-0.1, math.log(ratio), 0.0])).startswith(words)
    assert strength_of(np.array([-3.0, 0.6, 0.6])) == "moderate support against real"


def test_strength_is_about_the_label_that_fusion_moves_most():
    llr = np.array([-0.9, -2.3, 2.0])
    assert strength_of(llr) == "weak support against synthetic"
    assert strength_of(llr, llr * (0.3, 0.3, 0.5)) == "weak support for tampered"
    assert strength_of(llr, np.zeros(3)) == strength_of(llr, np.full(3, 0.02)) == "no weight"
    assert strength_of(llr / 4, np.zeros(3)) == "no support"
    assert strength_of(np.array([-3.0, 3.0, -3.0])) == "moderate support for synthetic"


@given(st.tuples(*[st.floats(-800, 800)] * 3))
@settings(deadline=None)
def test_llr_is_the_odds_against_the_even_mixture_of_the_rest(logits):
    llr = llr_from_logits(np.array(logits), 50.0)
    assert np.abs(llr).max() <= 50
    p = np.exp(np.array(logits) - max(logits))
    p /= p.sum()
    for i in range(3):
        if 1e-9 < p[i] < 1 - 1e-9:
            assert llr[i] == pytest.approx(math.log(p[i] / ((1 - p[i]) / 2)), abs=1e-5)


def test_cap_grows_with_pictures_and_maps_are_read_only():
    assert cap_for(0) == 0
    assert cap_for(999) == pytest.approx(math.log(1000))
    with pytest.raises(TypeError):
        as_map(np.zeros(3))["real"] = 1.0  # type: ignore[index]


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=900),
    st.lists(st.floats(-60, 60), min_size=1, max_size=40),
)
@settings(max_examples=80, deadline=None)
def test_thinned_p_values_are_never_below_the_exact_ones(calibration_scores, queries):
    kept = LabelScores.of(np.array(calibration_scores), 1)
    assert len(kept.points) <= 512
    for query in queries:
        exact = (1 + sum(score >= query for score in calibration_scores)) / (len(calibration_scores) + 1)
        assert kept.p_value(query) >= exact - 1e-12
        if len(calibration_scores) <= 256 and all(abs(query - score) > 1e-6 for score in calibration_scores):
            assert kept.p_value(query) == pytest.approx(exact)


def test_nonconformity_is_the_margin_to_the_best_other_label():
    scores = nonconformity(np.log(np.array([0.7, 0.2, 0.1])))
    assert scores == pytest.approx([math.log(0.2 / 0.7), math.log(0.7 / 0.2), math.log(0.7 / 0.1)])


@given(st.lists(st.floats(-6, 6), min_size=3, max_size=3), st.sampled_from([0.01, 0.05, 0.2]))
@settings(max_examples=60, deadline=None)
def test_the_bounds_say_which_labels_are_ruled_out(odds, alpha):
    calibration = Calibration.from_json(record())
    log_odds = np.array(odds)
    bounds = ruled_out_below(log_odds, calibration, alpha)
    probabilities = np.exp(log_odds - np.logaddexp.reduce(log_odds))
    scores = nonconformity(np.log(probabilities))
    levels = {"real": alpha, **calibration.levels}
    for place, label in enumerate(LABELS):
        if abs(probabilities[place] - bounds[place]) > 1e-9:
            kept = calibration.conformal[label].p_value(float(scores[place])) > levels[label]
            assert kept == (probabilities[place] > bounds[place])


def test_a_level_that_no_score_reaches_rules_nothing_out():
    scores = LabelScores.of(np.linspace(0, 1, 20), 3)
    assert scores.largest_kept(0.01) == math.inf
    assert scores.largest_kept(0.5) < 1


def test_a_source_may_count_for_one_label_more_than_for_another():
    changed = record()
    changed["sources"]["noise"]["weight"] = {"real": 0.5, "synthetic": 0.0, "tampered": 2.0}
    calibration = Calibration.from_json(changed)
    (item,), _ = judge([finding("noise", 0.9)], calibration)
    assert {label: item.contribution[label] / item.llr[label] for label in LABELS} == pytest.approx(
        {"real": 0.5, "synthetic": 0.0, "tampered": 2.0}
    )
    again = Calibration.from_json(json.loads(json.dumps(calibration.to_json(), default=lambda a: a.tolist())))
    assert again.sources["noise"].weight.tolist() == [0.5, 0.0, 2.0]


def test_a_broken_source_could_have_spoken_against_each_accusation():
    """What it said most in a picture's favour is not only that it is real, but that it is neither of the others."""
    strong = [finding("noise", 1.0), finding("blending", 0.0), sd_parameters()]
    failure = [SourceFailure("vlm", "defect")]
    changed = record()
    assert judge(strong, Calibration.from_json(changed), failures=failure)[1].label == "synthetic"
    changed["sources"]["vlm"]["reach"] = {"real": 0.0, "synthetic": -40.0, "tampered": 0.0}
    assert judge(strong, Calibration.from_json(changed), failures=failure)[1].label == "inconclusive"


def test_a_share_that_keeps_a_label_is_printed_above_its_bound():
    assert _share(0.0102, 0.01) == "1.02 %"
    assert _share(0.031, 0.01) == "3.1 %"
    assert _share(0.31, 0.01) == "31 %"
    assert _share(0.05004) == "5.0 %"
