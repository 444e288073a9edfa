"""Origin of a JPEG's quantisation tables: libjpeg's standard tables, known variants, or a maker's own.

Cameras and Adobe's programs use tables of their own; most libraries, phones' apps and web services use the
standard's, scaled by a quality (Farid 2008, Digital Image Ballistics from JPEG Quantization). Software that is not a
camera can use either, so this says how a file was last saved, and little about what it shows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlmforensics.signals.blocks import luma_table, nearest_quality
from vlmforensics.types import CaseImage, Evidence

CODES = ("libjpeg-standard", "libjpeg-luma-only", "robidoux", "flat", "adobe-own", "own")
"""Outcomes: standard tables; standard luma with other chroma; MozJPEG's default base (N. Robidoux); all steps equal;
own tables with Adobe's marker; own tables otherwise (cameras, phones, some services)."""

# MozJPEG's default base table (jcparam.c, index 3).
_ROBIDOUX = np.array(
    [
        16, 16, 16, 18, 25, 37, 56, 85, 16, 17, 20, 27, 34, 40, 53, 75, 16, 20, 24, 31, 43, 62, 91, 135, 18, 27, 31,
        40, 53, 74, 106, 156, 25, 34, 43, 53, 69, 94, 131, 189, 37, 40, 62, 74, 94, 124, 169, 238, 56, 53, 91, 106,
        131, 169, 226, 311, 85, 75, 135, 156, 189, 238, 311, 418,
    ],
    dtype=np.int32,
).reshape(8, 8)  # fmt: skip


def _robidoux_quality(table: NDArray[np.int32]) -> int | None:
    """The quality at which MozJPEG writes exactly this table, or None."""
    for quality in range(1, 101):
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        if np.array_equal(np.clip((_ROBIDOUX * scale + 50) // 100, 1, 255), table):
            return quality
    return None


class JpegTables:
    """Evidence from the quantisation tables; JPEG only."""

    name, version, cost = "jpeg_tables", "1", "milliseconds"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence with the origin as code, or an empty list for what is no JPEG."""
        table, jpeg = luma_table(case.container), case.container.jpeg
        if table is None or jpeg is None or table.shape != (8, 8):
            return []
        quality, distance = nearest_quality(table)
        others = [np.asarray(jpeg.quant_tables[key]) for key in sorted(jpeg.quant_tables)[1:]]
        if distance == 0:
            same = all(nearest_quality(other, chroma=True) == (quality, 0.0) for other in others)
            code = "libjpeg-standard" if same else "libjpeg-luma-only"
            text = f"Luma is quantised with the standard's table at quality {quality}"
            text += ", as most libraries and web services write" if same else ", chroma with another table"
        elif (mozjpeg := _robidoux_quality(table)) is not None:
            code, text = "robidoux", f"Luma is quantised with MozJPEG's default table at quality {mozjpeg}"
        elif int(table.min()) == int(table.max()):
            code, text = "flat", f"Luma is quantised with one step of {int(table[0, 0])} for all frequencies"
        else:
            code = "adobe-own" if "APP14" in jpeg.markers else "own"
            whose = "with Adobe's marker" if code == "adobe-own" else "as cameras, phones and editors have"
            text = f"Luma is quantised with a table of its own ({whose})"
            text += f", {distance:.1f} steps on average from the standard's at quality {quality}"
        text += f"; subsampling {jpeg.subsampling}{', progressive' if jpeg.progressive else ''}."
        recompute = {"version": self.version, "quality": quality, "distance": round(distance, 4)}
        return [Evidence(self.name, text, code=code, recompute=recompute)]
