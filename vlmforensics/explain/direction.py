"""Which way an evidence pulls, how hard, and where it lies: read from its contribution, never from its text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmforensics.strength import NOT_CALIBRATED, NOTICEABLE, OUT_OF_DOMAIN, heaviest_label
from vlmforensics.types import LABELS, Box, Evidence, Label, Report

EPS = NOTICEABLE
"""Log-odds below which an evidence says nothing in this report."""


@dataclass(frozen=True)
class Direction:
    """A label that an evidence moves: ``sign`` +1 speaks for it, -1 against it."""

    sign: int
    label: Label


def size(evidence: Evidence) -> float:
    """Largest absolute contribution, log-odds."""
    return max((abs(value) for value in evidence.contribution.values()), default=0.0)


def direction(evidence: Evidence) -> Direction | None:
    """The label that it moves most, or None where it says nothing; agrees with the one named in its ``strength``."""
    if size(evidence) < EPS:
        return None
    return _way(evidence, heaviest_label(evidence.contribution))


def _way(evidence: Evidence, label: Label) -> Direction:
    return Direction(1 if evidence.contribution[label] > 0 else -1, label)


def speaks_for(evidence: Evidence) -> Label | None:
    """The label to which it adds most, or None where it says nothing."""
    if size(evidence) < EPS:
        return None
    return max(LABELS, key=lambda name: evidence.contribution[name])


@dataclass(frozen=True)
class Balance:
    """The report's evidence sorted by what leaving it out does to one label, what does most first.

    Attributes:
        label: the verdict, or the most probable label where it is inconclusive.
        pros: evidence without which the label would be less probable.
        cons: evidence without which it would be more probable.
        neutral: calibrated evidence that says next to nothing.
        unweighed: evidence that is not calibrated, or outside its calibration.
    """

    label: Label
    pros: tuple[Evidence, ...]
    cons: tuple[Evidence, ...]
    neutral: tuple[Evidence, ...]
    unweighed: tuple[Evidence, ...]

    @property
    def heaviest(self) -> list[Evidence]:
        """The findings that say anything, for and against, the largest contribution first."""
        return sorted(self.pros + self.cons, key=lambda item: -size(item))

    def direction(self, evidence: Evidence) -> Direction | None:
        """The direction to name where a reader is told on which side an evidence stands.

        A finding against *tampered* may lower *real* all the same, because it raises *synthetic* more: among the
        objections to *real* it is told as one for *synthetic*. Of the directions that fit the side, that of the
        largest absolute contribution; None where the evidence says nothing.
        """
        main, favours = direction(evidence), evidence not in self.cons
        if main is None or _fits(main, self.label) == favours:
            return main
        moved = evidence.contribution
        ways = [_way(evidence, name) for name in LABELS if moved[name]]
        fitting = [way for way in ways if _fits(way, self.label) == favours]
        return max(fitting, key=lambda way: abs(moved[way.label]), default=main)


UNWEIGHED = (NOT_CALIBRATED, OUT_OF_DOMAIN)


def balance(report: Report) -> Balance:
    """Sort a report's evidence."""
    verdict = report.verdict
    label: Label = verdict.leading if verdict.label == "inconclusive" else verdict.label
    ordered = sorted(report.evidence, key=lambda item: -size(item))
    speaking = [item for item in ordered if direction(item) is not None]
    silent = [item for item in ordered if direction(item) is None]
    effects = {item.id: effect(report, item, label) for item in speaking}
    ranked = sorted(speaking, key=lambda item: -abs(effects[item.id]))
    return Balance(
        label,
        tuple(item for item in ranked if _favours(item, label, effects[item.id])),
        tuple(item for item in ranked if not _favours(item, label, effects[item.id])),
        tuple(item for item in silent if item.strength not in UNWEIGHED),
        tuple(item for item in silent if item.strength in UNWEIGHED),
    )


def _fits(found: Direction, label: Label) -> bool:
    """Whether a direction is one in favour of the label."""
    return (found.sign > 0) == (found.label == label)


def effect(report: Report, item: Evidence, label: Label) -> float:
    """By how much leaving an evidence out lowers the log-odds of a label against the rest; negative where it raises."""
    return _against_rest(_left(report, ()), label) - _against_rest(_left(report, (item,)), label)


def _favours(item: Evidence, label: Label, moved: float) -> bool:
    """The sign of its effect; where that hardly matters, whether its main direction suits the label."""
    if abs(moved) >= EPS:
        return moved > 0
    main = direction(item)
    return main is not None and _fits(main, label)


def _left(report: Report, dropped: Sequence[Evidence]) -> dict[Label, float]:
    """The log-odds that remain if these evidences are left out, up to a constant."""
    return {
        label: math.log(max(report.verdict.probabilities[label], 1e-300))
        - sum(item.contribution[label] for item in dropped)
        for label in LABELS
    }


def _against_rest(log_odds: Mapping[Label, float], label: Label) -> float:
    """Log-odds of a label against both others together."""
    a, b = (value for name, value in log_odds.items() if name != label)
    return log_odds[label] - max(a, b) - math.log1p(math.exp(-abs(a - b)))


def without(report: Report, dropped: Sequence[Evidence]) -> Mapping[str, float]:
    """The probabilities that remain if these evidences are left out: exact, because fusion adds."""
    log_odds = _left(report, dropped)
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
        return WHOLE
    across = _third((box.x0 + box.x1) / 2, width)
    down = _third((box.y0 + box.y1) / 2, height)
    return "the " + PLACES[down][across]


WHOLE = "nearly the whole picture"
PLACES = (
    ("upper left", "upper middle", "upper right"),
    ("left side", "centre", "right side"),
    ("lower left", "lower middle", "lower right"),
)


def _third(position: float, length: int) -> int:
    return min(2, int(3 * position / length))


def at(place: str) -> str:
    """A place of :func:`where` with its preposition."""
    return f"{'over' if place == WHOLE else 'on' if place.endswith('side') else 'in'} {place}"


def place_of(evidence: Evidence, report: Report) -> str | None:
    """Where an evidence lies, in words, or None."""
    if evidence.region is None:
        return None
    return where(evidence.region.box, report.case.width, report.case.height)
