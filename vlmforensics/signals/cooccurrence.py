"""Co-occurrence of small residuals: how fine detail repeats from pixel to pixel, and from channel to channel.

High-order differences of neighbouring pixels are cut to three levels (down, about zero, up) at fixed thresholds, and
the frequencies of runs of four are counted, as are the joint levels of red, green and blue at one pixel. Sensors,
demosaicing and lenses leave other run statistics than the decoders of generators do, whatever the content. Fixed
thresholds matter: the strength of fine detail is part of the trace.

References:
    Fridrich & Kodovský 2012, Rich Models for Steganalysis of Digital Images (residuals, truncation, symmetries);
    Cozzolino, Poggi & Verdoliva 2015, Splicebuster (co-occurrences of quantised residuals);
    Nataraj et al. 2019, Detecting GAN Generated Fake Images Using Co-occurrence Matrices.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from vlmforensics.signals.maps import luma, too_small
from vlmforensics.signals.spectrum_features import MIN_SIDE, native_crops
from vlmforensics.types import CaseImage, Evidence, Grey, Pixels

RUNS = ((3, 8.0), (3, 20.0), (2, 2.0))
"""(order of the difference, step in grey levels) of the runs on luma; a level is "zero" within half a step."""
COLOURS = ((2, 2.0), (1, 1.0))
"""The same for the joint levels of R, G, B."""
_FLOOR = 1e-4  # added to frequencies before the logarithm

Levels = NDArray[np.uint8]
"""uint8 (h, w): 0 = down, 1 = about zero, 2 = up."""


@cache
def run_classes(length: int) -> tuple[NDArray[np.intp], int]:
    """Index of the symmetry class of each run of ``length`` levels: reversal and change of sign are one class.

    Returns:
        intp (3^length,), and the number of classes (10 for 3, 25 for 4).
    """
    known: dict[tuple[int, ...], int] = {}
    index = []
    for run in product(range(3), repeat=length):
        negative = tuple(2 - level for level in run)
        key = min(run, run[::-1], negative, negative[::-1])
        index.append(known.setdefault(key, len(known)))
    return np.array(index, dtype=np.intp), len(known)


def _levels(plane: Grey, order: int, step: float) -> Levels:
    """Horizontal difference of an order 1..3, cut to three levels."""
    for _ in range(order):
        plane = plane[:, 1:] - plane[:, :-1]
    half = np.float32(step / 2 + 0.0005)  # between the values that luma can take, where rounding would decide
    up, down = plane > half, plane < -half
    return np.asarray(up.view(np.uint8) + np.uint8(1) - down.view(np.uint8))


def _count(code: Levels, cells: int) -> NDArray[np.float64]:
    counts = cv2.calcHist([np.ascontiguousarray(code)], [0], None, [cells], [0, cells])
    return np.asarray(counts, dtype=np.float64).ravel()


def _run_counts(levels: Levels) -> NDArray[np.float64]:
    """Counts of runs of four by symmetry class: float64 (25,)."""
    width = levels.shape[1] - 3
    three, nine = np.uint8(3), np.uint8(9)
    left = levels[:, :width] * three + levels[:, 1 : width + 1]
    right = levels[:, 2 : width + 2] * three + levels[:, 3 : width + 3]
    index, classes = run_classes(4)
    return np.asarray(np.bincount(index, _count(left * nine + right, 81), classes), dtype=np.float64)


def _colour_counts(rgb: NDArray[np.float32], order: int, step: float) -> NDArray[np.float64]:
    """Counts of joint levels (R, G, B), change of sign and of R with B being one class: float64 (10,)."""
    red, green, blue = (_levels(np.ascontiguousarray(rgb[..., c]), order, step) for c in range(3))
    index, classes = run_classes(3)
    counts = _count((red * np.uint8(3) + green) * np.uint8(3) + blue, 27)
    return np.asarray(np.bincount(index, counts, classes), dtype=np.float64)


def cooccurrence_features(pixels: Pixels) -> NDArray[np.float32]:
    """Describe the residual runs of one picture, both directions together.

    Deterministic and finite; counted over up to nine native-resolution crops, so that size hardly matters.

    Args:
        pixels: uint8 (H, W, 3) at native resolution, both sides at least 64.

    Returns:
        float32 (95,): natural log of the frequency of each class, 25 for each of :data:`RUNS`, then 10 for each of
        :data:`COLOURS`.

    Raises:
        ValueError: a side is under 64 pixels.
    """
    if min(pixels.shape[:2]) < MIN_SIDE:
        raise ValueError(f"needs at least {MIN_SIDE} pixels a side, not {pixels.shape[1]}×{pixels.shape[0]}")
    runs = [np.zeros(run_classes(4)[1]) for _ in RUNS]
    colours = [np.zeros(run_classes(3)[1]) for _ in COLOURS]
    for crop in native_crops(pixels):
        turned = np.ascontiguousarray(crop.transpose(1, 0, 2))
        for rgb in (crop, turned):
            plane = luma(rgb)
            for counts, (order, step) in zip(runs, RUNS, strict=True):
                counts += _run_counts(_levels(plane, order, step))
            for counts, (order, step) in zip(colours, COLOURS, strict=True):
                counts += _colour_counts(rgb, order, step)
    parts = [np.log(counts / counts.sum() + _FLOOR) for counts in (*runs, *colours)]
    return np.concatenate(parts).astype(np.float32)


class Cooccurrence:
    """Evidence from the statistics of residual runs; what they weigh is in the vector's calibration alone."""

    name, version, cost = "cooccurrence", "1", "hundredths of a second"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence; an empty list for pictures under 64 pixels a side or without any detail."""
        if too_small(case, MIN_SIDE):
            return []
        vector = cooccurrence_features(case.upright)
        quiet = float(np.exp(vector[0]))
        even = float(np.exp(vector[_EVEN]))
        if even > 0.999:
            return []
        text = (
            f"Of all runs of four neighbouring third differences, {even:.1%} are flat within "
            f"{RUNS[0][1] / 2:.0f} grey levels and {quiet:.2%} swing one way throughout."
        )
        recompute = {"version": self.version, "features": len(vector), "runs": [list(run) for run in RUNS]}
        return [
            Evidence(self.name, text, score=1 - even, vector=tuple(map(float, vector)), recompute=recompute)
        ]


_EVEN = int(run_classes(4)[0][(3**4 - 1) // 2])  # the class of four zeros
