"""Which way an evidence pulls, how hard, and where it lies: read from its contribution, never from its text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmforensics.types import LABELS, Box, Evidence, Label, Report

EPS = 0.03
"""Log-odds below which an evidence says nothing in this report."""


@dataclass(frozen=True)
class Direction:
    """The label with the largest absolute contribution: ``sign`` +1 speaks for it, -1 against it."""

    sign: int
    label: Label


def size(evidence: Evidence) -> float:
    """Largest absolute contribution, log-odds."""
    return max((abs(value) for value in evidence.contribution.values()), default=0.0)


def direction(evidence: Evidence) -> Direction | None:
    """Which way it pulls, or None where it says nothing; agrees with the direction named in its ``strength``."""
    if size(evidence) < EPS:
        return None
    label = max(LABELS, key=lambda name: abs(evidence.contribution[name]))
    return Direction(1 if evidence.contribution[label] > 0 else -1, label)


def speaks_for(evidence: Evidence) -> Label | None:
    """The label to which it adds most, or None where it says nothing."""
    if size(evidence) < EPS:
        return None
    return max(LABELS, key=lambda name: evidence.contribution[name])


def supports(evidence: Evidence, label: Label) -> bool:
    """True where it speaks for this label, or against another one in a way that favours this label."""
    found = direction(evidence)
    if found is None or evidence.contribution[label] <= 0:
        return False
    return found.label == label or found.sign < 0


@dataclass(frozen=True)
class Balance:
    """The report's evidence sorted by what it does to one label, each part heaviest first.

    Attributes:
        label: the verdict, or the most probable label where it is inconclusive.
        pros: evidence that favours the label.
        cons: evidence that favours another label or speaks against this one.
        neutral: calibrated evidence that says next to nothing.
        unweighed: evidence that is not calibrated, or outside its calibration.
    """

    label: Label
    pros: tuple[Evidence, ...]
    cons: tuple[Evidence, ...]
    neutral: tuple[Evidence, ...]
    unweighed: tuple[Evidence, ...]


UNWEIGHED = ("not calibrated", "outside calibration")


def balance(report: Report) -> Balance:
    """Sort a report's evidence."""
    verdict = report.verdict
    label: Label = verdict.leading if verdict.label == "inconclusive" else verdict.label
    ordered = sorted(report.evidence, key=lambda item: -size(item))
    speaking = [item for item in ordered if direction(item) is not None]
    silent = [item for item in ordered if direction(item) is None]
    return Balance(
        label,
        tuple(item for item in speaking if supports(item, label)),
        tuple(item for item in speaking if not supports(item, label)),
        tuple(item for item in silent if item.strength not in UNWEIGHED),
        tuple(item for item in silent if item.strength in UNWEIGHED),
    )


def without(report: Report, dropped: Sequence[Evidence]) -> Mapping[str, float]:
    """The probabilities that remain if these evidences are left out: exact, because fusion adds."""
    log_odds = {
        label: math.log(max(report.verdict.probabilities[label], 1e-300))
        - sum(item.contribution[label] for item in dropped)
        for label in LABELS
    }
    top = max(log_odds.values())
    weights = {label: math.exp(value - top) for label, value in log_odds.items()}
    return {label: weight / sum(weights.values()) for label, weight in weights.items()}


def percent(probability: float) -> str:
    """A probability for a reader: ``87 %``, ``less than 1 %``, ``more than 99 %``."""
    if probability < 0.01:
        return "less than 1 %"
    if probability > 0.99:
        return "more than 99 %"
    return f"{100 * probability:.0f} %"


def where(box: Box, width: int, height: int) -> str:
    """A box in words, by thirds of the picture: ``the upper left``, ``the centre``, ``nearly the whole picture``."""
    if (box.x1 - box.x0) > 0.8 * width and (box.y1 - box.y0) > 0.8 * height:
        return "nearly the whole picture"
    across = _third((box.x0 + box.x1) / 2, width)
    down = _third((box.y0 + box.y1) / 2, height)
    return "the " + PLACES[down][across]


PLACES = (
    ("upper left", "upper middle", "upper right"),
    ("left side", "centre", "right side"),
    ("lower left", "lower middle", "lower right"),
)


def _third(position: float, length: int) -> int:
    return min(2, int(3 * position / length))


def place_of(evidence: Evidence, report: Report) -> str | None:
    """Where an evidence lies, in words, or None."""
    if evidence.region is None:
        return None
    return where(evidence.region.box, report.case.width, report.case.height)
