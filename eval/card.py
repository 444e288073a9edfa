"""The compact model's card: how the fused verdict does on pictures of unseen sources, beside plain baselines.

Every number is out of fold: the calibration that judges a picture was fitted on other families, from scores of models
that saw nothing of its family (``finetune.calibrate``).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from vlmforensics.compact.whole import EDITED, WHOLE
from vlmforensics.eval.figures import auc_with_interval, clopper_pearson
from vlmforensics.finetune import calibrate as steps
from vlmforensics.finetune.compact_label import Sample, sample_weights
from vlmforensics.finetune.compact_whole import read
from vlmforensics.finetune.features import feature_file
from vlmforensics.finetune.pictures import FORGERIES, Picture, assign_folds, load_manifest
from vlmforensics.fusion import Calibration, judge
from vlmforensics.fusion.logistic import balanced_weights
from vlmforensics.fusion.measure import calibration_figures
from vlmforensics.types import LABELS, Evidence

FOLDS = 5
ALPHA = 0.01
MEASURED = ("equalised", "raw", "augmented-1", "made-1")
"""Variants that the card looks at; the last are forgeries made in code."""


@dataclass(frozen=True, eq=False)
class Study:
    """Labelled pictures, what is stored of them, and for each fold the calibration that left it out.

    Attributes:
        data: folder with the manifest.
        cache: feature cache.
        pictures: of the manifest.
        folds: sha256 of a picture → its fold; families are never split.
        rows: variant → what is known of the pictures in it.
        calibrations: fold → fitted on all others.
    """

    data: Path
    cache: Path
    pictures: Sequence[Picture]
    folds: Mapping[str, int]
    rows: Mapping[str, Sequence[steps.Row]]
    calibrations: Sequence[Calibration]

    @classmethod
    def fit(cls, data: Path, work: Path, cache: Path) -> Study:
        """Read what is stored and fit the calibrations, which takes most of the time.

        Args:
            data: folder with the manifest.
            work: folder with observations and unseen-source scores.
            cache: feature cache.
        """
        pictures = load_manifest(data)
        folds = dict(zip((p.sha256 for p in pictures), assign_folds(pictures, FOLDS), strict=True))
        names = tuple(dict.fromkeys((*MEASURED, *steps.VARIANTS)))
        stored = steps.load_rows(pictures, work, cache, names)
        rows = {name: [row for row in stored if row.variant == name] for name in names}
        fitted = [row for name in steps.VARIANTS for row in rows[name]]
        calibrations = [
            steps.calibrate([row for row in fitted if folds[row.picture.sha256] != fold])
            for fold in range(FOLDS)
        ]
        return cls(data, cache, pictures, folds, rows, calibrations)

    def complete(self, variant: str) -> list[steps.Row]:
        """The rows that all witnesses examined without bias."""
        return [row for row in self.rows[variant] if row.example.complete]

    def calibration(self, row: steps.Row) -> Calibration:
        """The one that left the row's fold out."""
        return self.calibrations[self.folds[row.picture.sha256]]


def stored_evidence(row: steps.Row, without: str = "") -> list[Evidence]:
    """A row's readings as evidence, to be judged; ``without`` names a source to leave out."""
    return [
        Evidence(name, f"Stored reading of {name}.", reading.score, reading.vector, reading.code)
        for name, reading in row.example.readings.items()
        if name != without
    ]


def predictions(study: Study, rows: Sequence[steps.Row], without: str = "") -> list[dict[str, Any]]:
    """Verdict and probabilities of each row by the calibration that left its fold out."""
    found = []
    for row in rows:
        _, verdict = judge(stored_evidence(row, without), study.calibration(row), alpha=ALPHA)
        found.append(
            {
                "source": row.picture.source,
                "family": row.picture.family,
                "label": row.example.label,
                "verdict": verdict.label,
                "probabilities": [verdict.probabilities[label] for label in LABELS],
            }
        )
    return found


