"""Local noise that does not fit the rest of the picture.

The level of the residual is measured in tiles from their quietest blocks, and compared with what the picture's own
tiles of like brightness and texture have, for sensors, processing and compression all make noise depend on both.
Parts from another camera, generator or filter stand out by more or less noise than their like.

References:
    Mahdian & Saic 2009, Using Noise Inconsistencies for Blind Image Forensics (wavelet residual, median estimator);
    Liu, Tanaka & Okutomi 2012, Noise Level Estimation Using Weak Textured Patches;
    Immerkær 1996, Fast Noise Variance Estimation (the Laplacian pair that suppresses structure).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vlmforensics.signals.maps import centre, heatmap, largest_region, luma, place, too_small, upright
from vlmforensics.types import CaseImage, Evidence, Grey

LIMIT = 4_000_000
"""Pixels examined; larger pictures are examined in their centre."""
TILE = 32
"""Pixels a side of a tile."""
FOUND = 5.0
"""Score above which the text speaks of a part whose noise differs."""
_BLOCK = 8
_MIN_TILES = 36
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32) / 6


@dataclass(frozen=True, eq=False)
class NoiseMap:
    """Result of :func:`noise_map`.

    Attributes:
        level: float32 (r, c), noise deviation of each tile in grey levels.
        deviation: float32 (r, c), robust deviations from tiles of like brightness and texture, signed.
        score: mean absolute deviation of the most deviating group of tiles, damped for tiny groups.
        share: share of tiles in that group, 0..1.
        sign: +1 where the group is noisier than its like, −1 where it is quieter.
        typical: median noise deviation of the picture in grey levels.
    """

    level: Grey
    deviation: Grey
    score: float
    share: float
    sign: int
    typical: float


def _tiles(plane: NDArray[Any]) -> NDArray[np.float32]:
    """Whole tiles as blocks: float32 (r, c, 16, 64), 16 blocks of 8×8 pixels each."""
    rows, columns = plane.shape[0] // TILE, plane.shape[1] // TILE
    per = TILE // _BLOCK
    cut = plane[: rows * TILE, : columns * TILE].reshape(rows, per, _BLOCK, columns, per, _BLOCK)
    return np.ascontiguousarray(cut.transpose(0, 3, 1, 4, 2, 5)).reshape(rows, columns, per * per, _BLOCK**2)


def noise_map(plane: Grey) -> NoiseMap | None:
    """Measure noise tile by tile and find the group that fits least.

    Args:
        plane: float32 (H, W), 0..255.

    Returns:
        None where fewer than 36 tiles can be measured (small, flat or clipped pictures).
    """
    residual = cv2.filter2D(plane, cv2.CV_32F, _IMMERKAER)
    # Quietest quarter of the blocks: what is left there is noise rather than structure.
    blocks = np.sqrt(np.mean(np.square(_tiles(residual)), axis=-1))
    blocks.sort(axis=-1)
    level = blocks[..., :4].mean(axis=-1)
    # Texture is measured behind a blur, or noise would explain itself.
    bright = _tiles(cv2.GaussianBlur(plane, (0, 0), 2.0))
    mean = bright.mean(axis=(-1, -2))
    texture = np.log(np.sort(bright.std(axis=-1), axis=-1)[..., :8].mean(axis=-1) + 0.5)
    usable = (mean > 12) & (mean < 243) & (level > 0.02)
    if int(usable.sum()) < _MIN_TILES:
        return None
    log_level = np.log(level + 0.05)
    expected = _expected(log_level, mean / 255, texture, usable)
    rest = np.where(usable, log_level - expected, 0)
    spread = max(1.4826 * float(np.median(np.abs(rest[usable] - np.median(rest[usable])))), 0.08)
    deviation = np.clip(rest / spread, -12, 12).astype(np.float32)
    score, share, sign = _group(deviation, usable)
    typical = float(np.median(level[usable]))
    return NoiseMap(level.astype(np.float32), deviation, score, share, sign, typical)


def _expected(
    level: NDArray[np.floating],
    bright: NDArray[np.floating],
    texture: NDArray[np.floating],
    usable: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Predict log noise from brightness and texture by a robust quadratic fit over the usable tiles."""
    terms = [np.ones_like(bright), bright, bright**2, texture, texture**2, bright * texture]
    design = np.stack(terms, axis=-1).astype(np.float64)
    rows, target = design[usable], np.asarray(level[usable], dtype=np.float64)
    weight: NDArray[Any] = np.ones(len(target))
    solution = np.zeros(design.shape[-1])
    for _ in range(6):  # iteratively re-weighted (Tukey), so that a deviating part does not set the norm
        root = np.sqrt(weight)[:, None]
        ridge = 1e-3 * np.eye(design.shape[-1])
        solution = np.linalg.solve(
            (rows * root).T @ (rows * root) + ridge, (rows * root).T @ (target * root[:, 0])
        )
        error = target - rows @ solution
        scale = max(1.4826 * float(np.median(np.abs(error))), 0.05)
        weight = np.square(np.clip(1 - np.square(error / (4 * scale)), 0, None)) + 1e-6
    return np.asarray(design @ solution)


def _group(deviation: Grey, usable: NDArray[np.bool_]) -> tuple[float, float, int]:
    """Strongest group of neighbouring tiles beyond 2 deviations after smoothing: (score, share, sign)."""
    weight = usable.astype(np.float32)
    smooth = cv2.blur(deviation * weight, (3, 3)) / np.maximum(cv2.blur(weight, (3, 3)), 0.3)
    best = (0.0, 0.0, 1)
    for sign in (1, -1):
        marked = ((sign * smooth > 2) & usable).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(marked, connectivity=4)
        for group in range(1, count):
            size = int(stats[group, cv2.CC_STAT_AREA])
            share = size / int(usable.sum())
            if size < 4 or share > 0.5:
                continue
            score = float(smooth[labels == group].mean() * sign) * min(1.0, (size / 16) ** 0.5)
            if score > best[0]:
                best = (score, share, sign)
    return best


class NoiseInconsistency:
    """Evidence for a part whose noise differs from parts of like brightness and texture."""

    name, version, cost = "noise", "1", "tenths of a second"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence; an empty list for small or nearly flat pictures."""
        if too_small(case, 192):
            return []
        window, top, left = centre(case.stored, LIMIT, align=TILE)
        found = noise_map(luma(window))
        if found is None:
            return []
        height, width = case.stored.shape[:2]
        cells = upright(place(found.deviation, TILE, top, left, height, width), case.orientation)
        strong = found.score >= FOUND
        side = max(3, round(cells.shape[0] / max(1, height / TILE))) | 1
        smooth = cv2.blur(cells, (3 * side, 3 * side))
        region = largest_region(found.sign * smooth > 2, case.width, case.height, 4) if strong else None
        measured = f"{found.score:.1f} robust deviations, {found.share:.0%} of the tiles"
        typical = f"the picture's noise is {found.typical:.2f} grey levels"
        if strong:
            kind = "noisier" if found.sign > 0 else "smoother"
            text = (
                f"A part is {kind} than other parts of like brightness and texture ({measured}; {typical})."
            )
        else:
            text = (
                f"The noise of parts of like brightness and texture differs by less than the {FOUND:.1f} that mark a "
                f"part (at most {measured}; {typical})."
            )
        recompute = {
            "version": self.version,
            "window": [left, top, int(window.shape[1]), int(window.shape[0])],
            "tile": TILE,
        }
        shown = heatmap(np.abs(smooth), 1, 2 * FOUND)
        return [
            Evidence(self.name, text, score=found.score, region=region, heatmap=shown, recompute=recompute)
        ]
