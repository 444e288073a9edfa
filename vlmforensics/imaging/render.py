"""Drawing findings on the picture: masks, heat maps, boxes. Nothing is told by colour alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from vlmforensics.errors import Defect
from vlmforensics.imaging.resample import resize_plane
from vlmforensics.imaging.text import clean
from vlmforensics.types import BoolMask, Box, Grey, Pixels

# Vermilion of the palette of Okabe and Ito (2008): told apart by every common kind of colour vision.
_TINT = np.array([213, 94, 0], np.float32)
_LABEL_CHARACTERS = 60
# 17 stops of "inferno" (Smith and van der Walt 2015, CC0): lightness grows evenly, so it survives grey
# printing.
_INFERNO = np.array(
    [
        (0, 0, 4), (11, 7, 36), (33, 12, 74), (61, 9, 101), (87, 16, 110), (113, 25, 110), (138, 34, 106),
        (163, 44, 97), (188, 55, 84), (210, 70, 68), (228, 90, 49), (241, 115, 29), (249, 142, 9),
        (252, 172, 17), (249, 203, 53), (242, 234, 105), (252, 255, 164),
    ],
    np.float32,
)  # fmt: skip


def _palette() -> NDArray[np.float32]:
    """256 colours: float32 (256, 3), 0..255."""
    stops = np.linspace(0, 255, len(_INFERNO))
    levels = np.arange(256)
    return np.stack([np.interp(levels, stops, _INFERNO[:, c]) for c in range(3)], axis=1).astype(np.float32)


def _stretched(heatmap: Grey, width: int, height: int) -> Grey:
    """Bring a heat map to the frame's size, clipped to [0, 1]; what is not a number counts as 0."""
    plane = np.nan_to_num(np.asarray(heatmap, np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    return np.clip(resize_plane(plane, width, height), 0.0, 1.0)


def colour_map(heatmap: Grey, width: int, height: int) -> Pixels:
    """Colour a heat map from black (0) over red to pale yellow (1), lightness growing evenly.

    Args:
        heatmap: float32 (h, w) in [0, 1].
        width: of the result.
        height: of the result.

    Returns:
        uint8 (height, width, 3).
    """
    levels = np.rint(_stretched(heatmap, width, height) * 255).astype(np.uint8)
    return np.rint(_palette()).astype(np.uint8)[levels]


def overlay(
    pixels: Pixels,
    *,
    mask: BoolMask | None = None,
    heatmap: Grey | None = None,
    boxes: Sequence[Box] = (),
    labels: Sequence[str] = (),
    opacity: float = 0.45,
) -> Pixels:
    """Draw findings on a copy of the picture.

    The mask's tint and its dashed black-and-white contour lie inside the mask: pixels outside it (and
    outside boxes and heat) stay as they were. A heat map is blended in proportion to its own value, so cool
    areas stay visible.

    Args:
        pixels: uint8 (H, W, 3) upright frame.
        mask: bool (H, W), same frame.
        heatmap: float32 (h, w) in [0, 1], stretched over the frame.
        boxes: rectangles in the same frame, clipped to it.
        labels: text for the boxes, same order; may be shorter.
        opacity: of tint and heat, 0..1.

    Returns:
        uint8 (H, W, 3).

    Raises:
        Defect: the mask's size is not the picture's.
    """
    height, width = pixels.shape[:2]
    drawn = pixels.copy()
    if heatmap is not None:
        heat = _stretched(heatmap, width, height)
        weight = (heat * opacity)[..., None]
        hot = _palette()[np.rint(heat * 255).astype(np.uint8)]
        drawn = np.rint(drawn * (1 - weight) + hot * weight).astype(np.uint8)
    if mask is not None:
        if mask.shape != (height, width):
            raise Defect(f"mask {mask.shape} does not fit a picture of {(height, width)}")
        drawn[mask] = np.rint(drawn[mask] * (1 - opacity) + _TINT * opacity).astype(np.uint8)
        _draw_contour(drawn, mask)
    return _draw_boxes(drawn, boxes, labels) if boxes else drawn


def overlay_layer(
    width: int,
    height: int,
    *,
    mask: BoolMask | None = None,
    heatmap: Grey | None = None,
    boxes: Sequence[Box] = (),
    labels: Sequence[str] = (),
    opacity: float = 0.45,
) -> NDArray[np.uint8]:
    """The marks of :func:`overlay` alone, to be laid over the picture by whoever shows it.

    Args:
        width: of the frame.
        height: of the frame.
        mask: as for :func:`overlay`, like the other arguments.
        heatmap: see there.
        boxes: see there.
        labels: see there.
        opacity: see there.

    Returns:
        uint8 (height, width, 4), RGBA, not premultiplied; composed with the picture it gives what ``overlay`` draws, to
        within rounding.
    """
    marks = {"mask": mask, "heatmap": heatmap, "boxes": boxes, "labels": labels, "opacity": opacity}
    black = np.zeros((height, width, 3), np.uint8)
    # Difference matting (Smith & Blinn 1996): what shows of white and of black behind the marks gives their alpha.
    dark = overlay(black, **marks).astype(np.float32)  # type: ignore[arg-type]
    light = overlay(255 - black, **marks).astype(np.float32)  # type: ignore[arg-type]
    alpha = np.clip(1 - (light - dark).mean(axis=2) / 255, 0, 1)
    colour = dark / np.maximum(alpha, 1 / 255)[..., None]
    return np.rint(np.clip(np.dstack([colour, alpha * 255]), 0, 255)).astype(np.uint8)


def line_width(width: int, height: int) -> int:
    """Line width in pixels that stays visible when shown small: 1 for 500 px, 4 for 2,000 px."""
    return max(1, round(max(width, height) / 500))


def _draw_contour(drawn: Pixels, mask: BoolMask) -> None:
    """Draw the mask's inner edge in place: black and white dashes, closed along the picture's border."""
    height, width = mask.shape
    thick = line_width(width, height)
    padded = np.pad(mask, thick).astype(np.uint8)
    inner = Image.fromarray(padded).filter(ImageFilter.MinFilter(2 * thick + 1))
    edge = mask & (np.asarray(inner)[thick:-thick, thick:-thick] == 0)
    rows, columns = np.nonzero(edge)
    dash = ((rows + columns) // (4 * thick)) % 2 == 0
    drawn[rows, columns] = np.where(dash[:, None], np.uint8(255), np.uint8(0))


def _draw_boxes(drawn: Pixels, boxes: Sequence[Box], labels: Sequence[str]) -> Pixels:
    """Draw outlines (white between black, readable on anything) and their labels on dark plates."""
    image = Image.fromarray(drawn)
    pen = ImageDraw.Draw(image)
    width, height = image.size
    thick = line_width(width, height)
    font = ImageFont.load_default(size=max(10, round(max(width, height) / 55)))
    for index, box in enumerate(boxes):
        x0, y0 = min(box.x0, width - 1), min(box.y0, height - 1)
        x1, y1 = min(box.x1, width) - 1, min(box.y1, height) - 1  # Pillow's corners are inclusive
        for inset, colour in ((0, "black"), (thick, "white"), (2 * thick, "black")):
            if x1 - x0 > 2 * inset and y1 - y0 > 2 * inset:
                frame = (x0 + inset, y0 + inset, x1 - inset, y1 - inset)
                pen.rectangle(frame, outline=colour, width=thick)
        if index < len(labels) and labels[index]:
            _draw_label(pen, clean(labels[index], _LABEL_CHARACTERS), (x0, y0), image.size, font)
    return np.array(image)


def _draw_label(
    pen: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[int, int],
    size: tuple[int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Write ``text`` on a black plate above the corner, moved so that it stays inside the picture."""
    text = text.replace("\n", " ")
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    margin = 3
    plate_width, plate_height = right - left + 2 * margin, bottom - top + 2 * margin
    x = max(0, min(corner[0], size[0] - round(plate_width)))
    y = corner[1] - round(plate_height)
    y = y if y >= 0 else min(corner[1], max(0, size[1] - round(plate_height)))
    pen.rectangle((x, y, x + plate_width, y + plate_height), fill="black", outline="white")
    pen.text((x + margin - left, y + margin - top), text, fill="white", font=font)
