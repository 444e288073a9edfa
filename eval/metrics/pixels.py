"""How well a mask covers what was tampered with: IMDL-BenCo's definitions, and TruFor's rule as an option."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from vlmforensics.errors import Defect
from vlmforensics.finetune.mask_metrics import best_f1, f1_and_iou, pixel_auc
from vlmforensics.types import BoolMask, Grey

BORDER = 15
"""Width in pixels of the square that grows and shrinks the truth under TruFor's rule."""


@dataclass(frozen=True)
class PixelFigures:
    """Of one tampered picture, each in [0, 1]: at the given mask, and over all thresholds of the soft map."""

    f1: float
    iou: float
    best_f1: float
    auc: float


def pixel_figures(
    marked: BoolMask, truth: BoolMask, soft: Grey | None = None, *, trufor: bool = False
) -> PixelFigures:
    """Measure one picture.

    Args:
        marked: bool (H, W), what the model marked.
        truth: bool (H, W), not empty.
        soft: float32 (H, W) in [0, 1], the map before the threshold; None takes ``marked`` for it.
        trufor: leave out pixels near the truth's border (15 × 15 dilation against erosion), and take the better of the
            map and its inverse. Published TruFor figures do both, which raises them; ours are plain unless said.

    References:
        Ma et al. 2024, IMDL-BenCo; Guillaro et al. 2023, TruFor (test code).
    """
    if marked.shape != truth.shape:
        raise Defect(f"a mask of {marked.shape} can't be compared with one of {truth.shape}")
    grey = marked.astype(np.float32) if soft is None else soft
    if not trufor:
        return _plain(marked, truth, grey)
    sure = minimum_filter(truth, BORDER) | ~maximum_filter(truth, BORDER)
    kept = (marked[sure], truth[sure], grey[sure])
    if not kept[1].any():  # the whole region is border
        return _plain(marked, truth, grey)
    straight, inverse = _plain(*kept), _plain(~kept[0], kept[1], 1 - kept[2])
    return PixelFigures(
        *(max(a, b) for a, b in zip(vars(straight).values(), vars(inverse).values(), strict=True))
    )


def _plain(marked: BoolMask, truth: BoolMask, soft: Grey) -> PixelFigures:
    f1, iou = f1_and_iou(marked, truth)
    return PixelFigures(f1, iou, best_f1(soft, truth), pixel_auc(soft, truth))
