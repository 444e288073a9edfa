"""An example evidence source: even borders, as screenshots and social media leave them."""

from __future__ import annotations

import numpy as np

from vlmforensics.types import CaseImage, Evidence


class EvenBorder:
    """Rows and columns of one colour around the picture."""

    name = (
        "even_border"  # stable, lower case, unlike every other source's: reports and calibrations refer to it
    )
    version = "1"  # counts up when the number changes for one and the same picture
    cost = "milliseconds"  # "network" only where a neural network runs: such sources take turns

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence with the width of the border; an empty list for pictures under 16 pixels a side."""
        pixels = (
            case.upright
        )  # uint8 (H, W, 3) as shown, read-only; case.stored is unrotated, on the JPEG grid
        if min(pixels.shape[:2]) < 16:
            return []  # "does not apply" is an empty list, never an exception and never a score of 0
        widths = [
            _even(view)
            for view in (pixels, pixels[::-1], pixels.swapaxes(0, 1), pixels[:, ::-1].swapaxes(0, 1))
        ]
        text = "The picture's even border is {} pixels at the top, {} at the bottom, {} left and {} right.".format(
            *widths
        )
        return [
            Evidence(
                source=self.name,
                statement=text,  # one measured fact with its number, ending in a full stop
                score=float(max(widths)),  # raw; higher = less like an untouched photograph
                recompute={"version": self.version},
            )
        ]


def _even(rows: np.ndarray) -> int:
    """Number of leading rows of one colour."""
    uneven = np.ptp(rows.reshape(rows.shape[0], -1, 3), axis=1).max(axis=1) > 2
    return int(np.argmax(uneven)) if uneven.any() else rows.shape[0]
