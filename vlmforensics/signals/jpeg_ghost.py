"""JPEG ghosts: parts that were saved before at another quality than the rest.

A block that was once quantised with a coarser table hardly changes when it is quantised with that table again, so
its difference curve over qualities has a second dip. Parts whose dip is unlike that of the rest have another past.
The curve is computed on DCT coefficients: by Parseval it equals Farid's pixel difference up to rounding, at a
fraction of the cost of encoding.

Reference: Farid 2009, Exposing Digital Forgeries from JPEG Ghosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vlmforensics.signals.blocks import block_dct, luma_table, nearest_quality, standard_table
from vlmforensics.signals.maps import centre, heatmap, largest_region, luma, place, too_small, upright
from vlmforensics.types import CaseImage, Evidence, Grey

QUALITIES = tuple(range(40, 97, 2))
"""Qualities at which ghosts are looked for."""
LIMIT = 3_000_000
"""Pixels examined; larger pictures are examined in their centre."""
TILE = 4
"""Blocks a side of a tile (32 pixels)."""
FOUND = 5.0
"""Robust deviations of a region's ghost above which the text speaks of one."""
_MIN_TILES = 6
_LOWEST = 6  # frequencies a direction, of which those are used whose sum is under it
_MIN_TEXTURE = 4.0  # mean square of AC coefficients under which a tile can't show a ghost


@dataclass(frozen=True, eq=False)
class Ghost:
    """Result of :func:`find_ghost`.

    Attributes:
        score: robust deviation of the most deviating region of tiles from the rest.
        quality: quality at which it deviates.
        share: share of the textured tiles in that region, 0..1.
        tiles: float32 (r, c), deviation of each tile at that quality; 0 where there is no texture.
    """

    score: float
    quality: int
    share: float
    tiles: Grey


