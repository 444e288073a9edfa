"""Pictures of a report: small copies for the page, with regions and maps drawn in, as ``data:`` addresses."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmforensics import imaging
from vlmforensics.report.text import printable
from vlmforensics.types import Box, CaseImage, Evidence, Mask, Pixels, Region, Report

MAIN_SIDE = 880
SMALL_SIDE = 300


@dataclass(frozen=True)
class Figure:
    """One picture of the page: ``src`` is a ``data:`` address, sizes in pixels, ``id`` the evidence shown."""

    src: str
    width: int
    height: int
    alt: str
    caption: str
    id: str = ""


@dataclass(frozen=True)
class Figures:
    """All pictures of a page: the large ones, and a small overlay for each finding with map or region."""

    main: tuple[Figure, ...] = ()
    small: tuple[Figure, ...] = ()


def report_figures(report: Report) -> Figures:
    """Pictures of a report whose pixels and maps are still at hand."""
    return _figures(report.case.upright, report.evidence, report.mask, with_map=True)


def record_figures(record: Mapping[str, Any], case: CaseImage) -> Figures:
    """Pictures of a stored record, drawn on its picture again: boxes and mask, for maps are not stored."""
    evidence = [
        Evidence(
            source=item["source"],
            statement=item["statement"],
            id=item["id"],
            region=Region(Box(*item["region"]["box"])),
        )
        for item in record["evidence"] or ()
        if item["region"] is not None
    ]
    stored, mask = record["mask"], None
    if stored is not None:
        binary = imaging.rle_decode(stored)
        mask = Mask(
            soft=binary.astype(np.float32),
            binary=binary,
            boxes=tuple(Box(*sides) for sides in stored.get("boxes", ())),
            confidences=tuple(stored.get("confidences", ())),
            threshold=float(stored.get("threshold", 0.5)),
        )
    return _figures(case.upright, evidence, mask, with_map=False)


def _figures(pixels: Pixels, evidence: Sequence[Evidence], mask: Mask | None, *, with_map: bool) -> Figures:
    if mask is not None and not mask.binary.any():
        mask = None
    return Figures(tuple(_main(pixels, evidence, mask, with_map=with_map)), tuple(_small(pixels, evidence)))


def _main(pixels: Pixels, evidence: Sequence[Evidence], mask: Mask | None, *, with_map: bool) -> list[Figure]:
    """The picture as received, with suspect regions drawn in, and the raw map of the mask head."""
    small = _shrink(pixels, MAIN_SIDE)
    scale = f"Shown at {small.shape[1]} × {small.shape[0]} of {pixels.shape[1]} × {pixels.shape[0]} pixels."
    figures = [_figure(small, "The picture as examined, unmarked.", f"As examined, upright. {scale}")]
    boxes, labels = _marked(evidence, mask)
    if mask is None and not boxes:
        return figures
    drawn = imaging.overlay(
        small,
        mask=None if mask is None else _shrink_mask(mask.binary, small.shape[:2]),
        boxes=[_scaled(box, pixels.shape, small.shape) for box in boxes],
        labels=labels,
    )
    if mask is None:
        caption = "Boxes mark where single sources found something; the mask head drew no region."
        return [*figures, _figure(drawn, "The picture with boxes where sources found something.", caption)]
    caption = (
        f"Tinted: suspected by the mask head above the threshold {mask.threshold:.2f}"
        f"{' or named by a signal' if mask.joined else ''}, {100 * mask.area_fraction:.1f}\u00a0% of the picture. "
        "Boxes carry the number of their finding."
    )
    figures.append(_figure(drawn, "The picture with the suspected region tinted and boxed.", caption))
    if with_map:
        raw = imaging.colour_map(mask.soft, small.shape[1], small.shape[0])
        caption = "The mask head's map before the threshold: from dark (0) to bright (1), per pixel."
        if mask.joined:
            caption += " Where a signal names a place, it is raised to the threshold."
        figures.append(_figure(raw, "Map of suspicion per pixel, bright where suspected.", caption))
    return figures


def _small(pixels: Pixels, evidence: Sequence[Evidence]) -> list[Figure]:
    small = _shrink(pixels, SMALL_SIDE)
    return [
        _figure(
            _drawn(item, small, pixels.shape),
            f"Where {printable(item.source, 60)} found its evidence {item.id}.",
            _caption(item),
            item.id,
        )
        for item in evidence
        if item.heatmap is not None or item.region is not None
    ]


def _drawn(item: Evidence, small: Pixels, full: tuple[int, ...]) -> Pixels:
    region = item.region
    mask = None if region is None or region.mask is None else _shrink_mask(region.mask, small.shape[:2])
    return imaging.overlay(
        small,
        mask=mask,
        heatmap=item.heatmap,
        boxes=[] if region is None else [_scaled(region.box, full, small.shape)],
        labels=[] if region is None else [item.id],
    )


def _caption(item: Evidence) -> str:
    shown = [
        name for name, has in (("map", item.heatmap is not None), ("region", item.region is not None)) if has
    ]
    return f"{printable(item.source, 60)}: {' and '.join(shown)}."


def _marked(evidence: Sequence[Evidence], mask: Mask | None) -> tuple[list[Box], list[str]]:
    """Boxes to draw on the main picture: the findings' own, and the mask's where no finding carries them."""
    boxes = [item.region.box for item in evidence if item.region is not None]
    labels = [item.id for item in evidence if item.region is not None]
    if mask is not None and not any(item.source == "mask" and item.region is not None for item in evidence):
        boxes += mask.boxes
        labels += [f"region {number}" for number in range(1, len(mask.boxes) + 1)]
    return boxes, labels


def _shrink(pixels: Pixels, side: int) -> Pixels:
    return imaging.thumbnail(pixels, side) if max(pixels.shape[:2]) > side else pixels


def _shrink_mask(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Nearest neighbour, so that the tint covers what the mask covers."""
    height, width = shape
    rows = (np.arange(height) * mask.shape[0] // height).clip(0, mask.shape[0] - 1)
    columns = (np.arange(width) * mask.shape[1] // width).clip(0, mask.shape[1] - 1)
    small: NDArray[np.bool_] = mask[rows[:, None], columns[None, :]]
    return small


def _scaled(box: Box, full: tuple[int, ...], small: tuple[int, ...]) -> Box:
    across, down = small[1] / full[1], small[0] / full[0]
    x0, y0 = min(int(box.x0 * across), small[1] - 1), min(int(box.y0 * down), small[0] - 1)
    return Box(x0, y0, max(x0 + 1, round(box.x1 * across)), max(y0 + 1, round(box.y1 * down)))


def _figure(pixels: Pixels, alt: str, caption: str, evidence_id: str = "") -> Figure:
    src = "data:image/png;base64," + base64.b64encode(imaging.to_png(pixels)).decode("ascii")
    return Figure(src, int(pixels.shape[1]), int(pixels.shape[0]), alt, caption, evidence_id)
