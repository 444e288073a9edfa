"""Copy-move: a part of the picture that was copied onto another part of it.

Hypotheses come from matched keypoints and from the residual's autocorrelation (:mod:`.duplicates`). Each is verified
pixel by pixel: the picture is mapped onto itself, and source and copy must agree in structure, in fine residual and in
brightness. Repeated things (windows, tiles, letters) agree in structure, but each was exposed and sampled on its own,
so their residual differs; a copy repeats it. Both parts are returned, for a picture alone does not tell which came
first.

References:
    Christlein, Riess, Jordan, Riess & Angelopoulou 2012, An Evaluation of Popular Copy-Move Forgery Detection
    Approaches (pipeline, verification);
    Bigün & Granlund 1987, Optimal Orientation Detection of Linear Symmetry (what tells an edge from a texture);
    Amerini et al. 2011, A SIFT-Based Forensic Method for Copy–Move Attack Detection and Transformation Recovery
    (correlation map of the mapped picture).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vlmforensics.signals.duplicates import (
    MOST_KEYPOINTS,
    Affine,
    Hypothesis,
    keypoint_hypotheses,
    shift_hypotheses,
    whitened,
)
from vlmforensics.signals.maps import heatmap, large, luma, reduced, too_small, upright
from vlmforensics.types import BoolMask, Box, CaseImage, Evidence, Grey, Region

LIMIT = 800_000
"""Pixels examined; larger pictures are reduced, for source and copy may lie anywhere."""
LARGE_KEYPOINTS = (2000, 400_000)
"""Most keypoints of large pictures, and the pixels to which these are reduced further to find them, which is most of
the work. Of 48 copies planted in pictures of 12 megapixels 21 are found either way; settings near this one find 15 to
24, so that says no more than that little is lost."""
SIDE = 128
"""Pixels a side under which nothing is examined."""
FOUND = 1.0
"""Score from which the text speaks of a copy."""
SHIFTS = 3
"""Most different shifts of copies: three places that show one thing. Letters and graphics repeat themselves in more."""
STRAIGHT = 0.95
"""Coherence from which a part is one straight edge. Moved along itself, an edge agrees with itself: that is no copy."""
LETTER = 1300
"""Close pixels of the largest part that may be a letter; see :func:`is_lettering`."""
WINDOW = 11
"""Pixels a side of the window in which agreement is measured."""
_MIN_AREA = 150  # pixels of the examined size that must agree closely
_MARGIN = 96  # pixels around matched keypoints into which a copy is followed
_PARTS = 4
_REACH = 32  # pixels: more than any filter of the verification reads on one side


@dataclass(frozen=True, eq=False)
class Copy:
    """One verified pair of parts, in pixels of the examined size.

    Attributes:
        map: float64 (2, 3), source → copy.
        part: bool, the pixels that agree, of a window of the picture.
        corner: x and y of that window.
        close: pixels of ``part`` that agree closely.
        fine: mean difference over the residual's deviation; 0 = identical.
        coarse: mean difference behind a blur over the detail there; 0 = identical.
        support: matched keypoints, 0 for a shift that the autocorrelation found.
        score: see :func:`strength`.
        lettering: see :func:`is_lettering`.
    """

    map: Affine
    part: BoolMask
    corner: tuple[int, int]
    close: int
    fine: float
    coarse: float
    support: int
    score: float
    lettering: bool

    @property
    def shift(self) -> tuple[int, int]:
        """From source to copy at the part's centre, in steps of six pixels, whichever of both is the source."""
        rows, columns = np.nonzero(self.part)
        here = np.array([columns.mean() + self.corner[0], rows.mean() + self.corner[1]])
        inverse = cv2.invertAffineTransform(self.map)
        x, y = np.rint((here - (inverse[:, :2] @ here + inverse[:, 2])) / 6).astype(int)
        return (int(x), int(y)) if (x, y) > (0, 0) else (int(-x), int(-y))

    def marked(self, height: int, width: int) -> BoolMask:
        """The copy and its source (or the other way round: that can't be told): bool (height, width)."""
        (left, top), (tall, wide) = self.corner, self.part.shape
        copy = np.zeros((height, width), np.uint8)
        copy[top : top + tall, left : left + wide] = cv2.dilate(self.part.astype(np.uint8), np.ones((5, 5)))
        inverse = cv2.invertAffineTransform(self.map)
        source = cv2.warpAffine(copy, inverse, (width, height), flags=cv2.INTER_NEAREST)
        return np.asarray((copy | source) > 0)


