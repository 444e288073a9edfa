"""How good masks are (pixel F1, IoU, AUC, false area, presence AUC), and how logits are calibrated.

Definitions follow IMDL-BenCo: F1 and IoU are taken per tampered picture and averaged, "fixed" at one
threshold for all pictures, "best" at each picture's own best threshold (an upper bound that nobody has in
use). Maps are never inverted and no border pixels are left out.

References:
    Ma et al. 2024, "IMDL-BenCo: A Comprehensive Benchmark and Codebase for Image Manipulation Detection".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from vlmforensics.masks.regions import PixelCalibration, find_regions, to_mask, top_logit, with_places
from vlmforensics.types import BoolMask, Grey, Mask

BINS = 512
"""Resolution of probabilities in threshold sweeps and pixel AUC."""
SMALLEST_SHARE = 0.005
"""Share of the picture below which a region is a speck: the locator sees 21 × 21 patches, and this is two of them."""
MOST_FALSE_AREA = 0.007
"""Mean share of an untouched photograph that may be marked when the threshold is chosen: below the aim of 1 %, for some
fifty pictures choose it (at 0.8 %, photographs of unseen sources were marked on 1.04 %)."""


@dataclass(frozen=True, eq=False)
class Scored:
    """What the network said about one picture with a known mask.

    Attributes:
        logits: float16 (s, s), square frame.
        presence: logit.
        truth: bool (H, W).
        kind: the manipulation, or ``untouched``.
        source: where the picture comes from.
        places: bool (H, W), what signals name (see ``assistant.marking``), or None.
    """

    logits: NDArray[np.float16]
    presence: float
    truth: BoolMask
    kind: str
    source: str
    places: BoolMask | None = None

    @property
    def tampered(self) -> bool:
        """True where anything was changed."""
        return bool(self.truth.any())

    def mask(self, calibration: PixelCalibration) -> Mask:
        """The mask at the picture's own size, with the places that signals name, as the assistant shows it."""
        own = self.own_mask(calibration)
        return own if self.places is None else with_places(own, [self.places])

    def own_mask(self, calibration: PixelCalibration) -> Mask:
        """The head's mask alone."""
        height, width = self.truth.shape
        return to_mask(self.logits.astype(np.float32), self.presence, width, height, calibration)


def f1_and_iou(marked: BoolMask, truth: BoolMask) -> tuple[float, float]:
    """Pixel F1 and intersection over union; both 0 where nothing overlaps."""
    hit = int((marked & truth).sum())
    both = int(marked.sum()) + int(truth.sum())
    return (2 * hit / both, hit / (both - hit)) if hit else (0.0, 0.0)


