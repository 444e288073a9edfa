"""A question about a region: the crop is examined by itself at its own resolution, and what was found there is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from vlmforensics import imaging
from vlmforensics.errors import InputError
from vlmforensics.explain import balance
from vlmforensics.report.text import percent
from vlmforensics.types import LABELS, Box, Grey, Mask, Report
from vlmforensics.ui import views
from vlmforensics.ui.language import ENGLISH, Words
from vlmforensics.ui.words import LABEL_NAMES, TITLES, source_name

LEAST = 32
"""Pixels of a side below which a region has nothing to measure."""


def region_box(numbers: Sequence[float], width: int, height: int) -> Box:
    """The box of four numbers from a browser, cut to the picture.

    Raises:
        InputError: not a box inside the picture, or smaller than ``LEAST`` on a side.
    """
    try:
        x0, y0, x1, y1 = (round(float(number)) for number in numbers)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("a region has four corners in pixels; draw a box on the picture") from error
    x0, y0, x1, y1 = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
    if x1 - x0 < LEAST or y1 - y0 < LEAST:
        raise InputError(
            f"that region is smaller than {LEAST} × {LEAST} pixels, too little to measure; draw a larger box"
        )
    return Box(x0, y0, x1, y1)


def crop(report: Report, box: Box) -> tuple[bytes, str]:
    """The region's pixels as a file (PNG, exact) and its name."""
    pixels = report.case.upright[box.y0 : box.y1, box.x0 : box.x1]
    return imaging.to_png(np.ascontiguousarray(pixels)), f"{report.file}, {views.place(box)}"


def answer(
    report: Report, examined: Report, box: Box, marked: Mask | None, t: Words = ENGLISH
) -> Iterator[tuple[str, bool]]:
    """What holds in a region.

    Args:
        report: of the whole picture.
        examined: of the crop alone.
        box: upright pixels of the whole picture.
        marked: what the mask head marks when prompted with the region.
        t: language.

    Yields:
        (paragraph, True where its citations are the crop's, False where they are the whole picture's).
    """
    verdict = examined.verdict
    yield (
        t(
            "{place} ({width} × {height} pixels), examined by itself at its own resolution: {title} ({chances}).",
            place=views.place(box),
            width=box.x1 - box.x0,
            height=box.y1 - box.y0,
            title=t(TITLES[verdict.label]),
            chances="; ".join(
                f"{t(LABEL_NAMES[label])} {percent(verdict.probabilities[label])}" for label in LABELS
            ),
        ),
        True,
    )
    if verdict.abstention:
        yield verdict.abstention, True
    weighed = balance(examined)
    told = sorted((*weighed.pros, *weighed.cons), key=lambda item: int(item.id[1:]))[:2]
    if told:
        yield t("What weighs most there:") + " " + " ".join(f"{i.statement} [{i.id}]" for i in told), True
    yield from ((text, False) for text in overlaps(report, box, t))
    if marked is not None:
        inside = float(marked.binary[box.y0 : box.y1, box.x0 : box.x1].mean())
        yield (
            t(
                "Prompted with this region, the mask head marks {inside} of it and {whole} of the picture.",
                inside=views.share(inside),
                whole=views.share(marked.area_fraction),
            )
            if marked.binary.any()
            else t("Prompted with this region, the mask head marks nothing."),
            False,
        )
    yield (
        t(
            "A crop lacks its surroundings and the file's history, so this is a second look and does not change the "
            "verdict on the picture."
        ),
        False,
    )


def overlaps(report: Report, box: Box, t: Words = ENGLISH) -> list[str]:
    """What the examination of the whole picture found inside a region."""
    said = []
    if report.mask is not None and report.mask.binary.any():
        inside = float(report.mask.binary[box.y0 : box.y1, box.x0 : box.x1].mean())
        said.append(t("The suspect region covers {share} of it.", share=views.share(inside)))
    for item in report.evidence:
        name = source_name(item.source, t)
        if item.heatmap is not None:
            there, all_ = _heat(item.heatmap, box, report), float(np.nanmean(item.heatmap))
            if all_ > 1e-6:
                said.append(
                    t(
                        "{name} responds there {times} times as strongly as on the whole picture [{id}].",
                        name=name,
                        times=f"{there / all_:.1f}",
                        id=item.id,
                    )
                )
        elif item.region is not None:
            common = _common(item.region.box, box)
            if common > 0:
                said.append(
                    t("{name} covers {share} of it [{id}].", name=name, share=views.share(common), id=item.id)
                )
    return said or [t("No finding on the whole picture has a place inside it.")]


def _heat(heatmap: Grey, box: Box, report: Report) -> float:
    rows, columns = heatmap.shape
    down, across = rows / report.case.height, columns / report.case.width
    y0, x0 = int(box.y0 * down), int(box.x0 * across)
    part = heatmap[y0 : max(y0 + 1, round(box.y1 * down)), x0 : max(x0 + 1, round(box.x1 * across))]
    return float(np.nanmean(part))


def _common(found: Box, box: Box) -> float:
    """Share of ``box`` that ``found`` covers."""
    width = min(found.x1, box.x1) - max(found.x0, box.x0)
    height = min(found.y1, box.y1) - max(found.y0, box.y0)
    return max(0, width) * max(0, height) / ((box.x1 - box.x0) * (box.y1 - box.y0))