def strength(close: int, fine: float, coarse: float) -> float:
    """One number from how much agrees and how well; :data:`FOUND` was set on untouched photographs.

    JPEG spoils the fine agreement of a copy more than the coarse one, a change of light the coarse one; repeated things
    differ in both.

    Args:
        close: pixels that agree closely.
        fine: see :class:`Copy`.
        coarse: see :class:`Copy`.
    """
    both, mostly_fine = fine / 0.3 + coarse / 0.08, 1.3 * (fine / 0.18 + coarse / 0.5)
    return float(1.85 / (min(both, mostly_fine) + 0.3) * min(1.0, (close / 400) ** 0.5))


@dataclass(frozen=True, eq=False)
class _Planes:
    """What every hypothesis is verified on: luma, its residual, luma behind a blur, and the whitened residual."""

    plane: Grey
    residual: Grey
    blurred: Grey
    white: Grey


def _residual(plane: Grey) -> Grey:
    return np.asarray(plane - cv2.GaussianBlur(plane, (0, 0), 1.5))


def find_copies(plane: Grey, keypoints: int = MOST_KEYPOINTS, limit: int | None = None) -> list[Copy]:
    """Find and verify copies, strongest first.

    Args:
        plane: float32 (H, W), 0..255, at least 128 pixels a side.
        keypoints: most keypoints that are matched.
        limit: pixels to which the plane is reduced to find them; None = not at all.
    """
    apart = max(16.0, 0.03 * max(plane.shape))
    blurred = np.asarray(cv2.GaussianBlur(plane, (0, 0), 2.0))
    planes = _Planes(plane, _residual(plane), blurred, whitened(plane))
    hypotheses = keypoint_hypotheses(plane, apart, keypoints, limit) + shift_hypotheses(planes.white, apart)
    found = [
        copy
        for hypothesis in hypotheses
        for fit in _fitted(planes, hypothesis)
        for copy in verify(planes, fit, apart)
    ]
    return sorted(found, key=lambda copy: -copy.score)


def _window(planes: _Planes, hypothesis: Hypothesis) -> tuple[int, int, int, int] | None:
    """Where a copy is looked for, around keypoints or where the residual repeats: (x0, y0, x1, y1), or None."""
    height, width = planes.plane.shape
    if hypothesis.support:
        low, high = hypothesis.points.min(axis=0), hypothesis.points.max(axis=0)
    else:
        dx, dy = (int(value) for value in hypothesis.map[:, 2])
        there = planes.white[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
        here = planes.white[max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)]
        # Whitened residuals have a variance of about 1: their mean product is nearly their correlation.
        repeats = cv2.blur(here * there, (WINDOW, WINDOW)) > 0.4
        if int(repeats.sum()) < _MIN_AREA:
            return None
        rows, columns = np.flatnonzero(repeats.any(axis=1)), np.flatnonzero(repeats.any(axis=0))
        low = np.array([columns[0] + max(dx, 0), rows[0] + max(dy, 0)])
        high = np.array([columns[-1] + max(dx, 0), rows[-1] + max(dy, 0)])
    margin = _MARGIN if hypothesis.support else 2 * WINDOW
    x0, y0 = (max(0, int(value) - margin) for value in low)
    return x0, y0, min(width, int(high[0]) + margin), min(height, int(high[1]) + margin)


