"""What is drawn on the picture: the suspect region, where each finding lies, what the visitor asked about."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from vlmforensics import imaging
from vlmforensics.types import BoolMask, Box, Evidence, Mask, Pixels, Report
from vlmforensics.ui.language import ENGLISH, Words
from vlmforensics.ui.words import source_name

REGION = "region"
SIDE = 1280
"""Longest side of the picture as it is sent whole, in pixels; more is fetched piece by piece when zoomed into."""
MOST_CROP = 4_000_000
"""Pixels of one piece."""


@dataclass(frozen=True, eq=False)
class Layer:
    """Something that can be laid over the picture.

    Attributes:
        key: ``region``, an evidence id, or ``R1``, ``R2`` … for what the visitor asked about.
        name: on the switch.
        caption: what the marks mean; part of the alternative text.
    """

    key: str
    name: str
    caption: str


@dataclass(frozen=True, eq=False)
class Asked:
    """A region that the visitor asked about.

    Attributes:
        box: upright pixels.
        mask: what the mask head marks when prompted with it, or what differs from another picture; or None.
        name: other than "Your region", or empty.
    """

    box: Box
    mask: Mask | None = None
    name: str = ""


def layers(report: Report, asked: Sequence[Asked] = (), t: Words = ENGLISH) -> list[Layer]:
    """Everything that can be drawn, best first."""
    out = []
    mask = report.mask
    if mask is not None and mask.binary.any():
        count = len(mask.boxes)
        regions = t("one region") if count == 1 else t("{count} regions", count=count)
        caption = t(
            "Suspect: {regions}, together {share} of the picture, outlined and tinted.",
            regions=regions,
            share=share(mask.area_fraction),
        )
        out.append(Layer(REGION, t("Suspect region"), caption))
    for item in report.evidence:
        if drawable(item):
            name = source_name(item.source, t)
            out.append(Layer(item.id, f"{item.id} {name}", f"{item.id}, {name}: {item.statement}"))
    for number, region in enumerate(asked, 1):
        name = region.name or t("Your region {number}", number=number)
        out.append(Layer(f"R{number}", name, f"{name}: {place(region.box)}."))
    return out


def drawable(item: Evidence) -> bool:
    """True where a finding has a place."""
    return item.region is not None or item.heatmap is not None


def first_choice(report: Report) -> tuple[str, ...]:
    """What to draw first: the region where the verdict rests on one, else the picture as it is."""
    found = layers(report)
    return (found[0].key,) if found and report.verdict.leading == "tampered" else ()


def whole(report: Report) -> tuple[bytes, str]:
    """The picture at ``SIDE`` at most, as (bytes, media type); exact to the pixel where it is not reduced."""
    pixels = report.case.upright
    width, height = shown_size(report)
    if width == report.case.width:
        return imaging.to_png(pixels), "image/png"
    reduced = imaging.resize(pixels, width, height, resample="box")
    return imaging.encode(reduced, "JPEG", quality=92, subsampling="4:4:4"), "image/jpeg"


def piece(report: Report, box: Box) -> bytes:
    """A part of the picture at its own resolution, exact to the pixel (PNG); cut to ``MOST_CROP``."""
    x1, y1 = min(box.x1, report.case.width), min(box.y1, report.case.height)
    y1 = min(y1, box.y0 + max(1, MOST_CROP // max(1, x1 - box.x0)))
    return imaging.to_png(report.case.upright[box.y0 : y1, box.x0 : x1])


def marks(report: Report, keys: Collection[str], asked: Sequence[Asked] = ()) -> bytes:
    """The chosen ``layers`` together, transparent elsewhere (PNG); unknown keys draw nothing."""
    width, height = shown_size(report)
    scale = width / report.case.width
    drawn = np.zeros((height, width, 4), np.uint8)
    if REGION in keys and report.mask is not None:
        boxes = [_scaled(box, scale, width, height) for box in report.mask.boxes[:9]]
        sure = zip("ABCDEFGHI", report.mask.confidences, strict=False)
        names = [f"{letter} {100 * value:.0f} %" for letter, value in sure]
        mask = _fitted(report.mask.binary, width, height)
        drawn = _over(drawn, imaging.overlay_layer(width, height, mask=mask, boxes=boxes, labels=names))
    for item in report.evidence:
        if item.id in keys and drawable(item):
            drawn = _over(drawn, _item(item, scale, width, height))
    for number, region in enumerate(asked, 1):
        if f"R{number}" in keys:
            found = region.mask
            seen = _fitted(found.binary, width, height) if found is not None else None
            boxes = [_scaled(region.box, scale, width, height)]
            layer = imaging.overlay_layer(width, height, mask=seen, boxes=boxes, labels=[f"R{number}"])
            drawn = _over(drawn, layer)
    return imaging.to_png(drawn)


def shown_size(report: Report) -> tuple[int, int]:
    """Width and height of ``whole`` and ``marks``."""
    scale = min(1.0, SIDE / max(report.case.width, report.case.height))
    return max(1, round(report.case.width * scale)), max(1, round(report.case.height * scale))


def thumbnail(report: Report, side: int = 320) -> Pixels:
    """A small picture for the conversation."""
    return imaging.thumbnail(report.case.upright, side)


def place(box: Box) -> str:
    """``x 10–200, y 20–300``."""
    return f"x {box.x0}–{box.x1}, y {box.y0}–{box.y1}"


def share(fraction: float) -> str:
    """``12.5 %``; never a false zero."""
    return "< 0.1 %" if fraction < 0.001 else f"{100 * fraction:.1f} %"


def _item(item: Evidence, scale: float, width: int, height: int) -> Pixels:
    region = item.region
    boxes = [] if region is None else [_scaled(region.box, scale, width, height)]
    mask = None
    if region is not None and region.mask is not None:
        mask = _fitted(region.mask, width, height)
    return imaging.overlay_layer(
        width, height, mask=mask, heatmap=item.heatmap, boxes=boxes, labels=[item.id] * len(boxes)
    )


def _over(below: Pixels, above: Pixels) -> Pixels:
    """Porter and Duff's *over* of two RGBA layers, not premultiplied."""
    if not below.any():
        return above
    top, under = above[..., 3:] / np.float32(255), below[..., 3:] / np.float32(255)
    alpha = top + under * (1 - top)
    colour = (above[..., :3] * top + below[..., :3] * under * (1 - top)) / np.maximum(alpha, 1e-6)
    out: Pixels = np.rint(np.dstack([colour, alpha * 255])).astype(np.uint8)
    return out


def _fitted(mask: BoolMask, width: int, height: int) -> BoolMask:
    fitted: BoolMask = imaging.resize_plane(mask.astype("float32"), width, height) > 0.5
    return fitted


def _scaled(box: Box, scale: float, width: int, height: int) -> Box:
    x0, y0 = min(int(box.x0 * scale), width - 1), min(int(box.y0 * scale), height - 1)
    x1, y1 = min(round(box.x1 * scale), width), min(round(box.y1 * scale), height)
    return Box(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))
