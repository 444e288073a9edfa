"""Spectral fall-off of the picture against natural pictures' power law, and the feature vector for calibration.

Natural pictures have power spectra near 1/f^2; lenses, demosaicing, down-sampling and decoders of generators bend the
upper octave each in their own way. The score says only how far from the law the upper octave lies; what tells
cameras from generators is in the vector (:func:`vlmforensics.signals.spectrum_features.spectrum_features`).

References:
    van der Schaaf & van Hateren 1996, Modelling the Power Spectra of Natural Images;
    Durall, Keuper & Keuper 2020, Watch Your Up-Convolution; Dzanic, Shah & Witherden 2020, Fourier Spectrum
    Discrepancies in Deep Network Generated Images.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from vlmforensics.signals.maps import luma, too_small
from vlmforensics.signals.spectrum_features import MIN_SIDE, native_crops, spectrum_features
from vlmforensics.types import CaseImage, Evidence, Grey

_LOW, _MIDDLE = (0.05, 0.2), (0.3, 0.5)  # cycles a pixel: where the law is fitted, and where it is tested
_SIDE = 64


@dataclass(frozen=True)
class FallOff:
    """Power law of a spectrum: ``exponent`` of 1/f, and ``excess`` of the upper octave over it in dB."""

    exponent: float
    excess: float


def fall_off(planes: list[Grey]) -> FallOff | None:
    """Fit the power law on 0.05..0.2 cycles a pixel and test it on 0.3..0.5.

    Args:
        planes: float32 (h, w) crops, 0..255, at least 64 pixels a side.

    Returns:
        None where the crops are flat.
    """
    window = np.hanning(_SIDE)[:, None] * np.hanning(_SIDE)[None, :]
    total = np.zeros((_SIDE, _SIDE // 2 + 1))
    for plane in planes:
        tiles = np.lib.stride_tricks.sliding_window_view(plane, (_SIDE, _SIDE))[::_SIDE, ::_SIDE]
        flat = tiles.reshape(-1, _SIDE, _SIDE) - tiles.mean(axis=(2, 3)).reshape(-1, 1, 1)
        found = scipy.fft.rfft2(flat * window)
        total += (np.square(found.real) + np.square(found.imag)).sum(axis=0)
    if float(total[0, 1:].sum()) < 1.0:
        return None
    radius = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None, :])
    return _fit(radius, total)


def _fit(radius: NDArray[np.float64], power: NDArray[np.float64]) -> FallOff:
    edges = np.linspace(0.02, 0.5, 25)
    middles, levels = [], []
    for low, high in pairwise(edges):
        inside = (radius >= low) & (radius < high)
        middles.append((low + high) / 2)
        levels.append(np.log(power[inside].mean() + 1e-6))
    f, level = np.log(np.array(middles)), np.array(levels)
    fitted = (f >= np.log(_LOW[0])) & (f <= np.log(_LOW[1]))
    slope, offset = np.polyfit(f[fitted], level[fitted], 1)
    tested = f >= np.log(_MIDDLE[0])
    excess = float(np.mean(level[tested] - (slope * f[tested] + offset)))
    return FallOff(float(-slope), 10 / np.log(10) * excess)


class Spectrum:
    """Evidence from the spectrum's fall-off, with the feature vector that a learned calibration reads."""

    name, version, cost = "spectrum", "1", "tenths of a second"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence; an empty list for pictures under 64 pixels a side or without any structure."""
        if too_small(case, MIN_SIDE):
            return []
        crops = native_crops(case.upright)
        law = fall_off([luma(crop) for crop in crops])
        if law is None:
            return []
        side = "over" if law.excess >= 0 else "under"
        text = (
            f"Power falls with frequency as 1/f^{law.exponent:.2f} (natural pictures: about 2); the finest detail, "
            f"0.3 to 0.5 cycles a pixel, lies {abs(law.excess):.1f} dB {side} that law."
        )
        vector = tuple(float(value) for value in spectrum_features(case.upright))
        recompute = {"version": self.version, "crops": len(crops), "features": len(vector)}
        return [Evidence(self.name, text, score=abs(law.excess), vector=vector, recompute=recompute)]
