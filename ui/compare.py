"""Two pictures beside each other: which of them was edited, and where do they differ?"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from vlmforensics import imaging
from vlmforensics.report.text import percent
from vlmforensics.types import BoolMask, Box, Mask, Report
from vlmforensics.ui.language import ENGLISH, Words
from vlmforensics.ui.words import LABEL_NAMES, TITLES, source_name

_ASKS = re.compile(
    r"\b(compare|comparison|which (?:one|picture|image|photo|of)|which (?:was|is|has been) "
    r"(?:edited|real|fake|altered|changed|the original)|differ(?:s|ence|ences|ent)?|both pictures"
    r"|vergleich\w*|welche[srn]?|unterschied\w*)\b",
    re.IGNORECASE,
)
QUESTION = "Which of the two was edited?"
_SIDE = 512
_CLEAR = 0.1
"""Difference of probabilities from which one picture is named."""
_VISIBLE = 24
"""Levels of 255 by which a block's mean must differ to count as changed: well above what recompression does."""


def asks(question: str) -> bool:
    """True where a question sets two pictures beside each other."""
    return _ASKS.search(question) is not None


def comparison(first: Report, second: Report, t: Words = ENGLISH) -> Iterator[tuple[str, int]]:
    """Yield (paragraph, 0 or 1: whose evidence it cites)."""
    pair = (first, second)
    for number, report in enumerate(pair):
        verdict = report.verdict
        yield (
            t(
                "{letter}, {file}: {title}; tampered with {tampered}, wholly synthetic {synthetic}.",
                letter="AB"[number],
                file=report.file,
                title=t(TITLES[verdict.label]),
                tampered=percent(verdict.probabilities["tampered"]),
                synthetic=percent(verdict.probabilities["synthetic"]),
            ),
            number,
        )
    if first.case.sha256 == second.case.sha256:
        yield t("Both are the same file, byte for byte."), 0
        return
    found = difference(first, second)
    if found is not None:
        mask, box = found
        share = 100 * float(mask.mean())
        yield (
            (
                t("They show the same, and differ visibly nowhere.")
                if box is None
                else t(
                    "They show the same scene and differ in {share} % of it, within x {x0}–{x1}, y {y0}–{y1} of A; the "
                    "place is marked on both.",
                    share=f"{share:.1f}",
                    x0=box.x0,
                    x1=box.x1,
                    y0=box.y0,
                    y1=box.y1,
                )
            ),
            0,
        )
    else:
        yield t("They do not show the same scene in the same frame, so only the evidence is compared."), 0
    yield from _contrasts(first, second, t)
    yield _which(first, second, t), 0


def difference(first: Report, second: Report) -> tuple[BoolMask, Box | None] | None:
    """Where two pictures of one scene differ.

    Returns:
        The changed part as bool (h, w), reduced to ``_SIDE`` at most, and its bounding box in pixels of the first
        picture (None where nothing changed); or None altogether where the frames or scenes are not the same.
    """
    a, b = first.case, second.case
    if abs(a.width / a.height - b.width / b.height) > 0.01 * a.width / a.height:
        return None
    scale = min(1.0, _SIDE / max(a.width, a.height))
    width, height = max(8, round(a.width * scale)), max(8, round(a.height * scale))
    planes = [
        ndimage.uniform_filter(
            imaging.resize(case.upright, width, height, resample="box").astype(np.float32).mean(axis=2), 5
        )
        for case in (a, b)
    ]
    x, y = (plane - plane.mean() for plane in planes)
    size = float(np.sqrt((x * x).sum() * (y * y).sum()))
    if size > 0 and float((x * y).sum()) / size < 0.6:
        return None
    # the median is the difference of exposure that a whole-picture edit leaves
    apart = planes[0] - planes[1]
    mask = ndimage.binary_opening(np.abs(apart - np.median(apart)) > _VISIBLE, iterations=1)
    if not mask.any():
        return mask, None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    across, down = a.width / width, a.height / height
    box = Box(
        int(columns[0] * across),
        int(rows[0] * down),
        max(int(columns[0] * across) + 1, min(a.width, round((columns[-1] + 1) * across))),
        max(int(rows[0] * down) + 1, min(a.height, round((rows[-1] + 1) * down))),
    )
    return mask, box


def whole(report: Report) -> Box:
    """The frame of a picture."""
    return Box(0, 0, report.case.width, report.case.height)


def mark(mask: BoolMask, report: Report) -> Mask:
    """A difference as a mask of one of the two pictures, for its viewer."""
    fitted = imaging.resize_plane(mask.astype(np.float32), report.case.width, report.case.height)
    return Mask(fitted, fitted > 0.5, (), (), 0.5)


def _contrasts(first: Report, second: Report, t: Words) -> Iterator[tuple[str, int]]:
    """The sources that set the two apart most, each with what it says of the picture that looks more edited."""
    by_source = [{item.source: item for item in report.evidence} for report in (first, second)]
    gaps = []
    for source in set(by_source[0]) | set(by_source[1]):
        weights = [found[source].contribution["tampered"] if source in found else 0.0 for found in by_source]
        number = int(weights[1] > weights[0])
        if source in by_source[number]:
            gaps.append((abs(weights[0] - weights[1]), source, number))
    for gap, source, number in sorted(gaps, reverse=True)[:2]:
        if gap >= 0.1:
            item = by_source[number][source]
            yield (
                t(
                    "{name} sets {letter} apart, by {gap} in log-odds: {statement} [{id}]",
                    name=source_name(source, t),
                    letter="AB"[number],
                    gap=f"{gap:.2f}",
                    statement=item.statement,
                    id=item.id,
                ),
                number,
            )


def _which(first: Report, second: Report, t: Words) -> str:
    chances = [1 - report.probabilities["real"] for report in (first, second)]
    if abs(chances[0] - chances[1]) < _CLEAR:
        return t(
            "The evidence does not say which of them was changed: it weighs {a} against {b} for a manipulation.",
            a=percent(chances[0]),
            b=percent(chances[1]),
        )
    number = int(chances[1] > chances[0])
    report = (first, second)[number]
    kind = max(("synthetic", "tampered"), key=lambda label: report.probabilities[label])
    hedge = (
        " " + t("Neither verdict is decided, so take it as a lean.")
        if all(r.verdict.abstained for r in (first, second))
        else ""
    )
    return (
        t(
            "By the evidence {letter} is likelier to be {kind}: {a} against {b} for a manipulation.",
            letter="AB"[number],
            kind=t(LABEL_NAMES[kind]),
            a=percent(chances[number]),
            b=percent(chances[1 - number]),
        )
        + hedge
    )
