"""Fitting a calibration: honest out-of-fold numbers, stated coverage, determinism, speed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from vlmforensics.errors import SettingsError
from vlmforensics.fusion import Calibration, Example, Reading, fit_calibration, judge
from vlmforensics.fusion.calibrators import Isotonic, Table
from vlmforensics.fusion.judge import conformal_decision
from vlmforensics.fusion.logistic import balanced_weights, fit_isotonic, multinomial
from vlmforensics.fusion.measure import balanced_accuracy, wilson
from vlmforensics.fusion.scale import log_softmax
from vlmforensics.types import LABELS, Evidence

MEANS = {
    "noise": (0.0, 1.2, 0.4),
    "spectrum": (0.0, 1.0, 0.0),
    "blending": (0.0, 0.1, 1.5),
    "useless": (0.0, 0.0, 0.0),
}


def simulate(n: int, seed: int, group_shift: float = 0.2) -> list[Example]:
    """Scores are Gaussian around the label's mean plus a group's shift; one source is a copy of another."""
    generator = np.random.default_rng(seed)
    examples = []
    shifts = generator.normal(0, group_shift, (40, len(MEANS)))
    for _ in range(n):
        label = int(generator.integers(3))
        group = int(generator.integers(40))
        readings = {}
        for place, (name, means) in enumerate(MEANS.items()):
            if generator.uniform() < 0.9:
                readings[name] = Reading(score=float(generator.normal(means[label]) + shifts[group, place]))
        if "noise" in readings:
            readings["noise_copy"] = Reading(score=2 * readings["noise"].score)
        logits = generator.normal(0, 1, 3) + 1.2 * np.eye(3)[label]
        readings["vlm"] = Reading(vector=tuple(log_softmax(logits).tolist()))
        readings["metadata"] = Reading(code="camera-exif" if generator.uniform() < 0.5 else "none")
        examples.append(Example(LABELS[label], f"g{group}", readings))
    return examples


FIXED = {
    "metadata": {
        "sd-parameters": {"real": -6.0, "synthetic": 6.5, "tampered": -3.0},
        "camera-exif": {"real": 0.1, "synthetic": -0.1},
        "none": {},
    }
}


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    return fit_calibration(simulate(3000, 1), seed=5, fixed_tables=FIXED, kinds={"blending": "isotonic"})


def judged(calibration: Calibration, examples: list[Example], alpha: float) -> list[tuple[str, str, dict]]:
    result = []
    for example in examples:
        evidence = [
            Evidence(name, "A statement of this source.", score=r.score, vector=r.vector, code=r.code)
            for name, r in example.readings.items()
        ]
        _, verdict = judge(evidence, calibration, alpha=alpha)
        result.append((example.label, verdict.label, dict(verdict.probabilities)))
    return result


def test_fit_is_deterministic(fitted):
    again = fit_calibration(simulate(3000, 1), seed=5, fixed_tables=FIXED, kinds={"blending": "isotonic"})
    assert again.canonical == fitted.canonical


@pytest.fixture(scope="module")
def fresh(fitted) -> list[tuple[str, str, dict]]:
    """Pictures that the calibration has not seen, judged at 1 %."""
    return judged(fitted, simulate(2400, 1_000), 0.01)


@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_real_pictures_are_accused_at_most_alpha(fitted, fresh, alpha):
    log_probs = [np.log([p[label] for label in LABELS]) for _, _, p in fresh]
    fresh = [
        (truth, conformal_decision(row, fitted, alpha).label)
        for (truth, _, _), row in zip(fresh, log_probs, strict=True)
    ]
    reals = [verdict for truth, verdict in fresh if truth == "real"]
    accused = sum(verdict in ("synthetic", "tampered") for verdict in reals)
    allowed = max(alpha, fitted.guarantee(alpha).upper)
    assert binomtest(accused, len(reals), allowed, alternative="greater").pvalue > 1e-3
    caught = [verdict for truth, verdict in fresh if truth == "synthetic"]
    assert sum(verdict == "synthetic" for verdict in caught) > 0.05 * len(caught)


def test_disjoint_split_is_recorded_and_keeps_the_bound():
    calibration = fit_calibration(simulate(2400, 2, 0.0), fixed_tables=FIXED, conformal_share=0.4)
    assert calibration.origin["conformal"] == "disjoint split"
    assert calibration.conformal["real"].n < 500
    reals = [v for t, v, _ in judged(calibration, simulate(1200, 77, 0.0), 0.05) if t == "real"]
    accused = sum(v in ("synthetic", "tampered") for v in reals)
    bound = calibration.guarantee(0.05).upper
    assert binomtest(accused, len(reals), bound, alternative="greater").pvalue > 1e-3


def test_probabilities_are_calibrated(fitted, fresh):
    confidence = np.array([max(p.values()) for _, _, p in fresh])
    right = np.array([max(p, key=p.get) == truth for truth, _, p in fresh])
    for low, high in ((0.4, 0.6), (0.6, 0.8), (0.8, 1.0)):
        part = (confidence >= low) & (confidence < high)
        assert abs(confidence[part].mean() - right[part].mean()) < 0.06
    assert fitted.quality["ece"] < 0.05
    assert 0 < fitted.quality["cllr"] < 1
    assert sum(sum(row.values()) for key, row in fitted.quality["decisions"].items() if key in LABELS) == 3000


def test_weights_are_shared_between_copies_and_small_for_noise(fitted):
    assert all((source.weight >= 0).all() for source in fitted.sources.values())
    weight = {name: source.weight.mean() for name, source in fitted.sources.items()}
    assert weight["noise"] < 0.8 * weight["vlm"]
    assert weight["noise_copy"] < 0.8 * weight["vlm"]
    worthless, _ = judge([Evidence("useless", "A statement of this source.", score=1.0)], fitted)
    assert max(map(abs, worthless[0].contribution.values())) < 0.15
    assert weight["metadata"] == 1.0


def test_reliability_tells_a_useful_from_a_useless_source(fitted):
    useful, useless = fitted.sources["noise"].reliability, fitted.sources["useless"].reliability
    assert useful.low > 0.55
    assert useless.low < 0.5 < useless.high + 0.03
    assert useful.low < useful.balanced_accuracy < useful.high
    assert useful.n == sum(fitted.sources["noise"].counts.values())


def test_tasks_choose_what_reliability_is_about():
    calibration = fit_calibration(simulate(1500, 3), tasks={"blending": "real against tampered"})
    both = calibration.sources["blending"].reliability
    assert both.balanced_accuracy > 0.7
    assert calibration.sources["blending"].task == "real against tampered"


def test_declared_metadata_decides_through_the_same_sum(fitted):
    weighed, verdict = judge(
        [Evidence("metadata", "The file names a generator.", code="sd-parameters")], fitted
    )
    assert verdict.label == "synthetic"
    assert weighed[0].contribution["synthetic"] == 6.5


def test_counted_table_and_rare_sources():
    generator = np.random.default_rng(0)
    examples = []
    for i in range(600):
        label = LABELS[i % 3]
        code = "odd" if label == "tampered" and generator.uniform() < 0.6 else "plain"
        readings = {"container": Reading(code=code)}
        if i < 12:
            readings["rare"] = Reading(score=float(i))
        examples.append(Example(label, f"g{i % 17}", readings))
    calibration = fit_calibration(examples)
    table = calibration.sources["container"].calibrator
    assert isinstance(table, Table)
    assert table.rows["odd"][2] > 2
    assert table.counts["odd"].tolist()[:2] == [0, 0]
    assert "rare" not in calibration.sources


def test_two_sided_scores_get_the_curved_form():
    generator = np.random.default_rng(0)
    examples = [
        Example(
            LABELS[i % 3],
            f"g{i % 23}",
            {"odd": Reading(score=float(generator.normal(0, (0.5, 2.0, 2.0)[i % 3])))},
        )
        for i in range(900)
    ]
    calibration = fit_calibration(examples)
    assert np.abs(calibration.sources["odd"].calibrator.curve).max() > 0
    assert calibration.sources["odd"].reliability.balanced_accuracy > 0.65


def test_missing_label_and_unknown_names_are_errors():
    examples = [example for example in simulate(200, 4) if example.label != "tampered"]
    with pytest.raises(SettingsError, match="tampered"):
        fit_calibration(examples)
    with pytest.raises(SettingsError, match="sorcery"):
        fit_calibration(simulate(200, 4), kinds={"noise": "sorcery"})


def test_out_of_fold_numbers_do_not_reward_memorised_groups():
    generator = np.random.default_rng(1)
    groups = generator.normal(0, 5, 30)
    examples = [
        Example(LABELS[g % 3], f"g{g}", {"leak": Reading(score=float(groups[g] + generator.normal(0, 0.01)))})
        for g in range(30) for _ in range(30)
    ]  # fmt: skip
    calibration = fit_calibration(examples)
    assert calibration.sources["leak"].weight.mean() < 0.35
    assert calibration.quality["balanced_accuracy"] < 0.55


def test_newton_matches_a_reference_and_isotonic_is_monotone():
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 400)
    features = generator.normal(size=(400, 2)) + np.eye(3)[labels][:, :2]
    weights = balanced_weights(labels)
    bias, slopes = multinomial(features, labels, weights, 1.0)
    reference = LogisticRegression(C=1.0, max_iter=2000, tol=1e-10).fit(
        features, labels, sample_weight=weights
    )
    ours = log_softmax(bias + features @ slopes.T)
    assert np.abs(np.exp(ours) - reference.predict_proba(features)).max() < 5e-3
    curve = fit_isotonic(features[:, 0], labels, weights, target=1)
    assert isinstance(curve, Isotonic)
    assert (np.diff(curve.log_posteriors[:, 1]) >= -1e-12).all()


def test_intervals():
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.490, abs=2e-3)
    assert high == pytest.approx(0.943, abs=2e-3)
    assert balanced_accuracy(np.array([]), np.array([1.0])) is None
    assert balanced_accuracy(np.ones(10), -np.ones(10)).balanced_accuracy == 1
    assert balanced_accuracy(np.zeros(10), np.zeros(10)).balanced_accuracy == 0.5


def test_long_vectors_are_penalised_until_they_generalise():
    generator = np.random.default_rng(0)
    examples = []
    for i in range(900):
        label = i % 3
        useful = generator.normal(1.0 * (label > 0), 1.0)
        noise = generator.normal(0, 1, 140)
        examples.append(Example(LABELS[label], f"g{i % 31}", {"wide": Reading(vector=(useful, *noise))}))
    calibration = fit_calibration(examples)
    weights = calibration.sources["wide"].calibrator.weights[0]
    assert abs(weights[0]) > 4 * np.abs(weights[1:]).mean()
    assert calibration.sources["wide"].reliability.low > 0.55
    assert calibration.quality["log_loss"] < np.log(3)