def _fitted(planes: _Planes, hypothesis: Hypothesis) -> list[Hypothesis]:
    """The map made exact: keypoints leave a pixel of error, at which fine detail no longer agrees.

    A map that is nearly a shift is rounded to one, for most copies are; any other is aligned by its correlation.
    """
    if not hypothesis.support or np.array_equal(hypothesis.map[:, :2], np.eye(2)):
        return [hypothesis]
    affine, points = hypothesis.map, hypothesis.points
    sources = (points - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T
    moved = points - sources
    shift = np.median(moved, axis=0)
    if float(np.abs(moved - shift).max()) < 6 and float(np.abs(affine[:, :2] - np.eye(2)).max()) < 0.1:
        rounded = np.array([[1.0, 0, np.rint(shift[0])], [0, 1.0, np.rint(shift[1])]])
        return [replace(hypothesis, map=rounded), replace(hypothesis, map=_aligned(planes, hypothesis))]
    return [replace(hypothesis, map=_aligned(planes, hypothesis))]


def _aligned(planes: _Planes, hypothesis: Hypothesis) -> Affine:
    """Align source and copy by their enhanced correlation (Evangelidis & Psarakis 2008); unchanged where it fails."""
    window = _window(planes, hypothesis)
    if window is None:
        return hypothesis.map
    x0, y0, x1, y1 = window
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    hull = cv2.convexHull(np.rint(hypothesis.points - (x0, y0)).astype(np.int32))
    cv2.fillConvexPoly(mask, hull, 255)
    mask = cv2.dilate(mask, np.ones((13, 13), np.uint8))
    inverse = cv2.invertAffineTransform(hypothesis.map)
    start = inverse.copy()
    start[:, 2] += inverse[:, :2] @ (x0, y0)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 25, 1e-4)
    try:
        _, found = cv2.findTransformECC(
            planes.plane[y0:y1, x0:x1],
            planes.plane,
            start.astype(np.float32),
            cv2.MOTION_AFFINE,
            stop,
            mask,
            3,
        )
    except cv2.error:  # nothing to align by, or it ran away
        return hypothesis.map
    found = np.asarray(found, dtype=np.float64)
    found[:, 2] -= found[:, :2] @ (x0, y0)
    forward = np.asarray(cv2.invertAffineTransform(found), dtype=np.float64)
    points = hypothesis.points
    drift = np.linalg.norm(points @ (found - inverse)[:, :2].T + (found - inverse)[:, 2], axis=1)
    return forward if float(drift.max()) < 6 else hypothesis.map


