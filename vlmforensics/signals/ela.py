"""Error level analysis, as a picture only.

Saving again and subtracting shows how far each block is from what one more compression would leave. It shows edges and
saturated colours more than editing, has no scale and no error rate, and is therefore no evidence here: nothing is
scored, nothing is judged. It is offered because examiners know it and ask for it.

Reference: Krawetz 2007, A Picture's Worth: Digital Image Analysis and Forensics.
"""

from __future__ import annotations

import numpy as np

from vlmforensics.imaging import decode_trusted, encode
from vlmforensics.signals.maps import upright
from vlmforensics.types import CaseImage, Pixels

QUALITY = 90
"""JPEG quality of the second save."""
GAIN = 20
"""Factor by which the difference is brightened for the eye."""


def error_levels(case: CaseImage, quality: int = QUALITY, gain: int = GAIN) -> Pixels:
    """Draw the error levels of a case.

    Args:
        case: of any format.
        quality: of the second save, 1..100.
        gain: the difference is multiplied by it.

    Returns:
        uint8 (H, W, 3), upright frame: absolute difference of each channel, brightened and clipped.
    """
    again = decode_trusted(encode(case.stored, "JPEG", quality=quality, subsampling="4:4:4"))
    difference = np.abs(case.stored.astype(np.int16) - again) * gain
    drawn = np.minimum(difference, 255).astype(np.uint8)
    return np.stack([upright(drawn[..., channel], case.orientation) for channel in range(3)], axis=-1)