def baselines(study: Study, rows: Sequence[steps.Row]) -> dict[str, np.ndarray[Any, Any]]:
    """Linear probe and RBF-SVM on the bare tower's last layer (class token, patch mean, deviation), out of fold.

    They train on the same pictures and variants as our parts, and score the same rows.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    cache, folds = study.cache, study.folds
    samples = [
        Sample(p, variant, LABELS.index(p.label))
        for variant in ("equalised", "augmented-1")
        for p in study.pictures
        if p.label != "tampered" and feature_file(cache, variant, p).exists()
    ]
    features = read(samples, cache, "last").astype(np.float64)
    home = np.array([folds[s.picture.sha256] for s in samples])
    labels = np.array([s.label for s in samples])
    test = read([Sample(r.picture, r.variant, 0) for r in rows], cache, "last").astype(np.float64)
    test_home = np.array([folds[r.picture.sha256] for r in rows])
    scores = {"linear probe": np.zeros(len(rows)), "RBF-SVM": np.zeros(len(rows))}
    for fold in range(FOLDS):
        train = home != fold
        weights = sample_weights([s for s, keep in zip(samples, train, strict=True) if keep])
        mean, scale = features[train].mean(0), features[train].std(0) + 1e-6
        here = test_home == fold
        if not here.any():
            continue
        for name, model in (
            ("linear probe", LogisticRegression(C=3e-3, max_iter=300)),
            ("RBF-SVM", SVC(C=3.0)),
        ):
            model.fit((features[train] - mean) / scale, labels[train], sample_weight=weights)
            scores[name][here] = model.decision_function((test[here] - mean) / scale)
    return scores


def summarise(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Table of one variant: AUC, calibration, decisions, sources."""
    p = np.array([f["probabilities"] for f in found])
    labels = np.array([LABELS.index(f["label"]) for f in found])
    families = [f["family"] for f in found]
    logs = np.log(np.maximum(p, 1e-12))
    result: dict[str, Any] = {"n": {label: int((labels == i).sum()) for i, label in enumerate(LABELS)}}
    for name, positive in (("real against synthetic", 1), ("real against tampered", 2)):
        kept = np.isin(labels, (0, positive))
        margin = logs[kept, positive] - logs[kept, 0]
        result[name] = auc_with_interval(
            labels[kept] == positive, margin, [g for g, k in zip(families, kept, strict=True) if k]
        )
    result |= calibration_figures(logs, labels, balanced_weights(labels))
    table: dict[str, dict[str, int]] = {
        label: dict.fromkeys((*LABELS, "inconclusive"), 0) for label in LABELS
    }
    for f in found:
        table[f["label"]][f["verdict"]] += 1
    accused = table["real"]["synthetic"] + table["real"]["tampered"]
    decided = [f for f in found if f["verdict"] != "inconclusive"]
    right = sum(f["verdict"] == f["label"] for f in decided)
    result["decisions"] = table
    result["false accusations"] = _share(accused, result["n"]["real"])
    result["coverage"] = len(decided) / len(found)
    result["right of decided"] = _share(right, len(decided))
    result["sources"] = _sources(found)
    return result


def _share(count: int, n: int) -> dict[str, Any]:
    return {"count": count, "n": n, "interval": clopper_pearson(count, n)}


