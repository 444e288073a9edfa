"""Votes for the origin of the 8×8 grid, with a bound on the number of false alarms.

JPEG sets many DCT coefficients of its own blocks to zero, and of no other blocks. Each pixel votes for the grid of the
8×8 block around it that has the most zeros. The picture's grid is the one with significantly many votes; a part that
votes significantly for another one was pasted from a JPEG, or moved off its grid. Significance is the number of such
votes that chance would yield in all places that are looked at, so one threshold, 1, holds for every picture.

Reference: Nikoukhah, Anger, Colom, Morel & Grompone von Gioi 2021, ZERO: a Local JPEG Grid Origin Detector Based on
the Number of DCT Zeros and its Applications in Image Forensics (sections 2 to 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

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
from vlmforensics.types import BoolMask, CaseImage, Evidence, Grey

LIMIT = 1_000_000
"""Pixels examined; larger pictures are examined in their centre, those above :data:`.maps.LARGE` in half of that."""
FOUND = 0.0
"""−log10 of the number of false alarms above which a grid is significant: fewer than one is expected by chance."""
_NONE = 255  # no valid vote
_GAP = 9  # pixels that a region of votes may bridge
_MIN_VOTES = 256


@dataclass(frozen=True, eq=False)
class Votes:
    """Result of :func:`grid_votes`.

    Attributes:
        main: 8 × top + left of the picture's grid, or None where none is significant.
        main_score: −log10 of its number of false alarms.
        foreign: bool (H, W), the most significant part that votes for another grid; all False where there is none.
        foreign_grid: its grid, or None.
        foreign_score: −log10 of its number of false alarms; negative or 0 = none.
    """

    main: int | None
    main_score: float
    foreign: BoolMask
    foreign_grid: int | None
    foreign_score: float


def zeros(plane: Grey) -> NDArray[np.uint8]:
    """Number of AC coefficients under ½ in the 8×8 block that begins at each pixel: uint8 (H − 7, W − 7).

    Args:
        plane: float32 (H, W), 0..255.
    """
    height, width = plane.shape[0] - 7, plane.shape[1] - 7
    out = np.zeros((height, width), dtype=np.uint8)
    matrix = basis()
    for top in range(8):
        rows = (plane.shape[0] - top) // 8
        bands = plane[top : top + 8 * rows].reshape(rows, 8, plane.shape[1])
        columns = np.matmul(matrix, bands).reshape(rows * 8, plane.shape[1])
        for left in range(8):
            across = (plane.shape[1] - left) // 8
            part = columns[:, left : left + 8 * across].reshape(-1, 8)
            small = np.abs(part @ matrix.T) < 0.499  # ½ itself is common, and rounding must not decide
            # Eight bytes of 0 or 1 at a time: words add up without carry, and a product gathers their bytes on top.
            words = small.view(np.uint64).reshape(rows, 8, across).sum(axis=1)
            number = ((words * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint8)
            number -= small.reshape(rows, 8, across, 8)[:, 0, :, 0]  # the mean is no AC coefficient
            out[top::8, left::8] = number[: len(range(top, height, 8)), : len(range(left, width, 8))]
    return out


def grid_votes(plane: Grey) -> Votes:
    """Let each pixel vote for a grid, and test the votes of the whole and of its parts.

    Args:
        plane: float32 (H, W), 0..255, at least 64 pixels a side; its corner on the file's own grid.
    """
    ballots = _ballots(plane)
    size = ballots.size
    tests = 2 * np.log10(64) + 1.5 * np.log10(size)  # section 3: grids, and boxes of any place and size
    number = np.bincount(ballots[ballots != _NONE], minlength=64)[:64]
    # Neighbouring votes come from the same blocks: one in 64 is independent.
    scores = np.array([_significance(int(votes), size, tests) for votes in number])
    best = int(np.argmax(scores))
    main = best if scores[best] > FOUND else None
    marked, grid, score = np.zeros(ballots.shape, bool), None, 0.0
    if main is not None:
        # Pixels at the rim that no whole block of the picture's own grid holds could only vote for others.
        for side, first in ((0, main // 8), (1, main % 8)):
            rim = np.ones(ballots.shape[side], bool)
            rim[first : first + (ballots.shape[side] - first) // 8 * 8] = False
            ballots[(rim, slice(None)) if side == 0 else (slice(None), rim)] = _NONE
    # The votes of each grid, in order of their places: one stable sort in place of a search for each.
    order = np.argsort(ballots, axis=None, kind="stable")
    ends = np.cumsum(np.bincount(ballots.ravel(), minlength=64)[:64])
    for other in range(64):
        if main is None or other == main or number[other] < _MIN_VOTES:
            continue
        places = order[ends[other - 1] if other else 0 : ends[other]]
        part, significance = _part(ballots == other, places, tests)
        if significance > score:
            marked, grid, score = part, other, significance
    return Votes(main, float(scores[best]), marked, grid, score)


def _ballots(plane: Grey) -> NDArray[np.uint8]:
    """The grid (8 × top + left) that each pixel votes for: uint8 (H, W), 255 = none, by a tie or a flat block."""
    count = zeros(plane)
    padded = np.zeros(plane.shape, dtype=np.uint8)
    padded[: count.shape[0], : count.shape[1]] = count
    # The 64 blocks that hold a pixel begin in the 8×8 window that ends at it.
    most = cv2.dilate(padded, np.ones((8, 8), np.uint8), anchor=(7, 7))
    most[most == 0] = _NONE  # none of them has zeros, so none wins
    ties = np.zeros(plane.shape, dtype=np.uint8)
    winners = np.zeros(plane.shape, dtype=np.uint8)  # sums of 8 × down + right: where one block wins, its own
    for index in range(64):
        down, right = divmod(index, 8)
        won = padded[: plane.shape[0] - down, : plane.shape[1] - right] == most[down:, right:]
        ties[down:, right:] += won
        winners[down:, right:] += won * np.uint8(index)
    y, x = np.ogrid[: plane.shape[0], : plane.shape[1]]
    # Wrapping below 0 does no harm, as 256 is a multiple of 8.
    top = (y.astype(np.uint8) - winners // 8) % 8
    ballots = np.asarray(top * 8 + (x.astype(np.uint8) - winners % 8) % 8, dtype=np.uint8)
    # Flat and clipped content has zeros on every grid: a constant line or column can't vote (section 2).
    across = np.abs(np.diff(plane, axis=1, append=plane[:, -1:]))
    down_ = np.abs(np.diff(plane, axis=0, append=plane[-1:]))
    flat = np.maximum(cv2.blur(across, (9, 9)), cv2.blur(down_, (9, 9))) < 0.05
    ballots[(ties != 1) | flat] = _NONE
    return ballots


def _significance(votes: int, pixels: int, tests: float) -> float:
    """−log10 of the expected number of places with as many votes by chance, in ``pixels`` pixels."""
    tail = binom.logsf(max(votes // 64 - 1, 0), max(pixels // 64, 1), 1 / 64)
    return float(min(-tail / np.log(10) - tests, 999.0))


def _part(votes: BoolMask, places: NDArray[np.intp], tests: float) -> tuple[BoolMask, float]:
    """The most significant connected region of votes: its pixels, and −log10 of its number of false alarms.

    Args:
        votes: bool (H, W).
        places: their flat indices, ascending.
        tests: log10 of the number of places that are looked at.
    """
    near = np.ones((_GAP, _GAP), np.uint8)
    count, labels = cv2.connectedComponents(cv2.dilate(votes.view(np.uint8), near), connectivity=8)
    groups = labels.ravel()[places]
    y, x = np.divmod(places, votes.shape[1])
    best, score = 0, 0.0
    for group in np.flatnonzero(np.bincount(groups, minlength=count) >= _MIN_VOTES):
        # The box of the votes, not that of the dilated region: the window's border cuts the latter.
        rows, columns = y[groups == group], x[groups == group]
        pixels = int(np.ptp(rows) + 1) * int(np.ptp(columns) + 1)
        significance = _significance(len(rows), pixels, tests)
        if significance > score:
            best, score = int(group), significance
    if not best:
        return np.zeros(votes.shape, bool), 0.0
    part = cv2.erode((labels == best).astype(np.uint8), near)
    return part.astype(np.bool_), score


class JpegVotes:
    """Evidence for a part whose blocks vote for another JPEG grid than the picture's; any format."""

    name, version, cost = "jpeg_votes", "1", "tenths of a second"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence; an empty list for small pictures and where no grid is significant."""
        if too_small(case, 128):
            return []
        window, top, left = centre(case.stored, half_if_large(case, LIMIT))
        if min(window.shape[:2]) < 128:
            return []
        found = grid_votes(np.rint(luma(window)))
        if found.main is None:
            return []
        height, width = case.stored.shape[:2]
        recompute = {
            "version": self.version,
            "window": [left, top, int(window.shape[1]), int(window.shape[0])],
            "main": [found.main % 8, found.main // 8],
        }
        grid = f"grid at offset ({found.main % 8}, {found.main // 8})"
        if found.foreign_grid is None:
            text = (
                f"All parts that vote for a JPEG grid agree with the picture's {grid}; "
                f"no other has fewer than 1 expected false alarm."
            )
        else:
            other = f"({found.foreign_grid % 8}, {found.foreign_grid // 8})"
            text = (
                f"A part's blocks lie on a JPEG grid at offset {other} and not on the picture's {grid}: "
                f"chance would do that 1 time in 10^{found.foreign_score:.0f}."
            )
        part = found.foreign.astype(np.float32)
        tall, wide = (side // 8 for side in part.shape)
        coarse = part[: tall * 8, : wide * 8].reshape(tall, 8, wide, 8).mean(axis=(1, 3))
        cells = upright(place(coarse, 8, top, left, height, width), case.orientation)
        region = (
            largest_region(cells > 0.5, case.width, case.height) if found.foreign_grid is not None else None
        )
        shown = heatmap(cells, 0, 1)
        return [
            Evidence(
                self.name, text, score=found.foreign_score, region=region, heatmap=shown, recompute=recompute
            )
        ]
