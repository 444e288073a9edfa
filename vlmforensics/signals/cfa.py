"""Traces of demosaicing, and parts that lack them.

A sensor behind a Bayer mosaic measures green at every second pixel and interpolates the rest, so green is predicted
from its four neighbours with a smaller error where it was interpolated. The two positions of the checkerboard then
differ in the variance of that error. Scaling, generation and strong compression leave no difference; a part pasted
from elsewhere has none, or the opposite one.

References:
    Popescu & Farid 2005, Exposing Digital Forgeries in Color Filter Array Interpolated Images;
    Ferrara, Bianchi, De Rosa & Piva 2012, Image Forgery Localization via Fine-Grained Analysis of CFA Artifacts
    (ratio of the local error variances at both positions).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vlmforensics.signals.maps import centre, heatmap, largest_region, place, too_small, upright
from vlmforensics.types import CaseImage, Evidence, Grey, Pixels

LIMIT = 4_000_000
"""Pixels examined; larger pictures are examined in their centre."""
CELL = 16
"""Pixels a side of a cell."""
PRESENT = 0.25
"""Median log ratio of the error variances from which the text speaks of a mosaic."""
FOUND = 5.0
"""Robust deviations of a group of cells from which the text speaks of a part without the trace."""
_LAPLACE = np.array([[0, -0.25, 0], [-0.25, 1, -0.25], [0, -0.25, 0]], dtype=np.float32)
_MIN_CELLS = 64
_MIN_VARIANCE = 0.05  # under it a cell is flat: quantisation alone decides its ratio


@dataclass(frozen=True, eq=False)
class Mosaic:
    """Result of :func:`mosaic`.

    Attributes:
        ratio: median over the cells of the log ratio of both variances, its sign removed.
        certainty: ``ratio`` in standard errors of that median.
        cells: float32 (r, c), log ratio of each cell, positive where it agrees with the picture; NaN where unusable.
        spread: robust standard deviation of the cells.
    """

    ratio: float
    certainty: float
    cells: Grey
    spread: float


def mosaic(pixels: Pixels) -> Mosaic | None:
    """Measure the green channel's prediction error at both positions of a checkerboard.

    Args:
        pixels: uint8 (H, W, 3), stored frame, unscaled.

    Returns:
        None where fewer than 64 cells of 16×16 pixels have detail and are not clipped.
    """
    green = pixels[..., 1].astype(np.float32)
    error = np.square(cv2.filter2D(green, cv2.CV_32F, _LAPLACE))
    rows, columns = green.shape[0] // CELL, green.shape[1] // CELL
    error = error[: rows * CELL, : columns * CELL]
    # Medians of squares would be sturdier against edges, but a mean over the smaller half costs a tenth.
    first = _cell_means(error[::2, ::2] + error[1::2, 1::2], rows, columns) / 2
    second = _cell_means(error[::2, 1::2] + error[1::2, ::2], rows, columns) / 2
    level = green[: rows * CELL, : columns * CELL]
    clipped = _cell_means(((level >= 250) | (level <= 4)).astype(np.float32), rows, columns) > 0.1
    usable = (np.minimum(first, second) > _MIN_VARIANCE) & ~clipped
    count = int(usable.sum())
    if count < _MIN_CELLS:
        return None
    ratio = np.log((first + 0.01) / (second + 0.01))
    middle = float(np.median(ratio[usable]))
    spread = max(1.4826 * float(np.median(np.abs(ratio[usable] - middle))), 0.05)
    cells = np.where(usable, ratio * (1 if middle >= 0 else -1), np.nan).astype(np.float32)
    # The standard error of a median is 1.2533 of the mean's.
    return Mosaic(abs(middle), abs(middle) / (1.2533 * spread / count**0.5), cells, spread)


def _cell_means(plane: Grey, rows: int, columns: int) -> Grey:
    """Means of a plane that ``rows`` × ``columns`` cells fill: float32 (r, c)."""
    return np.asarray(cv2.resize(plane, (columns, rows), interpolation=cv2.INTER_AREA))


def missing(found: Mosaic) -> tuple[Grey, float]:
    """Look for neighbourhoods of cells whose ratio falls short of the picture's.

    Returns:
        float32 (r, c), deviation of each 5×5 neighbourhood below the median in standard errors (0 where too few cells
        are usable), and the mean deviation of the strongest group of at least 9 neighbouring cells whose own ratio is
        under half the picture's; 0 where there is none.
    """
    weight = np.isfinite(found.cells).astype(np.float32)
    total = cv2.blur(weight, (5, 5), borderType=cv2.BORDER_CONSTANT)
    mean = cv2.blur(np.nan_to_num(found.cells), (5, 5), borderType=cv2.BORDER_CONSTANT) / np.maximum(
        total, 0.01
    )
    error = found.spread / np.sqrt(np.maximum(25 * total, 1))
    deviation = np.where(total >= 0.35, (found.ratio - mean) / error, 0).astype(np.float32)
    marked = ((deviation > 3) & (mean < found.ratio / 2)).astype(np.uint8)
    best = 0.0
    count, labels, stats, _ = cv2.connectedComponentsWithStats(marked, connectivity=8)
    for group in range(1, count):
        size = int(stats[group, cv2.CC_STAT_AREA])
        if size >= 9 and size <= 0.5 * weight.sum():
            best = max(best, float(deviation[labels == group].mean()))
    return np.where(marked > 0, deviation, 0).astype(np.float32), best


class ColourFilterArray:
    """Evidence ``cfa`` (is there a trace of a mosaic) and, where there is, ``cfa_part`` (a part lacks it)."""

    name, version, cost = "cfa", "1", "tenths of a second"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one or both evidences; an empty list for small, flat or grey pictures."""
        if too_small(case, 128):
            return []
        window, top, left = centre(case.stored, LIMIT, align=CELL)
        if bool((window[..., 0] == window[..., 1]).mean() > 0.99):  # one channel tells nothing of three
            return []
        found = mosaic(window)
        if found is None:
            return []
        recompute = {
            "version": self.version,
            "window": [left, top, int(window.shape[1]), int(window.shape[0])],
            "cell": CELL,
        }
        measured = f"log ratio of both variances {found.ratio:.2f}, {found.certainty:.1f} standard errors"
        present = found.ratio >= PRESENT and found.certainty >= 8
        if present:
            text = (
                f"Green carries the checkerboard of demosaicing ({measured}), as an unscaled photograph does"
            )
        else:
            text = f"Green carries no trace of demosaicing ({measured}), as after scaling or compression, or never"
        whole = Evidence(self.name, text + ".", score=-min(found.ratio, 3.0), recompute=recompute)
        return [whole, self._part(case, found, (top, left), recompute)] if present else [whole]

    def _part(
        self, case: CaseImage, found: Mosaic, corner: tuple[int, int], recompute: dict[str, object]
    ) -> Evidence:
        deviation, score = missing(found)
        height, width = case.stored.shape[:2]
        cells = upright(place(deviation, CELL, *corner, height, width), case.orientation)
        strong = score >= FOUND
        region = largest_region(cells > 0, case.width, case.height, min_cells=16) if strong else None
        if region is not None:
            text = f"A part lacks the trace of demosaicing that the rest carries ({score:.1f} standard errors short)."
        else:
            text = f"The trace of demosaicing is even (weakest part {score:.1f} standard errors short)."
        shown = heatmap(cells, 0, 2 * FOUND)
        return Evidence("cfa_part", text, score=score, region=region, heatmap=shown, recompute=recompute)
