"""Statistics of fine picture structure that tell camera photographs from generated pictures.

One pure function, :func:`spectrum_features`: uint8 RGB in, a short float32 vector out, for a small learned
calibration. What it measures, and why it can differ:

- the radial spectrum of the denoising residual: generators fall off otherwise than lenses and sensors do, and
  their up-sampling layers leave peaks (Durall et al. 2020, Watch Your Up-Convolution; Corvi et al. 2023,
  Intriguing Properties of Synthetic Images);
- the contrast of residual spectra between rich and poor texture (Zhong et al. 2024, PatchCraft);
- neighbouring pixel relationships in 2×2 cells (Tan et al. 2024, Rethinking the Up-Sampling Operations, NPR);
- how residuals of the colour channels correlate: demosaicing ties them, and sensor noise does not vanish;
- noise level against brightness: photon noise grows with light, decoders have none;
- block-DCT coefficient, gradient and co-occurrence statistics (Fridrich & Kodovský 2012, Rich Models, in
  miniature);
- saturation and colour differences (McCloskey & Albright 2019).

Everything is measured at native resolution on up to nine crops, and averaged, so size and aspect hardly
matter. Energies enter relative to each other, except the residual level in blocks and the colour statistics.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from vlmforensics.types import Pixels

CROP = 256
"""Side of a crop in pixels; each axis has up to three, spread evenly and aligned to multiples of 8."""
MIN_SIDE = 64
"""Smallest side in pixels at which the statistics mean something."""
_TILE = 64
_RADIAL = 24
_EPS = 1e-3

Plane = NDArray[np.float32]
"""float32 (h, w), 0..255 or a residual of such values."""


def _starts(length: int) -> list[int]:
    """Offsets of the crops along an axis of ``length`` pixels, multiples of 8."""
    if length <= CROP:
        return [0]
    count = min(3, -(-length // CROP))
    last = (length - CROP) // 8
    return [last * i // (count - 1) * 8 for i in range(count)]


def native_crops(pixels: Pixels) -> list[NDArray[np.float32]]:
    """Up to nine native-resolution crops, float32 (h, w, 3), sides multiples of 8."""
    height, width = (side // 8 * 8 for side in pixels.shape[:2])
    return [
        pixels[y : y + min(CROP, height), x : x + min(CROP, width)].astype(np.float32)
        for y in _starts(height)
        for x in _starts(width)
    ]


def _radial_map() -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Bin index and weight of every cell of a 64-point real FFT: radius 0.03..0.5 cycles a pixel."""
    fy = np.fft.fftfreq(_TILE)[:, None]
    fx = np.fft.rfftfreq(_TILE)[None, :]
    radius = np.sqrt(fy**2 + fx**2)
    index = np.floor((radius - 0.03) / (0.5 - 0.03) * _RADIAL).astype(np.intp)
    weight = ((index >= 0) & (index < _RADIAL)).astype(np.float64)
    return np.clip(index, 0, _RADIAL - 1), weight


@cache
def _radial_means() -> NDArray[np.float64]:
    """Weights that turn the cells of a spectrum into means by radius: float64 (64 · 33, 24)."""
    index, weight = _radial_map()
    matrix = np.zeros((index.size, _RADIAL))
    matrix[np.arange(index.size), index.ravel()] = weight.ravel()
    return np.asarray(matrix / matrix.sum(axis=0))


def _tiles(plane: Plane) -> NDArray[np.float32]:
    """Half-overlapping 64×64 tiles, float32 (n, 64, 64)."""
    view = np.lib.stride_tricks.sliding_window_view(plane, (_TILE, _TILE))[::32, ::32]
    return view.reshape(-1, _TILE, _TILE)


def _power(tiles: NDArray[np.float32]) -> NDArray[np.float64]:
    """Windowed power spectra of tiles, (n, 64, 33)."""
    window = np.hanning(_TILE).astype(np.float32)
    found = scipy.fft.rfft2(tiles * (window[:, None] * window[None, :]))
    return np.asarray(np.square(found.real) + np.square(found.imag), dtype=np.float64)


