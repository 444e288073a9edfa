"""Lateral chromatic aberration: does every part of the picture look through the same lens?

A lens images red and blue slightly larger or smaller than green, about the optical axis. The shift between channels is
measured block by block from gradients, one expansion is fitted to all blocks, and blocks that follow another one are
reported. Pictures without a measurable aberration (corrected by the camera, scaled down, generated, grey) are left out.

Reference: Johnson & Farid 2006, Exposing Digital Forgeries through Chromatic Aberration.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vlmforensics.signals.maps import heatmap, large, largest_region, place, reduced, too_small, upright
from vlmforensics.types import BoolMask, CaseImage, Evidence, Grey, Pixels

LIMIT = 1_500_000
"""Pixels examined; larger pictures are reduced, for an aberration spans the whole picture."""
CELL = 32
"""Pixels a side of a cell; windows of 3×3 cells are measured."""
FOUND = 6.0
"""Deviations of a group of windows from which the text speaks of a part with another aberration."""
MEASURABLE = 6.0
"""Standard errors of the expansion from which an aberration counts as measured."""
_LEAST_SHIFT = 0.08  # pixels at the corner; under it, rounding and chroma subsampling decide
_MIN_CELLS = 40


@dataclass(frozen=True, eq=False)
class Aberration:
    """Result of :func:`aberration` for one channel against green.

    Attributes:
        expansion: relative size of the channel less 1.
        certainty: its standard errors.
        corner: shift that it makes in the picture's corner, in pixels of the examined size.
        deviation: float32 (r, c), distance of each window's shift from the fit in robust deviations; 0 where
            unusable.
        usable: bool (r, c).
    """

    expansion: float
    certainty: float
    corner: float
    deviation: Grey
    usable: BoolMask


@dataclass(frozen=True, eq=False)
class Reference:
    """What both other channels are measured against.

    Attributes:
        terms: float32 (H, W) each: green, its gradients across and down.
        normal: float64 (r, c, 4, 4), sums over windows of the products of green, one, and the gradients.
    """

    terms: tuple[Grey, Grey, Grey]
    normal: NDArray[np.float64]


def _smooth(pixels: Pixels, channel: int) -> Grey:
    return np.asarray(cv2.GaussianBlur(pixels[..., channel].astype(np.float32), (0, 0), 1.0))


def _total(values: Grey) -> NDArray[np.float64]:
    """Sums over windows of 3×3 cells: float64 (r, c)."""
    rows, columns = values.shape[0] // CELL, values.shape[1] // CELL
    cut = values[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns * CELL)
    cells = cut.sum(axis=1, dtype=np.float64).reshape(rows, columns, CELL).sum(axis=2)
    return np.asarray(cv2.blur(cells, (3, 3), borderType=cv2.BORDER_REFLECT) * 9)


def reference(pixels: Pixels) -> Reference:
    """Measure green, uint8 (H, W, 3) given."""
    green = _smooth(pixels, 1)
    across = cv2.Sobel(green, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    down = cv2.Sobel(green, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    terms = (np.asarray(green - 128), np.asarray(across), np.asarray(down))
    normal = np.empty((green.shape[0] // CELL, green.shape[1] // CELL, 4, 4))
    normal[..., 1, 1] = _total(np.ones_like(green))
    for i, one in zip((0, 2, 3), terms, strict=True):
        normal[..., i, 1] = normal[..., 1, i] = _total(one)
        for j, other in zip((0, 2, 3), terms, strict=True):
            if j <= i:
                normal[..., i, j] = normal[..., j, i] = _total(one * other)
    return Reference(terms, normal)


def _shifts(channel: Grey, green: Reference) -> tuple[NDArray[np.float64], BoolMask]:
    """Shift of ``channel`` against green in each window of 3×3 cells: (r, c, 2) pixels, and usable.

    Least squares of channel = gain·green + offset − gain·(shift · gradient), by sums over windows.
    """
    target = channel - 128
    normal = green.normal.copy()
    right = np.empty(normal.shape[:3])
    right[..., 1] = _total(target)
    for i, term in zip((0, 2, 3), green.terms, strict=True):
        right[..., i] = _total(term * target)
    count = normal[..., 1, 1]
    scale = np.array([1, 1, 0.05, 0.05]) * count[..., None]
    normal[..., np.arange(4), np.arange(4)] += 1e-3 * scale + 1e-6  # a ridge: flat windows must not blow up
    inverse = np.linalg.inv(normal)
    solution = np.einsum("rcij,rcj->rci", inverse, right)
    rest = np.maximum(_total(target * target) - np.einsum("rci,rci->rc", solution, right), 0) / count
    gain = solution[..., 0]
    safe = np.where(np.abs(gain) < 0.2, 1.0, gain)
    shift = -solution[..., 2:] / safe[..., None]
    error = np.sqrt(rest[..., None] * inverse[..., (2, 3), (2, 3)]) / np.abs(safe)[..., None]
    strong = np.minimum(normal[..., 2, 2], normal[..., 3, 3]) / count > 4  # gradients both ways
    usable = (
        strong & (gain > 0.3) & (gain < 3) & (np.abs(shift).max(axis=-1) < 1.5) & (error.max(axis=-1) < 0.1)
    )
    return shift, usable


def aberration(pixels: Pixels, channel: int, green: Reference | None = None) -> Aberration | None:
    """Fit one expansion of a channel (0 red, 2 blue) against green, with a free centre.

    Args:
        pixels: uint8 (H, W, 3).
        channel: 0 or 2.
        green: :func:`reference` of the picture, so that both channels can share it.

    Returns:
        None where fewer than 40 windows have gradients enough.
    """
    shift, usable = _shifts(_smooth(pixels, channel), green or reference(pixels))
    if int(usable.sum()) < _MIN_CELLS:
        return None
    rows, columns = usable.shape
    y, x = np.mgrid[:rows, :columns].astype(np.float64)
    middle = np.array([(columns - 1) / 2, (rows - 1) / 2])
    position = (np.stack([x, y], axis=-1) - middle) * CELL
    design = np.concatenate(
        [
            np.stack(
                [position[usable][:, 0], np.ones(int(usable.sum())), np.zeros(int(usable.sum()))], axis=1
            ),
            np.stack(
                [position[usable][:, 1], np.zeros(int(usable.sum())), np.ones(int(usable.sum()))], axis=1
            ),
        ]
    )
    target = np.concatenate([shift[usable][:, 0], shift[usable][:, 1]])
    weight = np.ones(len(target))
    solution, scale = np.zeros(3), 1.0
    for _ in range(8):  # re-weighted (Tukey), so that a pasted part does not bend the fit
        root = np.sqrt(weight)[:, None]
        solution = np.linalg.lstsq(design * root, target * root[:, 0], rcond=None)[0]
        rest = target - design @ solution
        scale = max(1.4826 * float(np.median(np.abs(rest))), 0.01)
        weight = np.square(np.clip(1 - np.square(rest / (4.7 * scale)), 0, None)) + 1e-6
    # Windows overlap ninefold: their errors are not independent.
    covariance = np.linalg.inv((design * weight[:, None]).T @ design) * scale**2 * 9
    fit = solution[0] * position + solution[1:]
    distance = np.hypot(*np.moveaxis(shift - fit, -1, 0)) / (1.2 * scale)
    half = float(np.hypot(rows, columns)) * CELL / 2
    return Aberration(
        expansion=float(solution[0]),
        certainty=abs(float(solution[0])) / float(np.sqrt(covariance[0, 0])),
        corner=abs(float(solution[0])) * half,
        deviation=np.where(usable, np.clip(distance, 0, 20), 0).astype(np.float32),
        usable=usable,
    )


def _group(deviation: Grey, usable: BoolMask) -> tuple[BoolMask, float, float]:
    """Strongest group of neighbouring windows beyond 3.5 deviations: its cells, mean deviation, share of the usable."""
    weight = usable.astype(np.float32)
    smooth = cv2.blur(deviation, (3, 3)) / np.maximum(cv2.blur(weight, (3, 3)), 0.3)
    marked = ((smooth > 3.5) & usable).astype(np.uint8)
    best = (np.zeros(usable.shape, bool), 0.0, 0.0)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(marked, connectivity=8)
    for group in range(1, count):
        size = int(stats[group, cv2.CC_STAT_AREA])
        share = size / int(usable.sum())
        inside = labels == group
        if size >= 4 and share <= 0.4 and (score := float(smooth[inside].mean())) > best[1]:
            best = (inside, score, share)
    return best


class ChromaticAberration:
    """Evidence for a part whose channels are shifted unlike the lens shifts the rest."""

    name, version, cost = "chromatic", "1", "tenths of a second"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence; an empty list where no aberration can be measured."""
        if too_small(case, 8 * CELL):
            return []
        pixels = reduced(case.stored, LIMIT)
        reduction = min(1.0, (LIMIT / (case.width * case.height)) ** 0.5)
        if large(case):  # these may be reduced by a rounder number
            reduction = pixels.shape[1] / case.stored.shape[1]
        if min(pixels.shape[:2]) < 8 * CELL or bool((pixels[..., 0] == pixels[..., 1]).mean() > 0.99):
            return []
        green = reference(pixels)
        fits = [(name, fit) for name, c in (("red", 0), ("blue", 2)) if (fit := aberration(pixels, c, green))]
        measured = [
            (name, fit) for name, fit in fits if fit.certainty >= MEASURABLE and fit.corner >= _LEAST_SHIFT
        ]
        if not measured:
            return []
        name, fit = max(measured, key=lambda item: item[1].certainty)
        inside, score, share = _group(fit.deviation, fit.usable)
        shift = fit.corner / reduction
        text = f"The lens shifts {name} against green by {shift:.2f} pixels in the corners"
        strong = score >= FOUND
        if strong:
            text += f"; a part ({share:.0%} of what can be measured) follows another shift ({score:.1f} deviations)."
        else:
            text += f", and all parts that can be measured follow ({score:.1f} deviations at most)."
        recompute = {
            "version": self.version,
            "size": [int(pixels.shape[1]), int(pixels.shape[0])],
            "channel": name,
            "expansion": round(fit.expansion, 7),
        }
        height, width = pixels.shape[:2]
        cells = upright(place(inside, CELL, 0, 0, height, width) > 0, case.orientation)
        region = largest_region(cells, case.width, case.height) if strong else None
        deviation = upright(place(fit.deviation, CELL, 0, 0, height, width), case.orientation)
        shown = heatmap(deviation, 2, 2 * FOUND)
        return [Evidence(self.name, text, score=score, region=region, heatmap=shown, recompute=recompute)]