def verify(planes: _Planes, hypothesis: Hypothesis, apart: float) -> Iterator[Copy]:
    """Map the picture onto itself and yield the parts that agree."""
    height, width = planes.plane.shape
    window = _window(planes, hypothesis)
    if window is None:
        return
    x0, y0, x1, y1 = window
    local = hypothesis.map.copy()
    local[:, 2] -= (x0, y0)
    size = (x1 - x0, y1 - y0)
    # A shift by whole pixels needs no interpolation, and gives the same.
    how = cv2.INTER_NEAREST if _is_whole_shift(hypothesis.map) else cv2.INTER_CUBIC
    mapped = cv2.warpAffine(planes.plane, local, size, flags=how, borderMode=cv2.BORDER_REFLECT)
    here, residual = planes.plane[y0:y1, x0:x1], planes.residual[y0:y1, x0:x1]
    valid = _valid(hypothesis.map, (x0, y0), size, (width, height), apart)
    fine = _correlation(residual, _residual(mapped), 0.1)
    agrees = valid & (fine > 0.7)
    # What is asked below only takes pixels away, so parts that are too small already need no further look.
    labels, number = _labelled(agrees, agrees & (fine > 0.9))
    if int(number.max()) < _MIN_AREA:
        return
    agrees = (number >= _MIN_AREA)[labels]
    near = _surroundings(agrees)
    x0, y0 = x0 + near[1].start, y0 + near[0].start
    mapped, here, residual, fine = mapped[near], here[near], residual[near], fine[near]
    agrees = agrees[near]
    y1, x1 = y0 + here.shape[0], x0 + here.shape[1]
    structure = _correlation(here, mapped, 0.25)
    agrees &= structure > 0.85
    close = agrees & (structure > 0.95) & (fine > 0.9)
    parts = _parts(agrees, close)
    # A copy beside what it resembles anyway (one of several like things): its exact pixels are looked at alone too.
    error = cv2.blur(np.abs(here - mapped), (WINDOW, WINDOW))
    exact = close & (error < 0.1 * np.abs(cv2.blur(np.abs(residual), (WINDOW, WINDOW))))
    parts += _parts(exact, exact)
    blurred = planes.blurred[y0:y1, x0:x1]
    difference = np.abs(blurred - cv2.GaussianBlur(mapped, (0, 0), 2.0))
    detail = np.abs(blurred - cv2.GaussianBlur(blurred, (0, 0), 6.0))
    slope_x, slope_y = (cv2.Sobel(here, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    for inside in parts:
        if coherence(slope_x[inside], slope_y[inside]) > STRAIGHT:
            continue
        count = int((inside & close).sum())
        deviation = float(np.sqrt(np.square(residual[inside]).mean()))
        ratio = float(np.abs(here - mapped)[inside].mean()) / max(deviation, 0.5)
        coarse = float(difference[inside].mean()) / max(float(detail[inside].mean()), 0.5)
        yield Copy(
            map=hypothesis.map,
            part=inside,
            corner=(x0, y0),
            close=count,
            fine=ratio,
            coarse=coarse,
            support=hypothesis.support,
            score=strength(count, ratio, coarse),
            lettering=count < LETTER and is_lettering(here, np.hypot(slope_x, slope_y) / 8, inside),
        )


def coherence(slope_x: Grey, slope_y: Grey) -> float:
    """How far the gradients of some pixels point one way: 0 = all ways alike, 1 = along one line (or no gradient).

    From the structure tensor's eigenvalues, (λ1 - λ2) / (λ1 + λ2) (Bigün & Granlund 1987). Where it is near 1, a shift
    along the edge can't be seen: the aperture problem.

    Args:
        slope_x: float32 (n,), derivative along the rows.
        slope_y: float32 (n,), derivative down the columns.
    """
    xx, yy = float(np.square(slope_x).mean()), float(np.square(slope_y).mean())
    xy = float((slope_x * slope_y).mean())
    return float(np.hypot(xx - yy, 2 * xy) / (xx + yy)) if xx + yy > 0 else 1.0


def is_lettering(plane: Grey, slope: Grey, part: BoolMask) -> bool:
    """Whether a part looks like drawn letters: much of it quite black or white, or two tones and much of it flat.

    The same letter of one font is the same pixels, wherever it stands: no trace of a copy.

    Args:
        plane: float32 (h, w), 0..255.
        slope: float32 (h, w), length of the gradient, grey levels a pixel.
        part: bool (h, w), its pixels.
    """
    around = cv2.dilate(part.view(np.uint8), np.ones((5, 5), np.uint8)).view(np.bool_)
    values = plane[around]
    if float(((values < 14) | (values > 241)).mean()) > 0.25:
        return True
    flat = float((slope[around] < 1).mean())
    threshold, _ = cv2.threshold(values.astype(np.uint8)[None], 0, 255, cv2.THRESH_OTSU)
    dark = values <= threshold
    if flat <= 0.3 or dark.all() or not dark.any():
        return False
    between = float(dark.mean() * (1 - dark.mean())) * float(values[dark].mean() - values[~dark].mean()) ** 2
    return between > 0.8 * float(values.var())


def _labelled(agrees: BoolMask, close: BoolMask) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Connected parts that agree: int32 (h, w), 0 = none, and the close pixels of each."""
    opened = cv2.morphologyEx(agrees.view(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    count, labels = cv2.connectedComponents(opened, connectivity=8)
    number = np.bincount(labels[close], minlength=count)
    number[0] = 0
    return np.asarray(labels, dtype=np.int32), number


def _parts(agrees: BoolMask, close: BoolMask) -> list[BoolMask]:
    """Connected parts that agree, those with most close pixels first, at most four, none under the least area."""
    labels, number = _labelled(agrees, close)
    largest = np.argsort(-number, kind="stable")[:_PARTS]
    return [labels == part for part in largest if number[part] >= _MIN_AREA]


def _surroundings(marked: BoolMask) -> tuple[slice, slice]:
    """Rows and columns of the marked pixels, with all that the filters of the verification read around them."""
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    return (
        slice(max(0, int(rows[0]) - _REACH), int(rows[-1]) + 1 + _REACH),
        slice(max(0, int(columns[0]) - _REACH), int(columns[-1]) + 1 + _REACH),
    )


def _valid(
    affine: Affine, corner: tuple[int, int], size: tuple[int, int], whole: tuple[int, int], apart: float
) -> BoolMask:
    """Pixels of a window whose source lies inside the picture and far enough away."""
    inverse = cv2.invertAffineTransform(affine).astype(np.float32)
    y = np.arange(corner[1], corner[1] + size[1], dtype=np.float32)[:, None]
    x = np.arange(corner[0], corner[0] + size[0], dtype=np.float32)[None, :]
    from_x, from_y = inverse[0, 0] * x, inverse[1, 1] * y
    # A shift moves each column and each row as one, which is a fraction of the work.
    if not _is_whole_shift(affine):
        from_x, from_y = from_x + inverse[0, 1] * y, inverse[1, 0] * x + from_y
    from_x, from_y = from_x + inverse[0, 2], from_y + inverse[1, 2]
    rim = WINDOW // 2
    inside = ((from_x >= rim) & (from_x < whole[0] - rim)) & ((from_y >= rim) & (from_y < whole[1] - rim))
    return np.asarray(inside & (np.square(from_x - x) + np.square(from_y - y) > apart**2))


def _is_whole_shift(affine: Affine) -> bool:
    return np.array_equal(affine[:, :2], np.eye(2)) and np.array_equal(affine[:, 2], np.rint(affine[:, 2]))


def _correlation(one: Grey, other: Grey, floor: float) -> Grey:
    """Local correlation coefficient over windows of 11×11 pixels; variances under ``floor`` count as that."""

    def mean(values: Grey) -> Grey:
        return np.asarray(cv2.blur(values, (WINDOW, WINDOW)))

    # In place where it can be: at this size arrays cost more to make than to fill.
    first, second, both = mean(one), mean(other), mean(one * other)
    both -= first * second
    for values, level in ((one, first), (other, second)):
        spread = mean(values * values)
        spread -= np.multiply(level, level, out=level)
        np.maximum(spread, floor, out=level)
    both /= np.sqrt(np.multiply(first, second, out=first), out=first)
    return both


class CopyMove:
    """Evidence for a part that was copied within the picture."""

    name, version, cost = "copy_move", "3", "about a second"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence; an empty list for pictures under 128 pixels a side, or flat ones."""
        if too_small(case, SIDE):
            return []
        plane = luma(reduced(case.stored, LIMIT))
        if min(plane.shape) < SIDE or float(plane.std()) < 1:
            return []
        copies = find_copies(plane, *(LARGE_KEYPOINTS if large(case) else ()))
        recompute: dict[str, object] = {
            "version": self.version,
            "size": [int(plane.shape[1]), int(plane.shape[0])],
        }
        if not copies:
            text = f"No part of at least {_MIN_AREA} pixels (at {plane.shape[1]} × {plane.shape[0]}) repeats another."
            return [Evidence(self.name, text, score=0.0, recompute=recompute)]
        shifts = len({copy.shift for copy in copies if copy.score >= FOUND})
        if shifts > SHIFTS:
            text = (
                f"Parts of the picture repeat exactly with {shifts} different shifts, as lettering and graphics do by "
                "themselves; a copied part is not told from them."
            )
            return [Evidence(self.name, text, score=0.0, recompute=recompute | {"shifts": shifts})]
        if all(copy.lettering for copy in copies):
            text = "The parts that repeat exactly are lettering or line art, which does so by itself."
            return [Evidence(self.name, text, score=0.0, recompute=recompute | {"letters": len(copies)})]
        copies = [copy for copy in copies if not copy.lettering]
        best = copies[0]
        recompute["map"] = [[round(float(value), 4) for value in row] for row in best.map]
        measured = f"{best.close:,} pixels agree closely, difference {best.fine:.2f} of the fine detail"
        if best.score < FOUND:
            text = (
                f"The parts most alike score {best.score:.2f}, where {FOUND:.2f} marks a copy ({measured})."
            )
            return [Evidence(self.name, text, score=best.score, recompute=recompute)]
        strong = [copy for copy in copies if copy.score >= max(FOUND, best.score / 3)]
        marked = np.any([copy.marked(*plane.shape) for copy in strong], axis=0)
        turn = float(np.degrees(np.arctan2(best.map[1, 0], best.map[0, 0])))
        scale = float(np.sqrt(np.linalg.det(best.map[:, :2])))
        how = (
            "shifted"
            if abs(turn) < 1 and abs(scale - 1) < 0.02
            else f"turned {turn:.0f}°, scaled {scale:.2f}"
        )
        text = f"A part of the picture is a copy of another part ({how}; {measured})."
        shown = heatmap(upright(marked.astype(np.float32), case.orientation), 0, 1)
        return [
            Evidence(
                self.name,
                text,
                score=best.score,
                region=_region(upright(marked, case.orientation), case),
                heatmap=shown,
                recompute=recompute,
            )
        ]


def _region(marked: BoolMask, case: CaseImage) -> Region:
    """Source and copy together, as one region in upright pixels."""
    size = (case.width, case.height)
    mask = cv2.resize(marked.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(np.bool_)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Region(Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1), mask)
