"""From maps and a score to evidence: the strongest trace, its box, and the sentences about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vlmforensics.types import BoolMask, Box, Evidence, Grey, Region

SOURCE = "blending"
_LEAST_CELLS = 4
"""Specks smaller than this many map cells (8×8 px) are no trace."""
_OF_PEAK = 0.5
"""A trace extends as far as the map stays above this share of its peak."""


@dataclass(frozen=True, eq=False)
class Trace:
    """One connected part of a boundary map.

    Attributes:
        box: in picture pixels.
        cells: bool, the map's shape.
        peak: highest boundary probability inside, 0..1.
    """

    box: Box
    cells: BoolMask
    peak: float


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Logistic function, stable for any finite input; -inf gives 0."""
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def blank(height: int, width: int) -> Grey:
    """The boundary map of a picture on which none was drawn: zeros at stride 4, float32 (height // 4, width // 4)."""
    return np.zeros((max(1, height // 4), max(1, width // 4)), np.float32)


def strongest(boundary: Grey, width: int, height: int, threshold: float) -> Trace | None:
    """The connected part of the map with the largest sum of probability.

    Args:
        boundary: float32 (h, w) in [0, 1], stretched over the whole picture.
        width: of the picture in px.
        height: of the picture in px.
        threshold: cells at or below it never belong to a trace.

    Returns:
        The trace, or None where nothing exceeds the threshold or only specks do.
    """
    peak = float(boundary.max(initial=0.0))
    if peak <= threshold:
        return None
    labels, count = ndimage.label(boundary > max(threshold, _OF_PEAK * peak), structure=np.ones((3, 3)))
    numbers = np.arange(1, count + 1)
    sizes = ndimage.sum_labels(np.ones_like(boundary), labels, numbers)
    sums = np.where(sizes >= _LEAST_CELLS, ndimage.sum_labels(boundary, labels, numbers), 0)
    if not sums.any():
        return None
    cells = labels == 1 + int(np.argmax(sums))
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    up, across = height / boundary.shape[0], width / boundary.shape[1]
    box = Box(
        int(columns[0] * across),
        int(rows[0] * up),
        min(width, max(int(columns[0] * across) + 1, round((columns[-1] + 1) * across))),
        min(height, max(int(rows[0] * up) + 1, round((rows[-1] + 1) * up))),
    )
    return Trace(box, cells, float(boundary[cells].max()))


def stretched(cells: BoolMask, width: int, height: int) -> BoolMask:
    """A map's cells as picture pixels: nearest cell, bool (height, width)."""
    rows = np.arange(height) * cells.shape[0] // height
    columns = np.arange(width) * cells.shape[1] // width
    return cells[np.ix_(rows, columns)]


def evidence(
    *,
    score: float,
    boundary: Grey | None,
    size: tuple[int, int],
    threshold: float,
    covered: float,
    recompute: Mapping[str, Any],
    who: str = "The blending detector",
) -> Evidence:
    """Put a detector's numbers into one evidence of source ``blending``.

    Args:
        score: picture-level score in [0, 1].
        boundary: float32 (h, w) in [0, 1], or None for detectors without a map.
        size: width and height of the picture in px.
        threshold: of the map, see ``strongest``.
        covered: share of the picture that was examined, 0..1.
        recompute: parameters that reproduce the numbers.
        who: the detector, as the statement's subject.
    """
    said = f"{who} gives {score:.2f} out of 1 for a composited boundary"
    region = None
    if boundary is None:
        said += "; it draws no map."
    else:
        trace = strongest(boundary, *size, threshold)
        if trace is None:
            said += f"; no trace in its map exceeds {threshold:.2f}."
        else:
            box = trace.box
            region = Region(box, stretched(trace.cells, *size))
            said += (
                f"; the strongest trace, {trace.peak:.2f}, lies in the box "
                f"({box.x0}, {box.y0})-({box.x1}, {box.y1})."
            )
    if covered < 0.995:
        said = said[:-1] + f", with {covered:.0%} of the picture examined."
    return Evidence(
        source=SOURCE,
        statement=said,
        score=score,
        region=region,
        heatmap=boundary,
        recompute=dict(recompute),
    )


def sentence(found: Evidence) -> str:
    """The finding as one sentence for a language model's prompt (X²-DFD's weak-feature supplement)."""
    score = 0.0 if found.score is None else found.score
    if found.region is None:
        return f"An external blending detector scores this picture {score:.2f} on a scale from 0 to 1."
    box = found.region.box
    return (
        f"An external blending detector scores this picture {score:.2f} on a scale from 0 to 1; its "
        f"strongest trace lies between ({box.x0}, {box.y0}) and ({box.x1}, {box.y1})."
    )
