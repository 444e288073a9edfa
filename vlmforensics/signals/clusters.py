"""A part whose noise residual has other statistics than the rest.

In overlapping windows the residual of a third-order difference is cut to three levels, and the frequencies of runs of
four are counted along rows and columns. One Gaussian describes the windows of the picture; those far outside it, in
one place, have another history: another camera, generator, scaling or compression.

References:
    Cozzolino, Poggi & Verdoliva 2015, Splicebuster: a New Blind Image Splicing Detector (features, square root,
    Gaussian against uniform);
    Fridrich & Kodovský 2012, Rich Models for Steganalysis of Digital Images (symmetries).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vlmforensics.signals.cooccurrence import run_classes
from vlmforensics.signals.maps import (
    centre,
    half_if_large,
    heatmap,
    largest_region,
    luma,
    place,
    too_small,
    upright,
)
from vlmforensics.types import BoolMask, CaseImage, Evidence, Grey

LIMIT = 2_000_000
"""Pixels examined; larger pictures are examined in their centre, those above :data:`.maps.LARGE` in half of that."""
CELL = 16
"""Pixels between windows."""
WINDOW = 6
"""Cells a side of a window (96 pixels)."""
FOUND = 5.0
"""Score from which the text speaks of a part that differs."""
STEP = 2.0
"""Grey levels of one quantisation step (Splicebuster's)."""
_COMPONENTS = 6  # Splicebuster keeps 25 of 50 for whole photographs; small pictures bear fewer
_MIN_WINDOWS = 120


@dataclass(frozen=True, eq=False)
class Clusters:
    """Result of :func:`residual_clusters`.

    Attributes:
        distance: float32 (r, c), log Mahalanobis distance of the window around each cell from the picture's Gaussian,
            in robust deviations above the median; 0 where the window is unusable.
        part: bool (r, c), the strongest group of windows, or all False.
        score: its mean distance.
        share: its share of the usable windows, 0..1.
    """

    distance: Grey
    part: BoolMask
    score: float
    share: float


def _histograms(plane: Grey) -> NDArray[np.float64]:
    """Counts of run classes in each cell, both directions one after the other: float64 (r, c, 50)."""
    rows, columns = (plane.shape[0] - 8) // CELL, (plane.shape[1] - 8) // CELL
    height, width = rows * CELL, columns * CELL
    index, classes = run_classes(4)
    class_of = np.zeros((81, classes))
    class_of[np.arange(81), index] = 1
    cell = np.arange(width) // CELL * 81
    parts = []
    for across in (True, False):
        near = [
            plane[:height, i : i + width + 3] if across else plane[i : i + height + 3, :width]
            for i in range(4)
        ]
        third = near[3] - 3 * near[2] + 3 * near[1] - near[0]
        # Half a step lies between the levels; a third difference of just that is zero, as rounding to even says.
        level = (third > STEP / 2).view(np.uint8) + np.uint8(1) - (third < -STEP / 2).view(np.uint8)
        runs = [level[:, i : i + width] if across else level[i : i + height] for i in range(4)]
        run = ((runs[0] * np.uint8(3) + runs[1]) * np.uint8(3) + runs[2]) * np.uint8(3) + runs[3]
        counts = np.empty((rows, columns, 81))
        for row in range(rows):  # one row of cells at a time: its counters fit the processor's cache
            joint = cell + run[row * CELL : (row + 1) * CELL]
            counts[row] = np.bincount(joint.ravel(), minlength=columns * 81).reshape(columns, 81)
        parts.append(counts @ class_of)
    return np.concatenate(parts, axis=-1)


def residual_clusters(plane: Grey) -> Clusters | None:
    """Describe all windows and find the group that fits the picture's Gaussian least.

    Args:
        plane: float32 (H, W), 0..255, at least 256 pixels a side.

    Returns:
        None where fewer than 120 windows are neither flat nor clipped.
    """
    counts = _histograms(plane)
    rows, columns = counts.shape[:2]
    sums = cv2.boxFilter(counts, -1, (WINDOW, WINDOW), normalize=False, borderType=cv2.BORDER_REFLECT)
    pixels = plane[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL)
    dull = ((pixels > 250) | (pixels < 5)).mean(axis=(1, 3))
    level = pixels.mean(axis=(1, 3), keepdims=True)
    dull = np.maximum(dull, np.abs(pixels - level).max(axis=(1, 3)) < 1.5)
    usable = cv2.blur(dull.astype(np.float32), (WINDOW, WINDOW)) < 0.25
    if int(usable.sum()) < _MIN_WINDOWS:
        return None
    features = np.sqrt(sums / sums.sum(axis=-1, keepdims=True))
    rows_used = features[usable]
    centred = rows_used - np.median(rows_used, axis=0)
    _, scale, axes = np.linalg.svd(centred - centred.mean(axis=0), full_matrices=False)
    keep = axes[: min(_COMPONENTS, int((scale > 1e-6 * scale[0]).sum()))]
    reduced = centred @ keep.T
    squared = _mahalanobis(reduced)
    value = np.log(squared + 1e-6)  # distances of natural content have a heavy tail
    middle = float(np.median(value))
    spread = max(1.4826 * float(np.median(np.abs(value - middle))), 0.2)
    distance = np.zeros((rows, columns), dtype=np.float32)
    distance[usable] = np.clip((value - middle) / spread, 0, 25)
    part, score, share = _group(distance, usable)
    return Clusters(distance, part, score, share)


def _mahalanobis(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distance from a Gaussian that is fitted again to the nearest 80 % until it settles."""
    inside = np.ones(len(values), bool)
    squared = np.zeros(len(values))
    for _ in range(6):
        kept = values[inside]
        covariance = np.cov(kept.T) + 1e-9 * np.eye(values.shape[1]) * max(float(np.var(kept)), 1e-9)
        centred = values - kept.mean(axis=0)
        squared = np.einsum("ni,ij,nj->n", centred, np.linalg.pinv(covariance, hermitian=True), centred)
        inside = squared <= np.quantile(squared, 0.8)
    return squared


def _group(distance: Grey, usable: BoolMask) -> tuple[BoolMask, float, float]:
    """Strongest group of neighbouring windows beyond 2.5 deviations: (cells, score, share); damped for tiny groups."""
    marked = ((distance > 2.5) & usable).astype(np.uint8)
    best = (np.zeros(usable.shape, bool), 0.0, 0.0)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(marked, connectivity=8)
    for group in range(1, count):
        size = int(stats[group, cv2.CC_STAT_AREA])
        share = size / int(usable.sum())
        inside = labels == group
        if size < 6 or share > 0.4:
            continue
        score = float(distance[inside].mean()) * min(1.0, (size / 20) ** 0.5)
        if score > best[1]:
            best = (inside, score, share)
    return best


class ResidualClusters:
    """Evidence for a part whose residual statistics differ from the rest."""

    name, version, cost = "residual_clusters", "1", "tenths of a second"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence; an empty list for pictures under 256 pixels a side, or flat ones."""
        if too_small(case, 256):
            return []
        window, top, left = centre(case.stored, half_if_large(case, LIMIT))
        if min(window.shape[:2]) < 256:
            return []
        found = residual_clusters(luma(window))
        if found is None:
            return []
        height, width = case.stored.shape[:2]
        measured = f"{found.score:.1f} robust deviations, {found.share:.0%} of the windows"
        strong = found.score >= FOUND
        cells = upright(place(found.part, CELL, top, left, height, width) > 0, case.orientation)
        region = largest_region(cells, case.width, case.height) if strong else None
        if strong:
            text = f"The fine noise of a part has other statistics than that of the rest ({measured})."
        else:
            text = f"The fine noise of all parts has like statistics (most unlike group {measured})."
        recompute = {
            "version": self.version,
            "window": [left, top, int(window.shape[1]), int(window.shape[0])],
            "cell": CELL,
            "step": STEP,
        }
        distance = upright(place(found.distance, CELL, top, left, height, width), case.orientation)
        return [
            Evidence(
                self.name,
                text,
                score=found.score,
                region=region,
                heatmap=heatmap(distance, 1, 1.5 * FOUND),
                recompute=recompute,
            )
        ]