def difference_curves(
    plane: Grey, qualities: Sequence[int] = QUALITIES
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean square change of each tile when it is quantised again at each quality.

    Args:
        plane: float32 (H, W), 0..255, its corner on the JPEG grid.
        qualities: of libjpeg, 1..100.

    Returns:
        float32 (qualities, r, c), relative to what a coefficient spread evenly over each step would change, and
        float32 (r, c), mean square of the AC coefficients.
    """
    # Modes of high frequency are zero nearly everywhere; the lower half of the zig-zag carries the curve.
    coefficients = block_dct(plane, lowest=_LOWEST)
    rows, columns = (side // TILE for side in coefficients.shape[:2])
    kept = coefficients[: rows * TILE, : columns * TILE].reshape(-1, _LOWEST * _LOWEST)
    low = np.flatnonzero(np.add.outer(np.arange(_LOWEST), np.arange(_LOWEST)).ravel() < _LOWEST)[1:]
    values = kept[:, low]
    energy = values * values
    curves = np.empty((len(qualities), rows, columns), dtype=np.float32)
    change, expected = np.empty_like(values), np.empty_like(values)
    for index, quality in enumerate(qualities):
        step = standard_table(quality)[:_LOWEST, :_LOWEST].ravel()[low].astype(np.float32)
        np.rint(np.divide(values, step, out=change), out=change)
        np.subtract(values, np.multiply(change, step, out=change), out=change)
        # A value under half a step changes by itself whatever its past: compare with the smaller of both bounds.
        np.minimum(energy, step * step / 12, out=expected)
        changed = _tile_mean(np.multiply(change, change, out=change), rows, columns)
        curves[index] = changed / (_tile_mean(expected, rows, columns) + 0.05)
    return curves, _tile_mean(energy, rows, columns)


def _tile_mean(values: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    blocks = values.mean(axis=1).reshape(rows, TILE, columns, TILE)
    return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float32)


def find_ghost(plane: Grey, own_quality: int) -> Ghost | None:
    """Look for a region whose ghost differs from the rest.

    Args:
        plane: float32 (H, W), 0..255, its corner on the JPEG grid.
        own_quality: libjpeg quality nearest to the file's table; qualities at or above it say nothing.

    Returns:
        None where there are too few textured tiles or no quality below the file's own.
    """
    usable = [index for index, quality in enumerate(QUALITIES) if quality <= own_quality - 4]
    curves, texture = difference_curves(plane, QUALITIES[: len(usable)])
    textured = texture >= _MIN_TEXTURE
    if not usable or textured.sum() < 4 * _MIN_TILES:
        return None
    best: Ghost | None = None
    for index in usable[1:-1]:
        # Depth of the dip against the neighbouring qualities, so that texture itself cancels.
        around = (curves[index - 1] + curves[index + 1]) / 2
        depth = np.log((around + 0.02) / (curves[index] + 0.02))
        depth = np.where(textured, depth, 0).astype(np.float32)
        weight = textured.astype(np.float32)
        smooth = cv2.blur(depth, (3, 3)) / np.maximum(cv2.blur(weight, (3, 3)), 0.2)
        inside = smooth[textured]
        middle = float(np.median(inside))
        spread = max(1.4826 * float(np.median(np.abs(inside - middle))), 0.05)
        deviation = np.where(textured, (smooth - middle) / spread, 0).astype(np.float32)
        for sign in (1.0, -1.0):
            ghost = _strongest_region(sign * deviation, textured, QUALITIES[index])
            if ghost and (best is None or ghost.score > best.score):
                best = ghost
    return best


def _strongest_region(deviation: Grey, textured: NDArray[np.bool_], quality: int) -> Ghost | None:
    """Largest group of tiles beyond 3 deviations; its score is its median deviation, damped for tiny groups."""
    marked = (deviation > 3).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(marked, connectivity=8)
    if count < 2:
        return None
    group = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    size = int(stats[group, cv2.CC_STAT_AREA])
    share = size / int(textured.sum())
    if size < _MIN_TILES or share > 0.5:
        return None
    score = float(np.median(deviation[labels == group])) * min(1.0, (size / 24) ** 0.5)
    return Ghost(score, quality, share, np.where(labels == group, deviation, 0).astype(np.float32))


class JpegGhost:
    """Evidence for a part with another compression past on the same grid; JPEG only."""

    name, version, cost = "jpeg_ghost", "1", "tenths of a second"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence; an empty list for what is no JPEG, or has too little texture."""
        table = luma_table(case.container)
        if table is None or too_small(case, 256):
            return []
        own, _ = nearest_quality(table)
        window, top, left = centre(case.stored, LIMIT)
        if own < QUALITIES[3] + 4 or min(window.shape[:2]) < 256:
            return []
        found = find_ghost(luma(window), own)
        recompute = {
            "version": self.version,
            "window": [left, top, int(window.shape[1]), int(window.shape[0])],
            "own_quality": own,
            "tile": TILE * 8,
        }
        if found is None:
            text = f"No part of at least {_MIN_TILES} tiles (32 px) shows a JPEG ghost unlike the rest."
            return [Evidence(self.name, text, score=0.0, recompute=recompute)]
        recompute["quality"] = found.quality
        height, width = case.stored.shape[:2]
        side = 8 * TILE
        cells = upright(place(found.tiles, side, top, left, height, width), case.orientation)
        strong = found.score >= FOUND
        region = largest_region(cells > 3, case.width, case.height) if strong else None
        measured = (
            f"{found.score:.1f} deviations at quality {found.quality}, {found.share:.0%} of textured tiles"
        )
        text = (
            "A part was saved before at another JPEG quality than the rest"
            if strong
            else f"JPEG ghosts of parts differ by less than the {FOUND:.1f} that mark one"
        )
        recompute["share"] = round(found.share, 4)
        return [
            Evidence(
                self.name,
                f"{text} (largest group: {measured}).",
                score=found.score,
                region=region,
                heatmap=heatmap(cells, 0, 2 * FOUND),
                recompute=recompute,
            )
        ]
