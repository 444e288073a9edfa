"""Hypotheses of copies inside one picture: which affine maps might take one part of it onto another.

Two complementary searches. Keypoints find copies that were turned and scaled, where there is structure; the
autocorrelation of the whitened residual finds plain shifts, also in texture without keypoints, because noise is copied
with its ground. Neither decides: :mod:`vlmforensics.signals.copymove` verifies.

References:
    Lowe 2004, Distinctive Image Features from Scale-Invariant Keypoints;
    Amerini, Ballan, Caldelli, Del Bimbo & Serra 2011, A SIFT-Based Forensic Method for Copy–Move Attack Detection and
    Transformation Recovery (generalised two-nearest-neighbour test, estimation of the map);
    Fridrich, Soukal & Lukáš 2003, Detection of Copy-Move Forgery in Digital Images (autocorrelation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from vlmforensics.signals.maps import reduced
from vlmforensics.types import Grey

MOST_KEYPOINTS = 2500
"""Keypoints that are matched, the strongest of a picture."""
RATIO = 0.65
"""Largest ratio of successive descriptor distances that ends a run of matches (g2NN)."""
TOLERANCE = 3.0
"""Pixels that a matched keypoint may lie off its map."""
_FARTHEST = 0.6  # distance of unit descriptors
_MOST_MATCHES = 4000
_MOST_TRIED = 800

Affine = NDArray[np.float64]
"""float64 (2, 3): column vectors (x, y, 1) of the source → (x, y) of the copy."""


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A map that may take one part of the picture onto another.

    Attributes:
        map: see :data:`Affine`.
        support: matched keypoints that follow it; 0 where it comes from the autocorrelation.
        points: float32 (n, 2), those keypoints in the copy, (x, y); empty for a shift.
    """

    map: Affine
    support: int
    points: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Keypoints:
    """``place`` float32 (n, 2) pixels, ``size`` (n,) up to a factor, ``angle`` (n,) radians, descriptors (n, 128)."""

    place: NDArray[np.float32]
    size: NDArray[np.float32]
    angle: NDArray[np.float32]
    descriptors: NDArray[np.float32]


def _keypoints(plane: Grey, most: int, limit: int | None) -> _Keypoints | None:
    """Strongest keypoints of a plane, found after reducing it to about ``limit`` pixels; places are in its own."""
    height, width = plane.shape
    plane = plane if limit is None else reduced(plane, limit)
    scale = np.array([width / plane.shape[1], height / plane.shape[0]], dtype=np.float32)
    finder = cv2.SIFT.create(nfeatures=most, contrastThreshold=0.01, edgeThreshold=12)
    points, descriptors = finder.detectAndCompute(plane.astype(np.uint8), None)
    if descriptors is None or len(points) < 8:
        return None
    # Ties in strength may give more than was asked for.
    points, descriptors = points[:most], descriptors[:most]
    length = np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-6)
    place = np.array([point.pt for point in points], dtype=np.float32)
    return _Keypoints(
        place if plane.shape == (height, width) else (place + np.float32(0.5)) * scale - np.float32(0.5),
        np.array([point.size for point in points], dtype=np.float32),
        np.deg2rad(np.array([point.angle for point in points], dtype=np.float32)),
        (descriptors / length).astype(np.float32),
    )


def _matches(points: _Keypoints, apart: float) -> NDArray[np.intp]:
    """Pairs of keypoints at least ``apart`` pixels apart that look alike: intp (m, 2), each pair in both directions."""
    count = min(10, len(points.place) - 1)
    cosine = points.descriptors @ points.descriptors.T
    # Many keypoints have nothing near but themselves; sorting the neighbours of all is most of the work.
    alike = np.flatnonzero(np.count_nonzero(cosine > 1 - (_FARTHEST + 0.001) ** 2 / 2, axis=1) > 1)
    cosine = cosine[alike]
    near = np.argpartition(cosine, -count, axis=1)[:, -count:]
    distance = np.sqrt(np.maximum(2 - 2 * np.take_along_axis(cosine, near, 1), 0))
    gap = np.linalg.norm(points.place[alike, None] - points.place[near], axis=2)
    distance = np.where(gap < apart, np.float32(9), distance)
    order = np.argsort(distance, axis=1, kind="stable")
    near, distance = np.take_along_axis(near, order, 1), np.take_along_axis(distance, order, 1)
    # g2NN: all neighbours up to the last jump in distance count, so several copies are found.
    jump = (distance[:, :-1] < RATIO * distance[:, 1:])[:, :5]
    kept = np.flip(np.maximum.accumulate(np.flip(jump, 1), axis=1), 1)
    one, column = np.nonzero(kept & (distance[:, : kept.shape[1]] < _FARTHEST))
    pairs = np.stack([alike[one], near[one, column]], axis=1).astype(np.intp)
    return np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)