def _histograms(soft: Grey, truth: BoolMask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts of tampered and untouched pixels per probability bin, from the highest bin down, cumulated."""
    bins = np.minimum((soft * BINS).astype(np.int64), BINS - 1)
    inside = np.bincount(bins[truth], minlength=BINS)[::-1]
    outside = np.bincount(bins[~truth], minlength=BINS)[::-1]
    return np.cumsum(inside), np.cumsum(outside)


def best_f1(soft: Grey, truth: BoolMask) -> float:
    """Highest F1 over all thresholds (``soft`` in [0, 1], ``truth`` not empty)."""
    hits, false = _histograms(soft, truth)
    return float((2 * hits / (hits + false + hits[-1])).max())


def pixel_auc(soft: Grey, truth: BoolMask) -> float:
    """Area under the ROC curve of the pixels of one picture; ``nan`` where only one class is there."""
    hits, false = _histograms(soft, truth)
    if not hits[-1] or not false[-1]:
        return float("nan")
    rise, run = np.concatenate([[0], hits / hits[-1]]), np.concatenate([[0], false / false[-1]])
    return float(np.trapezoid(rise, run))


def rank_auc(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """Probability that a positive outscores a negative (ties count half); ``nan`` without both."""
    values, labels = np.asarray(scores, np.float64), np.asarray(positive, np.bool_)
    above, below = values[labels], np.sort(values[~labels])
    if not len(above) or not len(below):
        return float("nan")
    left, right = np.searchsorted(below, above, "left"), np.searchsorted(below, above, "right")
    return float(((left + right) / 2).mean() / len(below))


def interval(values: Sequence[float], seed: int = 0) -> list[float]:
    """95 % bootstrap interval of the mean (2,000 resamples)."""
    array = np.asarray([value for value in values if np.isfinite(value)], np.float64)
    if not len(array):
        return [float("nan"), float("nan")]
    picks = np.random.default_rng(seed).integers(len(array), size=(2000, len(array)))
    return [round(float(bound), 4) for bound in np.percentile(array[picks].mean(axis=1), [2.5, 97.5])]


def localisation(pairs: Sequence[tuple[Grey, BoolMask, BoolMask]]) -> dict[str, Any]:
    """Means over tampered pictures, each given as (soft map, binary mask, truth)."""
    fixed, best, ious, aucs = [], [], [], []
    for soft, marked, truth in pairs:
        f1, iou = f1_and_iou(marked, truth)
        fixed.append(f1)
        ious.append(iou)
        best.append(best_f1(soft, truth))
        aucs.append(pixel_auc(soft, truth))
    return {
        "n": len(pairs),
        "f1_fixed": _mean(fixed),
        "f1_fixed_interval": interval(fixed),
        "f1_best": _mean(best),
        "iou": _mean(ious),
        "pixel_auc": _mean(aucs),
    }


def false_area(marked: Sequence[BoolMask]) -> dict[str, Any]:
    """What is marked on untouched pictures: mean share, and share of pictures with any region."""
    shares = [float(mask.mean()) for mask in marked]
    return {
        "n": len(shares),
        "mean_area": _mean(shares),
        "mean_area_interval": interval(shares),
        "any_region": _mean([float(share > 0) for share in shares]),
    }


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return round(float(np.mean(finite)), 4) if finite else float("nan")


def summarise(scored: Sequence[Scored], calibration: PixelCalibration) -> dict[str, Any]:
    """All figures of a set of pictures: localisation in whole and by kind, false area, presence AUC."""
    masks = [item.mask(calibration) for item in scored]
    both = list(zip(scored, masks, strict=True))
    pairs = [(item.kind, (mask.soft, mask.binary, item.truth)) for item, mask in both if item.tampered]
    untouched = [mask.binary for item, mask in both if not item.tampered]
    found: dict[str, Any] = {
        "tampered": localisation([pair for _, pair in pairs]),
        "by_kind": {
            kind: localisation([pair for name, pair in pairs if name == kind])
            for kind in sorted({name for name, _ in pairs})
        },
    }
    if untouched:
        found["untouched"] = false_area(untouched)
        found["presence_auc"] = round(
            rank_auc([mask.presence or 0.0 for mask in masks], [item.tampered for item in scored]), 4
        )
    return found


def calibrate(scored: Sequence[Scored], seed: int = 0, pixels: int = 400) -> PixelCalibration:
    """Fit the pixel and picture calibration, then choose the threshold.

    Pixel probabilities are calibrated for the mixture of ``scored`` (half of its pictures untouched). The
    threshold gives the highest mean F1 among those that mark at most ``MOST_FALSE_AREA`` of an untouched
    picture on average.

    Args:
        scored: pictures that training has not seen.
        seed: of the pixels that are drawn.
        pixels: drawn per picture.
    """
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    for item in scored:
        height, width = item.truth.shape
        y, x = rng.integers(height, size=pixels), rng.integers(width, size=pixels)
        side = item.logits.shape[0]
        logits = item.logits[(y * side) // height, (x * side) // width].astype(np.float64)
        rows.append(np.stack([logits, np.full(pixels, item.presence), np.ones(pixels)], axis=1))
        labels.append(item.truth[y, x])
    slope, presence, bias = _logistic(np.concatenate(rows), np.concatenate(labels))
    whole = np.array([[item.presence, top_logit(item.logits.astype(np.float32)), 1.0] for item in scored])
    head, top, constant = _logistic(whole, np.array([item.tampered for item in scored]))
    fitted = PixelCalibration(
        slope=max(slope, 1e-3),
        presence=presence,
        bias=bias,
        presence_slope=head,
        presence_top=top,
        presence_bias=constant,
        smallest_share=SMALLEST_SHARE,
    )
    return replace(fitted, threshold=choose_threshold(scored, fitted))


def choose_threshold(scored: Sequence[Scored], calibration: PixelCalibration) -> float:
    """The threshold of highest mean F1 within the bound on false area (the strictest one where none is).

    What signals name does not count here: it does not depend on the threshold.
    """
    best, chosen = -1.0, 0.95
    softs = [(item, item.own_mask(calibration).soft) for item in scored]
    for threshold in np.round(np.arange(0.05, 0.96, 0.025), 3):
        marked = [
            (item, find_regions(soft, threshold, calibration.smallest_share)[0]) for item, soft in softs
        ]
        false = [float(mask.mean()) for item, mask in marked if not item.tampered]
        f1 = float(np.mean([f1_and_iou(mask, item.truth)[0] for item, mask in marked if item.tampered]))
        if np.mean(false or [0.0]) <= MOST_FALSE_AREA and f1 > best:
            best, chosen = f1, float(threshold)
    return chosen


def _logistic(features: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[float, ...]:
    """Non-negative slopes and the constant (last column) of a logistic regression with a faint ridge."""
    signs = np.where(labels, 1.0, -1.0)

    def cost(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins = signs * (features @ weights)
        gradient = -(features * (signs * expit(-margins))[:, None]).mean(axis=0) + 1e-4 * weights
        return float(np.logaddexp(0, -margins).mean() + 5e-5 * weights @ weights), gradient

    # A negative slope would turn a trace into its opposite: what has not been learnt counts for nothing instead.
    bounds = [(0.0, None)] * (features.shape[1] - 1) + [(None, None)]
    found = minimize(cost, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds)
    return tuple(round(float(value), 5) for value in found.x)
