"""Double JPEG compression on the same grid, and where it is missing.

A picture saved twice on one grid has DCT histograms with periodic gaps or peaks. Each mode's histogram is compared
with what one compression and what two would give, both predicted from the picture's own statistics, which a crop by
four pixels shows unquantised. A part that was pasted or generated lacks the trace of the first compression.

References:
    Lukáš & Fridrich 2003, Estimation of Primary Quantization Matrix in Double Compressed JPEG Images (calibration by
    cropping); Bianchi & Piva 2012, Image Forgery Localization via Block-Grained Analysis of JPEG Artifacts
    (likelihood of a block, sections III and IV).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from vlmforensics.signals.blocks import ZIGZAG, block_dct, luma_table, standard_table
from vlmforensics.signals.maps import centre, heatmap, largest_region, luma, place, too_small, upright
from vlmforensics.types import CaseImage, Evidence, Grey

MODES = ZIGZAG[1:10]
"""The nine lowest AC modes, where natural pictures have coefficients enough."""
QUALITIES = tuple(range(40, 100))
"""Qualities of the first compression that are tried."""
LIMIT = 4_000_000
"""Pixels examined; larger pictures are examined in their centre."""
_REACH = 16  # histogram bins on each side of zero
_NOISE = 0.6  # deviation of a coefficient after decoding to integers and colour conversion
_MIN_COEFFICIENTS = 2000
FOUND = 0.05
"""Nats per coefficient above which the text speaks of a first compression."""


@dataclass(frozen=True, eq=False)
class DoubleCompression:
    """Result of :func:`double_compression`.

    Attributes:
        quality: first quality that explains the histograms best.
        gain: mean log-likelihood gain per non-zero coefficient in nats; over 0 = two compressions explain more.
        blocks: float32 (r, c), log-likelihood ratio of each 8×8 block, two compressions against one.
        coefficients: number of non-zero coefficients used.
    """

    quality: int
    gain: float
    blocks: Grey
    coefficients: int


def _histogram(values: NDArray[np.float32], reach: int) -> NDArray[np.float64]:
    """Smooth density of unquantised coefficients on unit bins −reach..reach, symmetric, never 0."""
    index = np.clip(np.rint(values), -reach, reach).astype(np.int64) + reach
    counts = np.bincount(index.ravel(), minlength=2 * reach + 1).astype(np.float64)
    counts = counts + counts[::-1]
    counts = np.convolve(counts, [0.25, 0.5, 0.25], mode="same") + 0.05
    return np.asarray(counts / counts.sum())


def _predict(density: NDArray[np.float64], reach: int, first: int | None, second: int) -> NDArray[np.float64]:
    """Probability of each quantised value −16..16 after one (``first`` None) or two compressions."""
    centres = np.arange(-reach, reach + 1, dtype=np.float64)
    values: NDArray[Any] = centres
    mass: NDArray[Any] = density
    noise = 0.3  # unit bins are spread over their own width
    if first is not None:
        steps = np.rint(centres / first).astype(np.int64)
        low = int(steps.min())
        mass = np.bincount(steps - low, density)
        values, noise = (np.arange(len(mass)) + low) * float(first), _NOISE
    edges = (np.arange(-_REACH, _REACH + 2) - 0.5) * second
    edges[0], edges[-1] = -1e9, 1e9
    cumulative = ndtr((edges[None, :] - values[:, None]) / noise)
    return np.asarray(mass @ np.diff(cumulative, axis=1) + 1e-4) / (1 + 1e-4 * (2 * _REACH + 1))


def double_compression(plane: Grey, table: NDArray[np.int32]) -> DoubleCompression | None:
    """Test a JPEG's luma for an earlier compression on the same grid.

    Args:
        plane: float32 (H, W), 0..255, as decoded, its corner on the grid.
        table: int32 (8, 8), luma quantisation of the file.

    Returns:
        None where too few coefficients are non-zero for a test.
    """
    lowest = 1 + max(max(mode) for mode in MODES)
    coefficients = block_dct(plane, lowest=lowest)
    calibration = block_dct(plane, 4, 4, lowest=lowest)
    shape = coefficients.shape[:2]
    quantised, ratios, counts, total = [], [], [], 0
    for v, u in MODES:
        step = int(table[v, u])
        level = np.clip(np.rint(coefficients[:, :, v, u] / step), -_REACH, _REACH).astype(np.int64) + _REACH
        reach = min(2048, (_REACH + 1) * step + 100)
        density = _histogram(calibration[:, :, v, u], reach)
        once = np.log(_predict(density, reach, None, step))
        by_first: dict[int, NDArray[np.float64]] = {}
        table_of = []
        for quality in QUALITIES:
            first = int(standard_table(quality)[v, u])
            if first not in by_first:
                by_first[first] = np.zeros_like(once)
                if first != step:
                    by_first[first] = np.log(_predict(density, reach, first, step)) - once
            table_of.append(by_first[first])
        quantised.append(level)
        ratios.append(np.stack(table_of))
        counts.append(np.bincount(level.ravel(), minlength=2 * _REACH + 1).astype(np.float64))
        total += int((level != _REACH).sum())
    if total < _MIN_COEFFICIENTS:
        return None
    gains = np.sum([ratio @ count for ratio, count in zip(ratios, counts, strict=True)], axis=0) / total
    best = int(np.argmax(gains))
    blocks = np.zeros(shape)
    for level, ratio in zip(quantised, ratios, strict=True):
        blocks += ratio[best][level]
    return DoubleCompression(QUALITIES[best], float(gains[best]), blocks.astype(np.float32), total)


def missing_trace(blocks: Grey) -> tuple[Grey, float]:
    """Smooth a block map and measure how far its poorest neighbourhoods fall under the rest.

    Returns:
        float32 (r, c) mean log-likelihood ratio of 7×7 blocks, and the contrast: median minus 2nd percentile, in nats.
    """
    smooth = np.asarray(cv2.blur(blocks, (7, 7), borderType=cv2.BORDER_REFLECT), dtype=np.float32)
    return smooth, float(np.median(smooth) - np.percentile(smooth, 2))


class JpegDouble:
    """Evidence for an earlier JPEG compression on the same grid; JPEG only."""

    name, version, cost = "jpeg_double", "1", "tenths of a second"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence; an empty list for what is no JPEG, or has too little texture."""
        table = luma_table(case.container)
        if table is None or too_small(case, 128):
            return []
        window, top, left = centre(case.stored, LIMIT)
        found = double_compression(luma(window), table)
        if found is None:
            return []
        recompute = {
            "version": self.version,
            "window": [left, top, int(window.shape[1]), int(window.shape[0])],
            "modes": len(MODES),
            "first_quality": found.quality,
        }
        measured = f"{found.gain:+.3f} nats per coefficient ({found.coefficients:,} coefficients)"
        if found.gain < FOUND:
            text = f"No earlier JPEG compression on this grid shows: two compressions explain {measured} more than one."
            return [Evidence(self.name, text, score=found.gain, recompute=recompute)]
        text = f"The picture was saved as JPEG before on the same grid, at about quality {found.quality}: {measured}"
        smooth, contrast = missing_trace(found.blocks)
        height, width = case.stored.shape[:2]
        floor = float(np.median(smooth))
        cells = upright(place(smooth - floor, 8, top, left, height, width), case.orientation)
        region = None
        if floor > 0.5:
            region = largest_region(cells < -floor, case.width, case.height, min_cells=48)
        text += "; a part lacks that trace." if region else "."
        recompute["contrast"] = round(contrast, 4)
        shown = heatmap(-cells, 0, max(2 * floor, 1.0))
        return [
            Evidence(self.name, text, score=found.gain, region=region, heatmap=shown, recompute=recompute)
        ]