def _every(count: int, most: int) -> NDArray[np.intp]:
    """At most ``most`` indices spread evenly over ``count``."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.intp)


def keypoint_hypotheses(
    plane: Grey,
    apart: float,
    keypoints: int = MOST_KEYPOINTS,
    limit: int | None = None,
    most: int = 12,
    least: int = 4,
) -> list[Hypothesis]:
    """Find maps that many matched keypoints agree on; deterministic.

    Plain shifts come first. Then each match gives a similarity from the places, sizes and angles of its two keypoints;
    the one that most others follow is refined to an affine map by RANSAC, its matches are taken out, and so on.

    Args:
        plane: float32 (H, W), 0..255.
        apart: least distance in pixels between source and copy.
        keypoints: most keypoints that are matched.
        limit: pixels to which the plane is reduced to find them; None = not at all.
        most: hypotheses returned.
        least: distinct keypoints that must agree.
    """
    points = _keypoints(plane, keypoints, limit)
    if points is None:
        return []
    pairs = _matches(points, apart)
    pairs = pairs[_every(len(pairs), _MOST_MATCHES)]
    found = _shifts(points, pairs, least + 1)
    most += len(found)
    for _ in range(2 * most):
        if len(pairs) < least or len(found) >= most:
            break
        source, copy = points.place[pairs[:, 0]], points.place[pairs[:, 1]]
        kept = _largest_agreement(points, pairs, source, copy)
        if kept.sum() < least:
            break
        affine, kept = _refine(source, copy, kept, least)
        distinct = len(np.unique(np.rint(copy[kept]), axis=0))
        if affine is not None and distinct >= least and _plausible(affine):
            found.append(Hypothesis(affine, distinct, copy[kept]))
        used = pairs[kept]
        number = len(points.place)
        taken = np.concatenate([used @ (number, 1), used @ (1, number)])  # in both directions
        pairs = pairs[~np.isin(pairs @ (number, 1), taken)]
    return found


def _shifts(points: _Keypoints, pairs: NDArray[np.intp], least: int, most: int = 4) -> list[Hypothesis]:
    """Plain shifts by whole pixels that keypoints agree on to a pixel: what repeats by itself is less exact."""
    moved = points.place[pairs[:, 1]] - points.place[pairs[:, 0]]
    forward = (moved[:, 1] > 0) | ((moved[:, 1] == 0) & (moved[:, 0] > 0))
    moved, copy = moved[forward], points.place[pairs[forward, 1]]
    kept = _every(len(moved), 1500)
    moved, copy = moved[kept], copy[kept]
    whole = np.rint(moved)
    follows = np.abs(moved[None, :, :] - whole[:, None, :]).max(axis=-1) < 1
    found: list[Hypothesis] = []
    free = np.ones(len(moved), bool)
    while len(found) < most and len(moved):
        number = (follows & free).sum(axis=1)
        best = int(np.argmax(number))
        if number[best] < least:
            break
        members = follows[best] & free
        free &= ~members
        distinct = len(np.unique(np.rint(copy[members]), axis=0))
        if distinct >= least:
            affine = np.array([[1.0, 0, whole[best, 0]], [0, 1.0, whole[best, 1]]])
            found.append(Hypothesis(affine, distinct, copy[members]))
    return found


def _largest_agreement(
    points: _Keypoints, pairs: NDArray[np.intp], source: NDArray[np.float32], copy: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Which pairs follow the similarity that most of them follow."""
    ratio = points.size[pairs[:, 1]] / points.size[pairs[:, 0]]
    turn = points.angle[pairs[:, 1]] - points.angle[pairs[:, 0]]
    # Similarities are products with complex numbers.
    factor = ratio * np.exp(1j * turn)
    here, there = source[:, 0] + 1j * source[:, 1], copy[:, 0] + 1j * copy[:, 1]
    tried = _every(len(pairs), _MOST_TRIED)
    shift = (there - factor * here)[tried]
    off = np.stack([factor[tried], shift], axis=1) @ np.stack([here, np.ones_like(here)]) - there
    follows = off.real**2 + off.imag**2 < (2.5 * TOLERANCE) ** 2
    return np.asarray(follows[int(np.argmax(follows.sum(axis=1)))])


