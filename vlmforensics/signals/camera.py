"""Camera EXIF: how complete it is, and whether it agrees with the picture.

Such fields are trivially copied or forged, so they are close to no evidence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from vlmforensics.signals.wording import count, quote
from vlmforensics.types import CaseImage, Evidence

CODES = ("camera-consistent", "camera-inconsistent", "camera-stub")
"""Outcomes: complete and in agreement with the picture; complete, but sizes or values disagree; a few fields only."""

_EXPOSURE = ("ExposureTime", "FNumber", "ISOSpeedRatings", "FocalLength", "DateTimeOriginal")
_OTHER = (
    "LensModel",
    "MakerNote",
    "ShutterSpeedValue",
    "ApertureValue",
    "MeteringMode",
    "Flash",
    "WhiteBalance",
    "ExposureProgram",
    "ExposureBiasValue",
)
# Plausible ranges of numbers, in s, f-number, ISO and mm; far wider than any camera.
_RANGES = {
    "ExposureTime": (1e-7, 1e4),
    "FNumber": (0.3, 200),
    "ISOSpeedRatings": (1, 1e7),
    "FocalLength": (0.1, 1e4),
}
_ALIASES = {"ISOSpeedRatings": ("ISOSpeedRatings", "PhotographicSensitivity", "ISO")}


def _get(exif: Mapping[str, str], name: str) -> str:
    """A field's text, whether it stands in the Exif directory or the main one."""
    for alias in _ALIASES.get(name, (name,)):
        value = exif.get(f"Exif:{alias}") or exif.get(alias)
        if value and value.strip():
            return value.strip()
    return ""


def _number(text: str) -> float | None:
    match = re.match(r"(\d{1,12}(?:\.\d{1,12})?)(?:\s?/\s?(\d{1,12}))?(?:e([+-]\d{1,2}))?", text)
    if not match:
        return None
    value = float(match.group(1)) / (
        float(match.group(2)) if match.group(2) and float(match.group(2)) else 1.0
    )
    return value * 10.0 ** int(match.group(3)) if match.group(3) else value


def contradictions(exif: Mapping[str, str], width: int, height: int) -> list[str]:
    """List what in the EXIF disagrees with itself or the picture.

    Args:
        exif: tag → text as in ``Container.exif``.
        width: stored width in pixels.
        height: stored height in pixels.
    """
    found = []
    for name, (low, high) in _RANGES.items():
        value = _number(_get(exif, name)) if _get(exif, name) else None
        if _get(exif, name) and (value is None or not low <= value <= high):
            found.append(f"{name} is {quote(_get(exif, name), 24)}")
    across = _number(_get(exif, "ExifImageWidth") or _get(exif, "PixelXDimension"))
    down = _number(_get(exif, "ExifImageHeight") or _get(exif, "PixelYDimension"))
    if across and down and {int(across), int(down)} != {width, height}:
        found.append(f"it gives {int(across)} × {int(down)} pixels where the picture has {width} × {height}")
    date = _get(exif, "DateTimeOriginal")
    if date and not re.match(r"(?:18|19|20)\d\d[:\-](?:0[1-9]|1[0-2])[:\-](?:0[1-9]|[12]\d|3[01])", date):
        found.append(f"its date is {quote(date, 24)}")
    return found


class CameraExif:
    """Evidence from the camera's EXIF fields; none where neither make nor model nor exposure is given."""

    name, version, cost = "camera_exif", "1", "milliseconds"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence, or an empty list where there is no camera EXIF."""
        exif = case.container.exif
        make, model = _get(exif, "Make"), _get(exif, "Model")
        exposure = sum(bool(_get(exif, name)) for name in _EXPOSURE)
        others = sum(bool(_get(exif, name)) for name in _OTHER)
        if not (make or model or exposure):
            return []
        present = bool(make) + bool(model) + exposure + others
        total = 2 + len(_EXPOSURE) + len(_OTHER)
        height, width = case.stored.shape[:2]
        wrong = contradictions(exif, width, height)
        if not (make and model and exposure >= 3):
            code = "camera-stub"
        else:
            code = "camera-inconsistent" if wrong else "camera-consistent"
        text = f"{present} of {count(total, 'camera EXIF field')} are filled in"
        text += f" (make {quote(make or 'none', 32)}, model {quote(model or 'none', 32)})"
        text += f", but {'; '.join(wrong[:3])}" if wrong else ", and nothing in them contradicts the picture"
        text += "; such fields are trivially copied or forged, so they are close to no evidence."
        recompute = {"version": self.version, "present": present, "contradictions": len(wrong)}
        return [Evidence(self.name, text, code=code, recompute=recompute)]
