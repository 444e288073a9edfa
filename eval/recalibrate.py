"""Refit the judge to a user's own labelled pictures: likelihood ratios, fusion weights and when to abstain.

Two ways. *All* fits everything anew, as the shipped calibration was: out of fold over families of sources; sources that
spoke on fewer than eight pictures of a label stay without weight. *Only thresholds* keeps ratios and weights as they
are and takes the conformal scores from the user's pictures: since nothing else is fitted to them, the guarantee of
split conformal prediction is then exact for pictures like theirs, and a hundred real pictures are enough for 1 %.

The witnesses' networks are not trained here. Where they were trained on these very pictures, their scores flatter, and
so will the calibration: use pictures that they have not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from vlmforensics.assistant import Assistant, gate_features
from vlmforensics.errors import InputError, SettingsError
from vlmforensics.eval import conditions as given
from vlmforensics.eval.samples import FAKE, Sample
from vlmforensics.finetune.calibrate import LEVELS, NUMEROUS, TASKS, declared_tables
from vlmforensics.finetune.journal import append, read_journal
from vlmforensics.fusion import Calibration, DistanceGate, Example, Reading, fit_calibration, judge
from vlmforensics.fusion.conformal import LabelScores, nonconformity
from vlmforensics.imaging import open_case
from vlmforensics.settings import Settings
from vlmforensics.types import LABELS, Evidence, Report

ENOUGH_FOR_GATE = 200
"""Pictures from which the distance gate is fitted anew."""


@dataclass(frozen=True)
class Observed:
    """What the witnesses said of one picture under one condition."""

    example: Example
    features: tuple[float, ...]


def file_of(out: Path) -> Path:
    """Where observations are kept, beside the calibration file, so that a run that stopped goes on."""
    return out.with_suffix(".observed.jsonl")


def observe(
    load: Callable[[], Assistant], samples: Sequence[Sample], out: Path, *, chains: int = 0, seed: int = 0
) -> Iterator[str]:
    """Let the witnesses look at pictures and append what they said; yields a progress line now and then.

    Args:
        load: makes the assistant; called where anything is left to do. Its calibration does not matter.
        samples: with the three labels.
        out: calibration file that will be made; observations go beside it.
        chains: further copies of each picture under random recompression.
        seed: of those.

    Raises:
        SettingsError: a label *fake*, which does not say whether generated or edited; or the file holds observations of
            other weights.
    """
    if any(sample.label == FAKE for sample in samples):
        raise SettingsError(
            f"calibration needs the labels {', '.join(LABELS)}; {FAKE!r} does not say which of them"
        )
    file = file_of(out)
    done = {row["key"] for row in read_journal(file)}
    todo = [
        (condition, sample)
        for sample in samples
        for condition in (given.AS_FOUND, *(f"{given.CHAIN}-{i + 1}" for i in range(chains)))
        if f"{condition}/{sample.name}" not in done
    ]
    if not todo:
        return
    assistant = load()
    weights = assistant.model.weights_sha256
    if any(row["weights_sha256"] != weights for row in read_journal(file)):
        raise SettingsError(f"{file} holds what other weights said; remove it, or choose another --out")
    for count, (condition, sample) in enumerate(todo, start=1):
        try:
            report = _examine(assistant, condition, sample, seed)
        except InputError as error:
            yield f"left out {error}"
            continue
        append(file, [_row(report, condition, sample, weights)])
        if count % 20 == 0 or count == len(todo):
            yield f"{count} of {len(todo)} observed"


def _examine(assistant: Assistant, condition: str, sample: Sample, seed: int) -> Report:
    if condition == given.AS_FOUND:
        return assistant.examine(sample.path, for_text=False)
    pixels = open_case(sample.path, settings=assistant.settings).upright
    data = given.prepare(condition, pixels, given.rng_of(sample.name, condition, seed))
    return assistant.examine(data, file=sample.name, for_text=False)


def _row(report: Report, condition: str, sample: Sample, weights: str) -> dict[str, Any]:
    patches = report.look.patches if report.look is not None else {}
    return {
        "key": f"{condition}/{sample.name}",
        "label": sample.label,
        "group": sample.family,
        "weights_sha256": weights,
        "readings": {item.source: [item.score, list(item.vector), item.code] for item in report.evidence},
        "features": [round(float(value), 5) for value in gate_features(patches)] if patches else [],
    }


def observations(out: Path) -> list[Observed]:
    """Read what :func:`observe` wrote."""
    return [
        Observed(
            Example(
                row["label"],
                row["group"],
                {
                    name: Reading(score, tuple(vector), code)
                    for name, (score, vector, code) in row["readings"].items()
                },
            ),
            tuple(row["features"]),
        )
        for row in read_journal(file_of(out))
    ]


def base(settings: Settings) -> Calibration:
    """The calibration that thresholds are refitted for: that of the settings, else the shipped one."""
    return Calibration.load(settings.calibration)


def fit(
    observed: Sequence[Observed], shipped: Calibration, *, only_thresholds: bool = False, seed: int = 0
) -> Calibration:
    """A calibration for pictures like these.

    Args:
        observed: all three labels.
        shipped: what is kept of it: with ``only_thresholds`` ratios and weights, else nothing but the gate where there
            are too few pictures for one of their own.
        only_thresholds: see the module.
        seed: of dealing families to folds.

    Raises:
        SettingsError: a label without pictures.
    """
    counts = Counter(item.example.label for item in observed)
    missing = [label for label in LABELS if not counts[label]]
    if missing:
        raise SettingsError(
            f"calibration needs pictures of every label; there are none that are {', '.join(missing)}"
        )
    if only_thresholds:
        return _thresholds(observed, shipped)
    examples = _grouped([item.example for item in observed])
    names = {name for example in examples for name in example.readings}
    features = np.array([item.features for item in observed if item.features])
    return fit_calibration(
        examples,
        seed=seed,
        levels=LEVELS,
        fixed_tables=declared_tables(),
        tasks={name: task for name, task in TASKS.items() if name in names},
        unweighed=NUMEROUS,
        distance=DistanceGate.fit(features) if len(features) >= ENOUGH_FOR_GATE else shipped.distance,
        notes={"command": "vlmforensics eval calibrate"},
    )


def _grouped(examples: Sequence[Example]) -> list[Example]:
    """Where all pictures of every label are of one family, each picture is a family of its own.

    Folds could not be formed otherwise. The figures then say nothing about pictures of other sources.
    """
    families = {label: {e.group for e in examples if e.label == label} for label in LABELS}
    if any(len(own) > 1 for own in families.values()):
        return list(examples)
    return [replace(example, group=f"{example.group}/{place}") for place, example in enumerate(examples)]


def _thresholds(observed: Sequence[Observed], shipped: Calibration) -> Calibration:
    scores: dict[str, list[float]] = {label: [] for label in LABELS}
    groups: dict[str, set[str]] = {label: set() for label in LABELS}
    for item in observed:
        evidence = [
            Evidence(name, f"Stored reading of {name}.", r.score, r.vector, r.code)
            for name, r in item.example.readings.items()
        ]
        _, verdict = judge(evidence, shipped)
        logs = np.log([max(verdict.probabilities[label], 1e-300) for label in LABELS])
        place = LABELS.index(item.example.label)
        scores[item.example.label].append(float(nonconformity(logs)[place]))
        groups[item.example.label].add(item.example.group)
    counts = {label: len(own) for label, own in scores.items()}
    return Calibration.from_json(
        replace(
            shipped,
            conformal=MappingProxyType(
                {label: LabelScores.of(np.array(scores[label]), len(groups[label])) for label in LABELS}
            ),
            quality=MappingProxyType({}),
            origin=MappingProxyType(
                {
                    "command": "vlmforensics eval calibrate --only-thresholds",
                    "examples": counts,
                    "conformal": "disjoint split",
                    "ratios_of": shipped.sha256,
                }
            ),
        ).to_json()
    )


def summary(calibration: Calibration, alpha: float) -> list[str]:
    """What the user should know of a calibration: what it is fitted on, what it promises, which sources count."""
    lines = [f"fitted on {dict(calibration.origin['examples'])}", calibration.guarantee(alpha).sentence]
    if "ece" in calibration.quality:
        quality = calibration.quality
        ece, cllr = quality["ece"], quality["cllr"]
        lines.append(
            f"out of fold: expected calibration error {ece:.3f}, Cllr of real {cllr:.3f} (1 = says nothing)"
        )
    counting = [name for name, source in calibration.sources.items() if (source.weight > 0).any()]
    return [*lines, f"sources that count: {', '.join(counting) or 'none'}"]
