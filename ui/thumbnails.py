"""The preview that a camera stores inside its file: editors often leave it as it was before the edit."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmforensics import imaging
from vlmforensics.errors import InputError
from vlmforensics.settings import Settings
from vlmforensics.types import CaseImage, Pixels
from vlmforensics.ui.language import ENGLISH, Words
from vlmforensics.ui.words import escape

AGREES = 0.9
"""Correlation of luma from which preview and picture show the same. Re-encoded and re-scaled previews of untouched
pictures stay above 0.95; a preview of another crop or scene falls far below."""
_LEAST = 24


@dataclass(frozen=True, eq=False)
class Preview:
    """The embedded thumbnail, and the picture reduced to its size.

    Attributes:
        embedded: uint8 (h, w, 3), black borders cut off.
        picture: the same size.
        correlation: of their luma, −1..1.
    """

    embedded: Pixels
    picture: Pixels
    correlation: float

    @property
    def agrees(self) -> bool:
        """True where both show the same."""
        return self.correlation >= AGREES


def preview(case: CaseImage, settings: Settings) -> Preview | None:
    """Compare the embedded thumbnail with the picture, or None where there is none that can be read."""
    data = case.container.thumbnail
    if not data:
        return None
    try:
        embedded = imaging.open_case(data, file="thumbnail", settings=settings).stored
    except InputError:
        return None
    embedded = _without_borders(embedded)
    height, width = embedded.shape[:2]
    if min(height, width) < _LEAST:
        return None
    picture = imaging.resize(case.stored, width, height, resample="box")
    return Preview(embedded, picture, _correlation(_luma(embedded), _luma(picture)))


def comparison(found: Preview | None, t: Words = ENGLISH) -> str:
    """Both side by side where they disagree; a sentence otherwise."""
    if found is None:
        return f"<p>{escape(t('The file holds no preview that can be read.'))}</p>"
    said = f"{found.correlation:.2f}"
    if found.agrees:
        same = t("The preview inside the file shows the same as the picture (correlation {said}).", said=said)
        return f"<p>{escape(same)}</p>"
    differ = t(
        "The preview inside the file does not show what the picture shows (correlation {said}). It may be from before "
        "an edit or a crop; or a program wrote a wrong one.",
        said=said,
    )
    figures = "".join(
        f'<figure><img src="data:image/png;base64,{base64.b64encode(imaging.to_png(pixels)).decode()}" '
        f'alt="{escape(name)}"><figcaption>{escape(name)}</figcaption></figure>'
        for pixels, name in (
            (found.embedded, t("Preview inside the file")),
            (found.picture, t("The picture, reduced")),
        )
    )
    return f'<p role="note">{escape(differ)}</p><div class="vf-previews">{figures}</div>'


def _without_borders(pixels: Pixels) -> Pixels:
    """Cameras fit any picture into 160 × 120 and fill the rest with black."""
    lit = _luma(pixels) > 12
    rows, columns = np.flatnonzero(lit.mean(axis=1) > 0.02), np.flatnonzero(lit.mean(axis=0) > 0.02)
    if len(rows) < _LEAST or len(columns) < _LEAST:
        return pixels
    return np.ascontiguousarray(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _luma(pixels: Pixels) -> NDArray[np.float32]:
    return pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    a, b = first - first.mean(), second - second.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size > 1e-6 else 1.0
