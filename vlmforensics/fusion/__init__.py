"""The judge: calibrated, additive, able to abstain. Numbers in, verdict out; it never sees pixels or text.

``judge`` weighs evidence by a frozen ``Calibration``; ``fit_calibration`` makes one from labelled examples.
"""

from vlmforensics.fusion.calibration import Calibration, Guarantee, SourceCalibration
from vlmforensics.fusion.fit import Example, Reading, fit_calibration
from vlmforensics.fusion.gates import DistanceGate, Gate, pixel_gates
from vlmforensics.fusion.judge import MASK_NOTICEABLE, judge, mask_agreement

__all__ = [
    "MASK_NOTICEABLE",
    "Calibration",
    "DistanceGate",
    "Example",
    "Gate",
    "Guarantee",
    "Reading",
    "SourceCalibration",
    "fit_calibration",
    "judge",
    "mask_agreement",
    "pixel_gates",
]