def _radial(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural log of mean power by radius, (n, 24)."""
    return np.log(power.reshape(len(power), -1) @ _radial_means() + _EPS)


def _median_residual(plane: Plane) -> Plane:
    return np.asarray(plane - cv2.medianBlur(plane, 3))


def _spectra(luma: Plane, residual: Plane, cb: Plane, cr: Plane) -> list[float]:
    """Residual spectra: what the radius says and what the axes say.

    Args:
        luma: of the crop.
        residual: its :func:`_median_residual`.
        cb: blue difference.
        cr: red difference.

    Returns:
        Natural logs of power: shape of the luma spectrum (24), rich minus poor texture (8), axes against
        diagonal (5), horizontal against vertical (1), excess at 1/8, 1/4 and 1/2 cycles a pixel on both
        axes (6), chroma against luma (12).
    """
    power = _power(_tiles(residual))
    radial = _radial(power)
    shape = radial - radial.mean(axis=1, keepdims=True)
    texture = _tiles(luma).std(axis=(1, 2))
    order = np.argsort(texture, kind="stable")
    third = max(1, len(order) // 3)
    contrast = shape[order[-third:]].mean(0) - shape[order[:third]].mean(0)
    mean_log = np.log(power + _EPS).mean(0)
    horizontal = mean_log[:3].mean(0)
    vertical = mean_log[:, :3].mean(1)[:33]
    diagonal = np.array([mean_log[i, i] for i in range(33)])
    bands = [slice(4, 10), slice(10, 16), slice(16, 22), slice(22, 28), slice(28, 33)]
    out = list(shape.mean(0)) + list(contrast.reshape(8, 3).mean(1))
    out += [float((horizontal[b].mean() + vertical[b].mean()) / 2 - diagonal[b].mean()) for b in bands]
    out.append(float(horizontal[16:].mean() - vertical[16:].mean()))
    for cell in (8, 16, 32):
        for axis in (horizontal, vertical):
            near = [k for k in (cell - 3, cell - 2, cell + 2, cell + 3) if k < 33]
            out.append(float(axis[cell] - axis[near].mean()))
    level = radial.mean(axis=1)
    for plane in (cb, cr):
        chroma = _radial(_power(_tiles(_median_residual(plane))))
        out += list((chroma - level[:, None]).mean(0).reshape(6, 4).mean(1))
    return out


def _correlation(a: Plane, b: Plane) -> float:
    """Pearson correlation, 0 for flat input."""
    a0, b0 = a - a.mean(), b - b.mean()
    scale = float(np.sqrt(np.mean(a0 * a0) * np.mean(b0 * b0)))
    return float(np.mean(a0 * b0)) / scale if scale > _EPS else 0.0


def _channels(rgb: NDArray[np.float32]) -> list[float]:
    """Correlation of R, G, B residuals in a fine and a middle band (6)."""
    blur = cv2.GaussianBlur(rgb, (0, 0), 1.0)
    fine = rgb - blur
    middle = blur - cv2.GaussianBlur(rgb, (0, 0), 2.5)
    out = []
    for band in (fine, middle):
        planes = cv2.split(band)  # NumPy reduces every third value many times as slowly
        out += [_correlation(planes[i], planes[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    return out


def _noise(luma: Plane, high: Plane) -> list[float]:
    """Residual level (5 percentiles), its growth with brightness (4), tails (2) and autocorrelation (8).

    Args:
        luma: of the crop.
        high: its :func:`_median_residual`, whose autocorrelation is taken.
    """
    residual = luma - cv2.GaussianBlur(luma, (0, 0), 1.0)
    height, width = luma.shape
    blocks = residual.reshape(height // 8, 8, width // 8, 8)
    level = np.log(blocks.std(axis=(1, 3)) + 0.05).ravel()
    bright = luma.reshape(height // 8, 8, width // 8, 8).mean(axis=(1, 3)).ravel()
    out = [float(v) for v in np.percentile(level, [5, 25, 50, 75, 95])]
    low = np.percentile(level, 50)
    for lo, hi in ((0, 64), (64, 128), (128, 192), (192, 256)):
        inside = level[(bright >= lo) & (bright < hi)]
        out.append(float(np.percentile(inside, 25) - low) if len(inside) >= 8 else 0.0)
    spread = float(residual.std()) + _EPS
    out.append(float(np.mean(np.abs(residual))) / spread)
    fourth = np.square(np.square(residual / spread))  # ** 4 takes a hundred times as long in float32
    out.append(float(np.log(np.mean(fourth) + 1)))
    energy = float(np.mean(high * high)) + _EPS
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (0, 3), (3, 0)):
        left = high[: height - dy, max(0, -dx) : width - max(0, dx)]
        right = high[dy:, max(0, dx) : width + min(0, dx)]
        out.append(float(np.mean(left * right)) / energy)
    return out


def _neighbours(luma: Plane) -> list[float]:
    """Neighbouring pixel relationships: phase ratios (4) and histograms of in-cell differences (8)."""
    out = []
    for axis in (0, 1):
        step = np.abs(np.diff(luma, axis=axis))
        even = step[::2] if axis == 0 else step[:, ::2]
        odd = step[1::2] if axis == 0 else step[:, 1::2]
        out.append(float(np.log((even.mean() + _EPS) / (odd.mean() + _EPS))))
        out.append(float(np.mean(even < 0.5) - np.mean(odd < 0.5)))
    cells = luma.reshape(luma.shape[0] // 2, 2, luma.shape[1] // 2, 2)
    anchor = cells[:, :1, :, :1]
    delta = np.abs(cells - anchor)
    scale = float(np.median(delta[:, 1, :, 1])) + 0.5
    for member in (delta[:, 0, :, 1], delta[:, 1, :, 1]):
        out += [float(np.mean(member < edge * scale)) for edge in (0.25, 0.75, 2.0, 5.0)]
    return out


def _block_dct(luma: Plane) -> list[float]:
    """Block-DCT amplitudes by diagonal (13), peakedness (4), and against a grid shifted by 4 px (1)."""
    basis = np.array(
        [
            [np.cos((2 * x + 1) * u * np.pi / 16) * (np.sqrt(1 / 8) if u == 0 else 0.5) for x in range(8)]
            for u in range(8)
        ],
        dtype=np.float32,
    )

    def coefficients(plane: Plane) -> NDArray[np.float32]:
        height, width = plane.shape
        blocks = plane.reshape(height // 8, 8, width // 8, 8).transpose(0, 2, 1, 3)
        return np.asarray(basis @ blocks @ basis.T, dtype=np.float32).reshape(-1, 8, 8)

    values = np.abs(coefficients(luma))
    diagonal = np.add.outer(np.arange(8), np.arange(8))
    amplitude = np.array([np.log(values[:, diagonal == k].mean() + 0.05) for k in range(1, 14)])
    out = list(amplitude - amplitude.mean())
    for lo, hi in ((1, 3), (3, 6), (6, 9), (9, 14)):
        group = values[:, (diagonal >= lo) & (diagonal < hi)]
        out.append(float(np.log((np.mean(group**2) + 0.05) / (np.mean(group) ** 2 + 0.05))))
    shifted = np.abs(coefficients(np.ascontiguousarray(luma[4:-4, 4:-4])))
    tail = diagonal >= 6
    out.append(float(np.log((shifted[:, tail].mean() + 0.05) / (values[:, tail].mean() + 0.05))))
    return out


def _gradients(luma: Plane) -> list[float]:
    """Detail energy (3) and peakedness (4) over four octaves."""
    levels, shapes = [], []
    plane = luma
    for _ in range(4):
        dx = np.diff(plane, axis=1)
        dy = np.diff(plane, axis=0)
        both = np.concatenate([dx.ravel(), dy.ravel()])
        square = float(np.mean(both * both)) + _EPS
        levels.append(0.5 * np.log(square))
        shapes.append(float(np.mean(np.abs(both))) / np.sqrt(square))
        half = (plane.shape[1] // 2, plane.shape[0] // 2)
        plane = np.asarray(cv2.resize(plane, half, interpolation=cv2.INTER_AREA), dtype=np.float32)
    return [float(b - a) for a, b in pairwise(levels)] + [float(s) for s in shapes]


def _cooccurrence(luma: Plane) -> list[float]:
    """Co-occurrence of three neighbouring third-order residuals, symmetrised (14).

    The step is the residual's own robust scale, so that the histogram describes shape, not strength.
    """
    counts = np.zeros(27)
    for plane in (luma, luma.T):
        third = plane[:, 3:] - 3 * plane[:, 2:-1] + 3 * plane[:, 1:-2] - plane[:, :-3]
        step = max(1.0, float(np.percentile(np.abs(third), 60)))
        code = np.clip(np.rint(third / step), -1, 1).astype(np.int64) + 1
        triple = code[:, 2:] * 9 + code[:, 1:-1] * 3 + code[:, :-2]
        counts += np.bincount(triple.ravel(), minlength=27)
    cube = counts.reshape(3, 3, 3)
    cube = cube + cube.transpose(2, 1, 0) + cube[::-1, ::-1, ::-1] + cube[::-1, ::-1, ::-1].transpose(2, 1, 0)
    cube = cube / cube.sum()
    keep: dict[tuple[int, ...], float] = {}
    for i in range(3):
        for j in range(3):
            for k in range(3):
                key = min((i, j, k), (k, j, i), (2 - i, 2 - j, 2 - k), (2 - k, 2 - j, 2 - i))
                keep.setdefault(key, float(cube[i, j, k]))
    return [float(np.log(v + 1e-4)) for _, v in sorted(keep.items())]


def _colour(rgb: NDArray[np.float32], cb: Plane, cr: Plane) -> list[float]:
    """Saturation (3), chroma spread (3), clipping (2), brightness (3), channel correlation (2)."""
    # Over planes: NumPy reduces an axis of three many times as slowly.
    red, green, blue = (np.ascontiguousarray(rgb[..., channel]) for channel in range(3))
    top = np.maximum(np.maximum(red, green), blue)
    bottom = np.minimum(np.minimum(red, green), blue)
    saturation = (top - bottom) / (top + 1)
    luma = (red + green + blue) / np.float32(3)
    out = [float(saturation.mean()), float(saturation.std()), float(np.mean(saturation > 0.9))]
    out += [float(np.log(cb.std() + 1)), float(np.log(cr.std() + 1)), _correlation(cb, cr)]
    out += [float(np.mean(bottom >= 254)), float(np.mean(top <= 2))]
    spread = float(luma.std()) + 1
    deviation = (luma - luma.mean()) / spread
    out += [float(luma.mean() / 255), spread / 255, float(np.mean(deviation * deviation * deviation))]
    return [*out, _correlation(red, green), _correlation(green, blue)]


def spectrum_features(pixels: Pixels) -> NDArray[np.float32]:
    """Describe the fine structure of one picture.

    Deterministic, finite for any content, about 30 ms for a crop of 256×256 at most nine times.

    Args:
        pixels: uint8 (H, W, 3) at native resolution, both sides at least :data:`MIN_SIDE`.

    Returns:
        float32 (d,), in the units that each part's function states; standardise before learning.

    Raises:
        ValueError: a side is under :data:`MIN_SIDE`.
    """
    if min(pixels.shape[:2]) < MIN_SIDE:
        raise ValueError(f"needs at least {MIN_SIDE} pixels a side, not {pixels.shape[1]}×{pixels.shape[0]}")
    rows = []
    for rgb in native_crops(pixels):
        luma = np.ascontiguousarray(rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32))
        cb = np.ascontiguousarray((rgb[..., 2] - luma) * np.float32(0.564))
        cr = np.ascontiguousarray((rgb[..., 0] - luma) * np.float32(0.713))
        residual = _median_residual(luma)
        parts = [_spectra(luma, residual, cb, cr), _channels(rgb), _noise(luma, residual), _neighbours(luma)]
        parts += [_block_dct(luma), _gradients(luma), _cooccurrence(luma), _colour(rgb, cb, cr)]
        rows.append(np.concatenate([np.asarray(part, dtype=np.float64) for part in parts]))
    return np.asarray(np.mean(rows, axis=0), dtype=np.float32)
