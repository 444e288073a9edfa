"""What is drawn on the picture: the suspect region, or where one finding lies."""

from __future__ import annotations

from dataclasses import dataclass

from vlmforensics import imaging
from vlmforensics.types import Box, Evidence, Pixels, Report
from vlmforensics.ui.words import source_name

PLAIN = "plain"
REGION = "region"
SIDE = 1280
"""Longest side of what is sent to the page, in pixels."""


@dataclass(frozen=True, eq=False)
class View:
    """A drawn picture.

    Attributes:
        plain: uint8 (h, w, 3), the upright picture, reduced to ``SIDE`` where larger.
        drawn: the same with marks.
        caption: what the marks mean, plain text; also the alternative text.
    """

    plain: Pixels
    drawn: Pixels
    caption: str


def choices(report: Report) -> list[tuple[str, str]]:
    """(name, key) of everything that can be drawn, best first; always ends with the plain picture."""
    out = []
    if report.mask is not None and report.mask.binary.any():
        out.append(("Suspect region", REGION))
    out += [(f"{item.id} {source_name(item.source)}", item.id) for item in report.evidence if drawable(item)]
    return [*out, ("Plain picture", PLAIN)]


def drawable(item: Evidence) -> bool:
    """True where a finding has a place."""
    return item.region is not None or item.heatmap is not None


def first_choice(report: Report) -> str:
    """What to draw first: the region where the verdict rests on one, else the picture as it is."""
    if report.verdict.label == "tampered" or report.verdict.leading == "tampered":
        return choices(report)[0][1]
    return PLAIN


def draw(report: Report, key: str) -> View:
    """Draw one of ``choices(report)``; an unknown key gives the plain picture."""
    plain = _reduced(report.case.upright)
    height, width = plain.shape[:2]
    scale = width / report.case.width
    size = f"{report.case.width} × {report.case.height} pixels"
    if key == REGION and report.mask is not None and report.mask.binary.any():
        mask = report.mask
        soft = imaging.resize_plane(mask.binary.astype("float32"), width, height) > 0.5
        boxes = [_scaled(box, scale, width, height) for box in mask.boxes[:9]]
        names = [
            f"{letter} {100 * sure:.0f} %"
            for letter, sure in zip("ABCDEFGHI", mask.confidences, strict=False)
        ]
        drawn = imaging.overlay(plain, mask=soft, boxes=boxes, labels=names)
        count = len(mask.boxes)
        regions = "one region" if count == 1 else f"{count} regions"
        caption = (
            f"Suspect: {regions}, together {_share(mask.area_fraction)} of the picture, outlined and tinted."
        )
        return View(plain, drawn, f"{caption} {size}.")
    item = next((item for item in report.evidence if item.id == key and drawable(item)), None)
    if item is None:
        return View(plain, plain, f"The picture as received, nothing drawn. {size}.")
    return View(
        plain, _draw_item(plain, item, scale), f"{item.id}, {source_name(item.source)}: {item.statement}"
    )


def _draw_item(plain: Pixels, item: Evidence, scale: float) -> Pixels:
    height, width = plain.shape[:2]
    region = item.region
    boxes = [] if region is None else [_scaled(region.box, scale, width, height)]
    mask = None
    if region is not None and region.mask is not None:
        mask = imaging.resize_plane(region.mask.astype("float32"), width, height) > 0.5
    return imaging.overlay(plain, mask=mask, heatmap=item.heatmap, boxes=boxes, labels=[item.id] * len(boxes))


def thumbnail(report: Report, side: int = 320) -> Pixels:
    """A small picture for the conversation."""
    return imaging.thumbnail(report.case.upright, side)


def _reduced(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return pixels
    return imaging.resize(pixels, max(1, round(width * scale)), max(1, round(height * scale)), resample="box")


def _scaled(box: Box, scale: float, width: int, height: int) -> Box:
    x0, y0 = min(int(box.x0 * scale), width - 1), min(int(box.y0 * scale), height - 1)
    x1, y1 = min(round(box.x1 * scale), width), min(round(box.y1 * scale), height)
    return Box(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))


def _share(fraction: float) -> str:
    return "less than 0.1 %" if fraction < 0.001 else f"{100 * fraction:.1f} %"