def _refine(
    source: NDArray[np.float32], copy: NDArray[np.float32], kept: NDArray[np.bool_], least: int
) -> tuple[Affine | None, NDArray[np.bool_]]:
    affine: Any = None
    for _ in range(2):
        estimate = cv2.estimateAffine2D if kept.sum() >= 8 else cv2.estimateAffinePartial2D
        affine, _ = estimate(
            source[kept], copy[kept], method=cv2.RANSAC, ransacReprojThreshold=TOLERANCE, maxIters=500
        )
        if affine is None:
            return None, kept
        off = np.linalg.norm(source @ affine[:, :2].T + affine[:, 2] - copy, axis=1)
        if (off < TOLERANCE).sum() < least:
            return None, kept
        kept = off < TOLERANCE
    return affine, kept


def _plausible(affine: Affine) -> bool:
    """No mirror, scale from 0.4 to 2.5, and little shear: what people do to a part that they copy."""
    large, small = np.linalg.svd(affine[:, :2], compute_uv=False)
    return bool(np.linalg.det(affine[:, :2]) > 0 and small > 0.4 and large < 2.5 and large / small < 1.25)


def whitened(plane: Grey) -> Grey:
    """Residual of a Gaussian over its local deviation, cut at 3: noise counts as much as edges. float32 (H, W)."""
    residual = plane - cv2.GaussianBlur(plane, (0, 0), 1.5)
    level = np.sqrt(np.maximum(cv2.blur(residual * residual, (15, 15)), 0))  # running sums may dip below 0
    return np.asarray(np.clip(residual / np.maximum(level, 0.35), -3, 3), dtype=np.float32)


def shift_hypotheses(white: Grey, apart: float, most: int = 8) -> list[Hypothesis]:
    """Find shifts at which the whitened residual repeats: sharp peaks of its autocorrelation.

    Args:
        white: of :func:`whitened`.
        apart: least length of a shift in pixels.
        most: shifts returned, the sharpest peak first.
    """
    height, width = white.shape
    size = tuple(scipy.fft.next_fast_len(2 * side, True) for side in white.shape)
    spectrum = scipy.fft.fft(scipy.fft.rfft(white, size[1], axis=1), size[0], axis=0)
    # The power spectrum is real, and only shifts down are looked at: less than half of irfft2's work.
    power = spectrum.real**2 + spectrum.imag**2
    lags = scipy.fft.irfft(scipy.fft.ihfft(power, axis=0)[:height], size[1], axis=1)
    lags = np.roll(lags, width - 1, axis=1)[:, : 2 * width - 1]
    down, right = np.arange(height)[:, None], np.arange(1 - width, width)[None, :]
    overlap = (height - down) * (width - np.abs(right))
    energy = max(float(np.square(white).mean()), 1e-6)
    # In deviations of a lag between unrelated residuals; then against its neighbourhood, as regular texture is broad.
    scale = 1 / np.sqrt(height - down) / energy * (1 / np.sqrt(width - np.abs(right)))
    deviation = np.multiply(lags, scale, out=scale).astype(np.float32)
    mean, wide = cv2.blur(deviation, (9, 9)), cv2.blur(deviation, (31, 31))
    spread = cv2.blur(deviation * deviation, (31, 31))
    spread -= np.multiply(wide, wide, out=wide)
    np.sqrt(np.maximum(spread, 0, out=spread), out=spread)
    sharp = np.subtract(deviation, mean, out=mean)
    sharp /= np.maximum(spread, 0.7, out=spread)
    sharp[(down**2 + right**2 < apart**2) | (overlap < 4000)] = 0
    sharp[0, :width] = 0  # the other half of the horizontal lags
    peaks = np.flatnonzero((sharp > 3.5) & (sharp >= cv2.dilate(sharp, np.ones((7, 7)))))
    order = np.argsort(-sharp.ravel()[peaks], kind="stable")[:most]
    none = np.zeros((0, 2), dtype=np.float32)
    found = []
    for index in peaks[order]:
        dy, dx = divmod(int(index), 2 * width - 1)
        found.append(Hypothesis(np.array([[1.0, 0, dx - width + 1], [0, 1.0, dy]]), 0, none))
    return found
