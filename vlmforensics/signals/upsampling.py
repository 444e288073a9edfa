"""Periodic traces of resampling: enlarged, shrunk or rotated pictures, and up-sampling layers of generators.

Interpolation makes the variance of the second derivative periodic: a factor s leaves a peak at 1/s cycles a pixel
(1 − 1/s for factors under 2). JPEG's own blocks leave peaks at multiples of 1/8, which are left out, as any
file may once have been a JPEG.

References:
    Gallagher 2005, Detection of Linear and Cubic Interpolation in JPEG Compressed Images;
    Mahdian & Saic 2008, Blind Authentication Using Periodic Properties of Interpolation;
    Tan et al. 2024, Rethinking the Up-Sampling Operations in CNN-based Generative Network (neighbouring pixels).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, median_filter

from vlmforensics.signals.maps import LARGE, centre, luma, too_small
from vlmforensics.types import CaseImage, Evidence, Grey

LIMIT = LARGE
"""Pixels examined; larger pictures are examined in their centre, for the trace is the whole picture's or none."""
FOUND = 6.0
"""Score above which the text speaks of resampling."""
FOUND_CELLS = 0.12
"""Log ratio above which the text speaks of enlarging by two."""
_LENGTH = 4096  # of the zero-padded transform


@dataclass(frozen=True)
class Peak:
    """Strongest periodicity.

    Attributes:
        frequency: cycles a pixel, 0.04..0.5.
        score: how many times it stands over its neighbourhood, geometric mean of both axes, less 1.
        horizontal: the same for the horizontal axis alone.
        vertical: the same for the vertical axis alone.
        asymmetry: mean difference inside 2×2 cells against between them, natural log, mean of both axes; 0 = none.
    """

    frequency: float
    score: float
    horizontal: float
    vertical: float
    asymmetry: float


def _line_spectrum(plane: Grey) -> NDArray[np.float64]:
    """Relative peak heights along the horizontal axis: float64 (2049,), 1 = as the neighbourhood."""
    second = np.abs(plane[:, 2:] - 2 * plane[:, 1:-1] + plane[:, :-2])
    # Clip at a multiple of the middle, or one edge would outweigh all texture.
    signal = np.minimum(second, 6 * np.median(second) + 6).mean(axis=0).astype(np.float64)
    signal = np.log(signal + 0.05)
    signal -= median_filter(signal, size=min(31, len(signal)), mode="nearest")
    signal = np.clip(signal, *np.percentile(signal, (1, 99)))
    magnitude = np.abs(np.fft.rfft((signal - signal.mean()) * np.hanning(len(signal)), _LENGTH))
    width = max(31, int(24 * _LENGTH / len(signal)) | 1)
    floor = median_filter(magnitude, size=width, mode="reflect")
    return np.asarray(magnitude / (floor + 1e-3 * np.sqrt(len(signal)) + 1e-9))


def find_peak(plane: Grey) -> Peak:
    """Find the strongest periodicity of the second derivative that is no multiple of 1/8 cycles a pixel.

    Args:
        plane: float32 (H, W), 0..255, at least 128 pixels a side.
    """
    frequency = np.fft.rfftfreq(_LENGTH)
    spectra = []
    for axis in (plane, np.ascontiguousarray(plane.T)):
        spectrum = _line_spectrum(axis)
        blur = 3 / axis.shape[1]
        spectrum[frequency < max(0.04, blur)] = 0
        near = np.abs(frequency[:, None] - np.arange(1, 5)[None, :] / 8).min(axis=1)
        spectrum[near < 1.5 * blur] = 0
        spectra.append(maximum_filter1d(spectrum, size=5))
    both = np.sqrt(spectra[0] * spectra[1])
    start = int(np.searchsorted(frequency, 0.04))
    best = start + int(np.argmax(both[start:]))
    height, across, down = (max(0.0, float(v[best]) - 1) for v in (both, spectra[0], spectra[1]))
    return Peak(float(frequency[best]), height, across, down, _asymmetry(plane))


def _asymmetry(plane: Grey) -> float:
    """How unlike differences inside and between 2×2 cells are: |log ratio|, mean of both axes.

    Differences over the borders of 8×8 blocks are left out on any grid that the borders may have: the even and odd
    steps of each phase of 8 are compared by their medians.
    """
    out = []
    for axis in (plane, plane.T):
        width = (axis.shape[1] - 1) // 8 * 8
        step = np.abs(axis[:, 1 : width + 1] - axis[:, :width]).mean(axis=0, dtype=np.float64)
        phases = step.reshape(-1, 8).mean(axis=0) + 0.01
        out.append(abs(float(np.log(np.median(phases[::2]) / np.median(phases[1::2])))))
    return float(np.mean(out))


class Upsampling:
    """Evidence ``upsampling`` (periodic traces) and ``npr`` (2×2 cells, as doubling leaves them)."""

    name, version, cost = "upsampling", "1", "tenths of a second"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return both evidences; an empty list for pictures under 128 pixels a side or nearly flat."""
        if too_small(case, 128):
            return []
        window, top, left = centre(case.stored, LIMIT)
        plane = luma(window)
        if min(window.shape[:2]) < 128 or float(plane.std()) < 1:
            return []
        found = find_peak(plane)
        place = [left, top, int(window.shape[1]), int(window.shape[0])]
        measured = (
            f"a period of {1 / found.frequency:.2f} pixels, {found.score:.1f} times over its neighbourhood"
        )
        if found.score >= FOUND:
            text = f"The picture carries a periodic trace of resampling or up-sampling: {measured}."
        else:
            text = f"No periodic trace of resampling stands out; the strongest has {measured}."
        recompute = {"version": self.version, "window": place, "frequency": round(found.frequency, 5)}
        cells = "Differences of neighbouring pixels inside and between 2×2 cells"
        if found.asymmetry >= FOUND_CELLS:
            other = f"{cells} are unlike (log ratio {found.asymmetry:.3f}), as enlarging by two leaves them."
        else:
            other = f"{cells} are alike (log ratio {found.asymmetry:.3f}), so no enlarging by two shows."
        return [
            Evidence(self.name, text, score=found.score, recompute=recompute),
            Evidence(
                "npr", other, score=found.asymmetry, recompute={"version": self.version, "window": place}
            ),
        ]
