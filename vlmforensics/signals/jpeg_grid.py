"""Traces of a JPEG grid that is not the file's own: an earlier compression, shifted by a crop or a paste.

Where a picture was JPEG before and was then cropped or pasted, low-frequency DCT coefficients on the *earlier* grid
still lie near multiples of the earlier step. For each of the 64 grid positions the histogram's spectrum is examined
at the frequencies 1/step; a grid that was used stands out from the other positions.

Globally this tells a crop (or, in a PNG, an earlier JPEG life); locally, tiles whose grid differs from the rest of
the picture tell a paste.

References:
    Bianchi & Piva 2011, Detection of Non-Aligned Double JPEG Compression Based on Integer Periodicity Maps;
    Nikoukhah et al. 2021, ZERO: a Local JPEG Grid Origin Detector Based on the Number of DCT Zeros (grid votes with a
    bound on false alarms).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vlmforensics.signals.blocks import basis
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
from vlmforensics.types import CaseImage, Evidence, Grey

LIMIT = 2_000_000
"""Pixels examined; larger pictures are examined in their centre, those above :data:`.maps.LARGE` in half of that."""
CELL = 64
"""Pixels a side of a cell; windows of 2×2 cells are judged."""
MODES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
"""(vertical, horizontal) frequencies used."""
STEPS = np.array([*range(2, 17), 18, 20, 22, 24, 27, 32])
"""Quantisation steps that are looked for."""
FOUND = 7.0
"""Robust deviations above which the text speaks of another grid in the whole picture."""
FOUND_LOCALLY = 9.0
"""The same for one window: some thousand windows, positions and steps are tried."""
_BINS = 128
Strength = NDArray[np.float32]
"""float32 (…, steps, 64): deviations of each grid position 8 × top + left from the others, at each step."""


@dataclass(frozen=True, eq=False)
class Grids:
    """Result of :func:`find_grids`.

    Attributes:
        top: of the strongest grid in the whole picture (the file's own left out in a JPEG), 0..7.
        left: the same.
        step: quantisation step at which it is strongest, 2..32.
        score: its strength in robust deviations; capped under :data:`FOUND` where only a part has it.
        local_score: float32 (r, c), strength of the strongest *other* grid in each window of 2×2 cells.
        local_position: int64 (r, c), 8 × top + left of that grid.
    """

    top: int
    left: int
    step: int
    score: float
    local_score: Grey
    local_position: NDArray[np.int64]


def _sliding(plane: Grey, v: int, u: int) -> Grey:
    """DCT coefficient (v, u) of the 8×8 block that begins at each pixel: float32 (H, W)."""
    kernels = basis()
    return np.asarray(
        cv2.sepFilter2D(
            plane, cv2.CV_32F, kernels[u], kernels[v], anchor=(0, 0), borderType=cv2.BORDER_REFLECT
        )
    )


def _cell_histograms(values: Grey, rows: int, columns: int) -> Grey:
    """Histogram of |coefficient| for each cell and grid position: float32 (rows, columns, 64, 129)."""
    y, x = np.arange(CELL), np.arange(columns * CELL)
    position = (y % 8 * 8)[:, None] + (x % 8)[None, :]
    base = ((x // CELL)[None, :] * 64 + position) * (_BINS + 1)
    counts = np.empty((rows, columns, 64, _BINS + 1), dtype=np.float32)
    for row in range(rows):  # one row of cells at a time: its counters fit the processor's cache
        level = np.abs(values[row * CELL : (row + 1) * CELL])
        np.minimum(np.rint(level, out=level), _BINS, out=level)
        index = base + level.astype(np.int64)
        found = np.bincount(index.ravel(), minlength=columns * 64 * (_BINS + 1))
        counts[row] = found.reshape(columns, 64, _BINS + 1)
    counts[..., :2] = 0  # zeros and ones are multiples of nothing
    counts[..., _BINS] = 0  # everything larger
    return counts


def _deviation(sums: Strength, number: Strength) -> Strength:
    """Cosine sums (…, steps, 64) and counts (…, 1, 64) → robust deviation of each position from the 64."""
    response = sums / np.sqrt(number + 1)
    # The lower median will do, and is much cheaper than the mean of two.
    response -= np.partition(response, 31, axis=-1)[..., 31:32]
    spread = np.partition(np.abs(response), 31, axis=-1)[..., 31:32]
    return np.clip(response / np.maximum(1.4826 * spread, 0.7), -8, 24)


def _without(strength: Strength, position: int) -> Strength:
    """Remove one grid, and what leaks from it to the positions in its row and column.

    The leak is symmetric about the grid and another grid is not, so each position is set against its mirror.
    """
    top, left = divmod(position, 8)
    grid = np.roll(strength.reshape(*strength.shape[:-1], 8, 8), (-top, -left), axis=(-2, -1))
    mirror = np.array([0, 7, 6, 5, 4, 3, 2, 1])
    grid[..., 0, :] = grid[..., 0, :] - np.maximum(grid[..., 0, mirror], 0)
    grid[..., 1:, 0] = grid[..., 1:, 0] - np.maximum(grid[..., mirror[1:], 0], 0)
    return np.roll(grid, (top, left), axis=(-2, -1)).reshape(strength.shape)


def find_grids(plane: Grey, own: bool) -> Grids:
    """Look for 8×8 quantisation grids at each of the 64 positions, in the whole picture and in windows.

    Args:
        plane: float32 (H, W), 0..255, H and W at least 128; its corner on the file's own grid.
        own: the file has a grid of its own at (0, 0), which is left out.
    """
    rows, columns = (plane.shape[0] - 8) // CELL, (plane.shape[1] - 8) // CELL
    part = plane[: rows * CELL + 8, : columns * CELL + 8]
    bins = np.arange(_BINS + 1)
    # Coefficients are symmetric about 0: their characteristic function is a cosine sum over a folded histogram.
    waves = np.cos(2 * np.pi * np.outer(bins, 1 / STEPS)).astype(np.float32)
    whole = np.zeros((len(STEPS), 64), dtype=np.float32)
    windows = np.zeros((rows - 1, columns - 1, len(STEPS), 64), dtype=np.float32)
    used = np.zeros((rows - 1, columns - 1), dtype=np.float32)
    for v, u in MODES:
        counts = _cell_histograms(_sliding(part, v, u)[: rows * CELL, : columns * CELL], rows, columns)
        sums = np.ascontiguousarray(np.swapaxes(counts @ waves, -1, -2))
        number = counts.sum(axis=-1)[..., None, :]
        whole += _deviation(sums.sum(axis=(0, 1)), number.sum(axis=(0, 1)))
        windows += _deviation(_pool(sums), _pool(number))
        used += _pool(number).sum(axis=(-1, -2))
    whole, windows = whole / np.sqrt(len(MODES)), windows / np.sqrt(len(MODES))
    if own:
        whole, windows = _without(whole, 0), _without(windows, 0)
    step, position = divmod(int(np.argmax(whole)), 64)
    score = float(whole[step, position])
    concentrated = _concentrated(windows[..., step, position], used)
    if score >= FOUND and not concentrated:
        windows = _without(windows, position)  # the grid that the whole picture has is no inconsistency
    local = windows.max(axis=-2)
    return Grids(
        position // 8,
        position % 8,
        int(STEPS[step]),
        min(score, FOUND - 0.1) if concentrated else score,
        local.max(axis=-1).astype(np.float32),
        np.argmax(local, axis=-1).astype(np.int64),
    )


def _concentrated(strength: Grey, used: Grey) -> bool:
    """True where one grid is strong in some windows and absent from most that have coefficients enough."""
    informative = strength[used >= 64 * 16]
    if len(informative) < 4:
        return False
    return bool(informative.max() >= FOUND_LOCALLY and np.median(informative) < 0.25 * informative.max())


def _pool(cells: Strength) -> Strength:
    """Sum 2×2 neighbouring cells."""
    return cells[:-1, :-1] + cells[1:, :-1] + cells[:-1, 1:] + cells[1:, 1:]


class JpegGrid:
    """Evidence ``jpeg_crop`` (an earlier grid in the whole picture) and ``jpeg_grid`` (one in a part of it)."""

    name, version, cost = "jpeg_grid", "1", "tenths of a second"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return both evidences, for any format; an empty list for pictures under 136 pixels a side."""
        if too_small(case, 2 * CELL + 8):
            return []
        window, top, left = centre(case.stored, half_if_large(case, LIMIT))
        if min(window.shape[:2]) < 2 * CELL + 8:
            return []
        own = case.container.format == "JPEG"
        found = find_grids(luma(window), own)
        recompute = {
            "version": self.version,
            "window": [left, top, int(window.shape[1]), int(window.shape[0])],
            "own_grid_left_out": own,
        }
        return [self._whole(found, own, recompute), self._local(case, found, (top, left), recompute)]

    def _whole(self, found: Grids, own: bool, recompute: dict[str, object]) -> Evidence:
        where = f"offset ({found.left}, {found.top}), step {found.step}: {found.score:.1f} deviations"
        if found.score < FOUND:
            other = "second" if own else "earlier"
            text = f"No {other} JPEG grid shows in the whole picture (strongest at {where})."
        else:
            cropped = found.top or found.left
            text = "The whole picture was JPEG before" + (
                " and was cropped or shifted since" if cropped else ""
            )
            text += f": it carries an 8×8 grid at {where}."
        return Evidence("jpeg_crop", text, score=found.score, recompute=recompute)

    def _local(
        self, case: CaseImage, found: Grids, corner: tuple[int, int], recompute: dict[str, object]
    ) -> Evidence:
        height, width = case.stored.shape[:2]
        strength = self._spread(found, FOUND_LOCALLY, corner, height, width)
        best = int(np.argmax(found.local_score))
        score = float(found.local_score.flat[best])
        position = int(found.local_position.flat[best])
        shown = heatmap(strength, FOUND_LOCALLY / 2, 2 * FOUND_LOCALLY)
        marked = upright(strength >= FOUND_LOCALLY, case.orientation)
        region = largest_region(marked, case.width, case.height) if score >= FOUND_LOCALLY else None
        where = f"offset ({position % 8}, {position // 8}), {score:.1f} deviations"
        if region is None:
            text = f"No part of the picture has a JPEG grid unlike the rest (strongest window at {where})."
        else:
            text = f"A part of the picture carries a JPEG grid that the rest lacks ({where})."
        heat = upright(shown, case.orientation)
        return Evidence("jpeg_grid", text, score=score, region=region, heatmap=heat, recompute=recompute)

    def _spread(self, found: Grids, floor: float, corner: tuple[int, int], height: int, width: int) -> Grey:
        """Paint windows on half cells over the whole picture: the strongest window that covers each."""
        rows, columns = found.local_score.shape
        out = np.zeros((2 * rows + 2, 2 * columns + 2), dtype=np.float32)
        for row, column in np.ndindex(rows, columns):
            # A strong window is painted in its middle half only: its rim may lie outside the part.
            inset = int(found.local_score[row, column] >= floor)
            patch = out[2 * row + inset : 2 * row + 4 - inset, 2 * column + inset : 2 * column + 4 - inset]
            np.maximum(patch, found.local_score[row, column], out=patch)
        return place(out, CELL // 2, *corner, height, width)