def _sources(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for f in found:
        groups[f["label"], f["source"]].append(f)
    return [
        {
            "label": label,
            "source": source,
            "n": len(items),
            "mean probability of the truth": float(
                np.mean([f["probabilities"][LABELS.index(label)] for f in items])
            ),
            "right": sum(f["verdict"] == label for f in items),
            "inconclusive": sum(f["verdict"] == "inconclusive" for f in items),
            "wrong": sum(f["verdict"] not in (label, "inconclusive") for f in items),
        }
        for (label, source), items in sorted(groups.items())
    ]


def measure(study: Study) -> dict[str, Any]:
    """All figures of the card."""
    result: dict[str, Any] = {"alpha": ALPHA, "folds": FOLDS, "levels": dict(steps.LEVELS), "variants": {}}
    for variant in MEASURED[:-1]:
        # Scored by the expert, though not examined by all witnesses: those that were silent contribute nothing.
        scored = [row for row in study.rows[variant] if WHOLE in row.example.readings]
        if scored and "rivals" not in result:
            result["variant of comparisons"] = variant
            result["rivals"] = _rivals(study, scored)
            result["pictures of comparisons"] = dict(Counter(row.example.label for row in scored))
            result["editing"] = _editing([row for row in scored if EDITED in row.example.readings])
        rows = study.complete(variant)
        if not rows:
            continue
        result["variants"][variant] = summarise(predictions(study, rows))
        if "ablation" not in result:
            result["variant of ablation"] = variant
            result["ablation"] = _ablation(study, rows)
    if made := study.complete("made-1"):
        result["made"] = _made(study, made)
    return result


def _editing(rows: Sequence[steps.Row]) -> dict[str, Any]:
    """The editing expert alone: found forgeries against real pictures, all and those of the same collections."""
    tampered = [row for row in rows if row.example.label == "tampered"]
    real = [row for row in rows if row.example.label == "real"]
    result = {}
    for name, others in (
        ("all real pictures", real),
        ("originals of the same collections", [row for row in real if row.picture.part == FORGERIES]),
    ):
        if tampered and others:
            chosen = [*tampered, *others]
            scores = np.array([row.example.readings[EDITED].score or 0.0 for row in chosen])
            truth = np.arange(len(chosen)) < len(tampered)
            own = auc_with_interval(truth, scores, [row.picture.family for row in chosen])
            result[name] = {"real": len(others), "tampered": len(tampered), **own}
    return result


def _made(study: Study, made: Sequence[steps.Row]) -> dict[str, Any]:
    """Forgeries made in code from real pictures, against such pictures untouched, all in the random chain."""
    untouched = [row for row in study.complete("augmented-1") if row.example.label == "real"]
    found = predictions(study, [*made, *untouched])
    truth = np.array([f["label"] == "tampered" for f in found])
    families = [f["family"] for f in found]
    return {
        "pictures": {"tampered": len(made), "real": len(untouched)},
        "verdicts": dict(Counter(f["verdict"] for f in found[: len(made)])),
        **auc_with_interval(truth, _margin(found, [True] * len(found), "tampered"), families),
    }


def _margin(
    found: Sequence[dict[str, Any]], kept: Sequence[bool], label: str = "synthetic"
) -> np.ndarray[Any, Any]:
    p = np.array([f["probabilities"] for f, k in zip(found, kept, strict=True) if k])
    return np.asarray(
        np.log(np.maximum(p[:, LABELS.index(label)], 1e-12)) - np.log(np.maximum(p[:, 0], 1e-12))
    )


def _rivals(study: Study, rows: Sequence[steps.Row]) -> dict[str, Any]:
    found = predictions(study, rows)
    kept = [f["label"] != "tampered" for f in found]
    chosen = [row for row, keep in zip(rows, kept, strict=True) if keep]
    truth = np.array([row.example.label == "synthetic" for row in chosen])
    families = [row.picture.family for row in chosen]
    ours = _margin(found, kept)
    rivals = baselines(study, chosen)
    if all("vlm" in row.example.readings for row in chosen):
        rivals["label head alone"] = np.array([_head(row) for row in chosen])
    alone = [row.example.readings[WHOLE].score or 0.0 for row in chosen]
    rivals[f"`{WHOLE}` expert alone"] = np.array(alone)
    return {name: auc_with_interval(truth, ours, families, other=score) for name, score in rivals.items()}


def _head(row: steps.Row) -> float:
    vector = row.example.readings["vlm"].vector
    return vector[1] - vector[0]


def _ablation(study: Study, rows: Sequence[steps.Row]) -> dict[str, Any]:
    names = sorted({name for row in rows for name in row.example.readings})
    result = {}
    for name in ["", *names]:
        found = predictions(study, rows, without=name)
        entry = {}
        for label in ("synthetic", "tampered"):
            kept = [f["label"] in ("real", label) for f in found]
            truth = np.array([f["label"] == label for f, k in zip(found, kept, strict=True) if k])
            entry[label] = float(roc_auc_score(truth, _margin(found, kept, label)))
        result[name or "all"] = entry
    return result


def save(result: dict[str, Any], file: Path) -> None:
    """Write the figures, rounded to four digits, keys in a fixed order."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_rounded(result), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
