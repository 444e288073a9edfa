"""Figures of the verdicts under one condition: right and wrong, curves, calibration, coverage, sources."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlmforensics.eval import metrics
from vlmforensics.eval.metrics.detection import Bools, Floats
from vlmforensics.eval.predictions import Arrays, Prediction
from vlmforensics.eval.samples import FAKE, TRUTHS
from vlmforensics.fusion.logistic import balanced_weights
from vlmforensics.types import LABELS

CURVE = 200
"""Most points of a stored risk-coverage curve."""
CALIBRATION_ROUNDS = 300
"""Bootstrap rounds of the calibration error, which has no closed form to draw fast."""


def figures(predictions: Sequence[Prediction], *, seed: int) -> dict[str, Any]:
    """All figures of one condition.

    Args:
        predictions: under this condition.
        seed: of the bootstraps.
    """
    a = Arrays.of(predictions)
    found: dict[str, Any] = {
        "n": {label: a.truth.count(label) for label in TRUTHS if label in a.truth},
        "detection": {
            label: detection(a, label, seed=seed)
            for label in TRUTHS[1:]
            if "real" in a.truth and label in a.truth
        },
        "binary": binary(a, seed=seed),
        "decisions": metrics.confusion(a.truth, a.said, (*TRUTHS, "inconclusive")),
        "selective": selective(predictions, a, seed=seed),
        "sources": sources(predictions),
    }
    if a.three and len(set(a.truth)) > 1:
        found["labels"] = labelled(a, seed=seed)
        found["calibration"] = calibration(a, seed=seed)
    return found


def ranged(value: float, rounds: Floats) -> dict[str, float]:
    """A figure with the interval of its values over bootstrap rounds."""
    low, high = metrics.interval(rounds)
    return {"value": value, "low": low, "high": high}


def detection(a: Arrays, label: str, *, seed: int) -> dict[str, Any]:
    """Real against one label: curve figures of the log-odds of the two."""
    kept = np.flatnonzero([name in ("real", label) for name in a.truth])
    truth: Bools = np.array([name == label for name in a.truth])[kept]
    ratio: Floats = a.margin(label)[kept]
    return {
        "auc": ranged(metrics.roc_auc(truth, ratio), metrics.auc_of(truth, ratio, a.draws(seed, kept))),
        "ap": metrics.average_precision(truth, ratio),
        "tpr_at_1_fpr": metrics.tpr_at_fpr(truth, ratio),
        "eer": metrics.equal_error_rate(truth, ratio),
        "cllr": metrics.cllr(ratio[truth], ratio[~truth]),
        "min_cllr": metrics.min_cllr(ratio[truth], ratio[~truth]),
        "roc": metrics.roc_points(truth, ratio),
        "det": metrics.det_points(truth, ratio),
    }


def binary(a: Arrays, *, seed: int) -> dict[str, Any]:
    """Real against everything else without abstention, as two-label protocols count it (threshold: equal odds)."""
    truth = ["real" if name == "real" else FAKE for name in a.truth]
    said = ["real" if odds <= 0 else FAKE for odds in a.fake]

    right = np.array([one == other for one, other in zip(truth, said, strict=True)], np.float64)
    weights = a.draws(seed)
    fake: Bools = np.array([name == FAKE for name in truth])
    return {
        "accuracy": ranged(metrics.accuracy(truth, said), metrics.mean_of(right, weights)),
        "balanced_accuracy": ranged(
            metrics.balanced_accuracy(truth, said), metrics.balanced_of(right, truth, weights)
        ),
        "f1_real_positive": metrics.f1(truth, said, "real"),
        "f1_fake_positive": metrics.f1(truth, said, FAKE),
        "auc": ranged(metrics.roc_auc(fake, a.fake), metrics.auc_of(fake, a.fake, weights)),
    }


def labelled(a: Arrays, *, seed: int) -> dict[str, Any]:
    """The most probable label against the truth, without abstention."""
    guess = [LABELS[i] for i in a.p.argmax(axis=1)]

    right = np.array([one == other for one, other in zip(a.truth, guess, strict=True)], np.float64)
    return {
        "accuracy": metrics.accuracy(a.truth, guess),
        "balanced_accuracy": ranged(
            metrics.balanced_accuracy(a.truth, guess), metrics.balanced_of(right, a.truth, a.draws(seed))
        ),
        "macro_f1": metrics.macro_f1(a.truth, guess),
        "confusion": metrics.confusion(a.truth, guess, LABELS),
    }


def calibration(a: Arrays, *, seed: int) -> dict[str, Any]:
    """Stated probabilities against what is true, labels weighted alike as their prior is."""
    labels = a.labels

    weights = balanced_weights(labels)
    rounds = []
    for drawn in a.draws(seed)[:CALIBRATION_ROUNDS]:
        kept = drawn > 0
        again = balanced_weights(labels[kept], drawn[kept])
        rounds.append(metrics.expected_calibration_error(a.p[kept], labels[kept], weights=again)[0])
    error, bins = metrics.expected_calibration_error(a.p, labels, weights=weights)
    odds = -a.fake  # of real against the rest
    return {
        "ece": ranged(error, np.array(rounds)),
        "reliability": bins,
        "brier": metrics.brier(a.p, labels, weights=weights),
        "cllr_real": metrics.cllr(odds[labels == 0], odds[labels != 0]),
        "min_cllr_real": metrics.min_cllr(odds[labels == 0], odds[labels != 0]),
    }


def selective(predictions: Sequence[Prediction], a: Arrays, *, seed: int) -> dict[str, Any]:
    """What is decided, how often that is right, and whom it accuses; the curve is of the most probable label."""
    decided = [item for item in predictions if item.verdict != "inconclusive"]
    confidence = a.p.max(axis=1) if a.three else np.abs(a.fake)
    guess = (
        [LABELS[i] for i in a.p.argmax(axis=1)] if a.three else ["real" if o <= 0 else FAKE for o in a.fake]
    )
    right = np.array([g == t for g, t in zip(guess, a.truth, strict=True)])
    curve = metrics.risk_coverage(confidence, right)
    kept = np.unique(np.linspace(0, max(0, len(curve) - 1), min(CURVE, len(curve))).astype(int)).tolist()
    return {
        "coverage": metrics.share(len(decided), len(predictions)),
        "right_of_decided": metrics.share(sum(item.right for item in decided), len(decided)),
        "false_accusations": metrics.false_accusations(a.truth, a.said),
        "aurc": metrics.aurc(confidence, right),
        "risk_coverage": [curve[i] for i in kept],
    }


def sources(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """One row a label and source."""
    groups: dict[tuple[str, str], list[Prediction]] = defaultdict(list)
    for item in predictions:
        groups[item.sample.label, item.sample.source].append(item)
    return [
        {"label": label, "source": source, **tally(items)}
        for (label, source), items in sorted(groups.items())
    ]


def tally(items: Sequence[Prediction]) -> dict[str, Any]:
    """Counts of one group of pictures with the same truth."""
    return {
        "n": len(items),
        "truth_probability": float(np.mean([truth_probability(item) for item in items])),
        "right": sum(item.right for item in items),
        "inconclusive": sum(item.verdict == "inconclusive" for item in items),
        "wrong": sum(not item.right and item.verdict != "inconclusive" for item in items),
    }


def truth_probability(item: Prediction) -> float:
    """Probability that was given to the truth."""
    p = item.probabilities
    if item.sample.label == FAKE:
        return p[1] + p[2]
    return p[LABELS.index(item.sample.label)]  # type: ignore[arg-type]
