"""From cached features, unseen-source scores and observations to the shipped calibration.

Every number that judges others is from a model that saw nothing of the picture's family: the label head's and the
experts' scores are replaced by those of models trained without it, and what the blending detector and the mask head say
of a family that they may know is left out. As these two count nothing, a picture is *complete* where the experts and
all signals spoke; others help to fit the sources that did.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlmforensics.compact.whole import EXPERTS
from vlmforensics.finetune.features import load_features
from vlmforensics.finetune.observe import TRAINED_ONCE, Observation, read_observations
from vlmforensics.finetune.pictures import Picture, familiar_families, is_unfamiliar
from vlmforensics.fusion import Calibration, Example, Reading, fit_calibration
from vlmforensics.fusion.gates import DistanceGate
from vlmforensics.types import Label

LEARNED = ("vlm", *EXPERTS)
"""Sources whose readings come from models that left the picture's family out."""
NUMEROUS = ("cooccurrence", "spectrum", "texture_contrast")
"""Sources of many numbers, whose fit knows the families that it was made on (decision 13)."""
UNWEIGHED = (*NUMEROUS, *TRAINED_ONCE)
"""Sources that are told of and count nothing; of the latter two, most pictures here have no unbiased word."""
ALWAYS = "spectrum"
"""A signal that speaks of every picture: where it did, all were asked."""
VARIANTS = ("augmented-1",)
"""Variants that the shipped calibration is fitted on: every label through the same random chain.

Forgeries made in code are left out: they are easier than found ones, and ratios fitted on them mislead (decision 0003).
"""
LEVELS = {"synthetic": 0.15, "tampered": 0.35}
"""Shares of synthetic and tampered pictures that may pass as real at the default setting."""
TASKS = {
    "vlm": "real against synthetic",
    "whole": "real against synthetic",
    "edited": "real against tampered",
    "cooccurrence": "real against synthetic",
    "cfa": "real against synthetic",
    "texture_contrast": "real against synthetic",
    "spectrum": "real against synthetic",
    "upsampling": "real against synthetic",
    "npr": "real against synthetic",
    "blending": "real against tampered",
    "mask": "real against tampered",
    "noise": "real against tampered",
    "jpeg_ghost": "real against tampered",
    "jpeg_double": "real against tampered",
    "jpeg_grid": "real against tampered",
    "jpeg_crop": "real against tampered",
    "jpeg_votes": "real against tampered",
    "copy_move": "real against tampered",
    "residual_clusters": "real against tampered",
    "cfa_part": "real against tampered",
    "chromatic": "real against tampered",
    "thumbnail": "real against tampered",
    "faces": "real against tampered",
}
"""The question that each source answers, on which its reliability is measured."""


@dataclass(frozen=True)
class Row:
    """One prepared picture with everything that is known of it."""

    picture: Picture
    variant: str
    example: Example
    features: tuple[float, ...] = ()


def declared_tables() -> dict[str, dict[str, dict[str, float]]]:
    """The declared ratios of provenance facts: source → code → label → llr."""
    return tomllib.loads((Path(__file__).parent / "provenance.toml").read_text(encoding="utf-8"))


def read_scores(files: Sequence[Path]) -> dict[tuple[str, str], list[float]]:
    """Unseen-source scores: (variant, sha256) → numbers."""
    found: dict[tuple[str, str], list[float]] = {}
    for file in files:
        for key, row in json.loads(file.read_text(encoding="utf-8")).items():
            variant, _, sha = key.partition("/")
            found[variant, sha] = row
    return found


def label_of(picture: Picture, variant: str) -> Label:
    """A forgery made from a real picture is tampered."""
    return "tampered" if variant.startswith("made") else picture.label


def opinion(log_probs: Sequence[float]) -> Reading:
    """The label head's reading, as the assistant makes it."""
    against = float(np.logaddexp(log_probs[1], log_probs[2]) - log_probs[0])
    return Reading(against, tuple(log_probs))


def merge(observations: Sequence[Observation]) -> dict[tuple[str, str], Observation]:
    """Observations of one picture by different witnesses, as one."""
    seen: dict[tuple[str, str], Observation] = {}
    for item in observations:
        key = (item.variant, item.sha256)
        other = seen.get(key, item)
        readings = {**other.readings, **item.readings}
        seen[key] = Observation(*key, readings, other.features or item.features)
    return seen


def assemble(
    pictures: Sequence[Picture],
    observations: Sequence[Observation],
    scores: Mapping[str, Mapping[tuple[str, str], Sequence[float]]],
    cache: Path,
    variants: Sequence[str],
) -> list[Row]:
    """One row per picture and variant that anything unbiased is known of.

    Args:
        pictures: of the manifest.
        observations: what the witnesses said of them.
        scores: learned source → (variant, sha256) → what a model that left the picture's family out said.
        cache: feature cache.
        variants: to make rows of.
    """
    seen, familiar = merge(observations), familiar_families(pictures)
    rows = []
    for variant in variants:
        for picture in pictures:
            key = (variant, picture.sha256)
            observed = seen.get(key)
            learned = {name: own.get(key) for name, own in scores.items()}
            readings: dict[str, Reading] = {}
            complete = False
            if observed is not None:
                unknown = is_unfamiliar(picture, familiar)
                complete = all(learned.values()) and ALWAYS in observed.readings
                readings = {
                    name: reading
                    for name, reading in observed.readings.items()
                    if name not in LEARNED and (unknown or name not in TRAINED_ONCE)
                }
            elif (cached := load_features(cache, variant, picture, ["spectrum", "runs"])) is not None:
                for name, stored in (("spectrum", "spectrum"), ("cooccurrence", "runs")):
                    readings[name] = Reading(None, tuple(float(v) for v in cached[stored]))
            for name, said in learned.items():
                if said is not None:
                    readings[name] = opinion(said) if name == "vlm" else Reading(float(said[0]))
            if readings:
                example = Example(label_of(picture, variant), picture.family, readings, complete=complete)
                rows.append(Row(picture, variant, example, observed.features if observed else ()))
    return rows


def calibrate(rows: Sequence[Row], *, seed: int = 0, notes: Mapping[str, Any] | None = None) -> Calibration:
    """Fit the calibration on rows of one mixture of variants."""
    far = np.array([row.features for row in rows if row.features])
    return fit_calibration(
        [row.example for row in rows],
        seed=seed,
        levels=LEVELS,
        unweighed=UNWEIGHED,
        fixed_tables=declared_tables(),
        tasks={
            name: task for name, task in TASKS.items() if any(name in row.example.readings for row in rows)
        },
        distance=DistanceGate.fit(far) if len(far) > 200 else None,
        notes=notes,
    )


def load_rows(pictures: Sequence[Picture], work: Path, cache: Path, variants: Sequence[str]) -> list[Row]:
    """Rows from what the other commands left in ``work``: observations, and scores of models with families left out.

    A part's scores lie in ``PART/scores.json``, or in ``PART-GROUP/scores.json`` for each group that was left out.
    """
    observations = [o for file in sorted(work.glob("observed-*.jsonl")) for o in read_observations(file)]
    found = {
        name: read_scores(sorted(work.glob(f"{part}*/scores.json")))
        for name, part in (("vlm", "label"), *((name, name) for name in EXPERTS))
    }
    scores = {name: own for name, own in found.items() if own}
    return assemble(pictures, observations, scores, cache, variants)
