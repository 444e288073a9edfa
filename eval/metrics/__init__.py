"""Metrics of the published protocols and of forensic practice, by well-kept libraries where they have them.

Conventions: ``truth`` and ``score`` are (n,) arrays; a higher score speaks for the positive class; ``labels`` are
indices into ``types.LABELS``; probabilities are (n, 3). A figure that is not defined for the data (one class only,
nothing decided) is ``nan``, never a guess.
"""

from vlmforensics.eval.metrics.detection import (
    accuracy,
    average_precision,
    balanced_accuracy,
    confusion,
    det_points,
    equal_error_rate,
    f1,
    macro_f1,
    roc_auc,
    roc_points,
    tpr_at_fpr,
)
from vlmforensics.eval.metrics.intervals import (
    auc_of,
    balanced_of,
    bootstrap,
    clopper_pearson,
    draws,
    interval,
    mean_of,
    share,
)
from vlmforensics.eval.metrics.pixels import PixelFigures, pixel_figures
from vlmforensics.eval.metrics.probability import brier, cllr, expected_calibration_error, min_cllr
from vlmforensics.eval.metrics.selective import aurc, false_accusations, risk_coverage
from vlmforensics.eval.metrics.words import Encoder, css, published_label, rouge_l

__all__ = [
    "Encoder",
    "PixelFigures",
    "accuracy",
    "auc_of",
    "aurc",
    "average_precision",
    "balanced_accuracy",
    "balanced_of",
    "bootstrap",
    "brier",
    "cllr",
    "clopper_pearson",
    "confusion",
    "css",
    "det_points",
    "draws",
    "equal_error_rate",
    "expected_calibration_error",
    "f1",
    "false_accusations",
    "interval",
    "macro_f1",
    "mean_of",
    "min_cllr",
    "pixel_figures",
    "published_label",
    "risk_coverage",
    "roc_auc",
    "roc_points",
    "rouge_l",
    "share",
    "tpr_at_fpr",
]
