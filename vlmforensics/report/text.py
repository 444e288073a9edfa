"""Words of a report: what each label means for a reader, what is not known, and how hostile text is shown.

The same wording is used by the page, the Markdown and the terminal, so that a verdict reads alike everywhere.
"""

from __future__ import annotations

import platform
import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vlmforensics.types import VerdictLabel

HEADLINES: Mapping[VerdictLabel, str] = {
    "real": "No sign of manipulation found",
    "synthetic": "The evidence supports: wholly generated",
    "tampered": "The evidence supports: partly edited",
    "inconclusive": "Inconclusive",
}
"""One line per verdict. ``real`` is never worded as "authentic": absence of evidence is what was measured."""

MEANINGS: Mapping[str, str] = {
    "real": "no sign of manipulation",
    "synthetic": "wholly generated",
    "tampered": "partly edited",
}
"""The three alternatives, as a reader would name them."""

LIMITS: tuple[str, ...] = (
    "No sign of manipulation is no proof of authenticity: a method that finds nothing may have been evaded.",
    "A true picture with a false caption, a staged scene or a photographed screen passes as a photograph.",
    "Generators and editors newer than the calibration material may leave traces that no source here knows.",
    "Small, cropped, blurred or repeatedly recompressed pictures lose the traces that most sources read.",
    "Missing metadata says next to nothing, and present camera metadata is trivially forged.",
    "The probabilities hold for pictures like the calibration material, not for this picture by itself.",
    "The written explanation is checked against the evidence, but it decides nothing.",
)

ALTERNATIVES: tuple[str, ...] = (
    "Recompression and resizing by a messaging app, a social network or a content-management system.",
    "Ordinary development: denoising, sharpening, tone mapping, lens correction, stacked exposures.",
    "Portrait modes, beauty filters, upscaling and other on-device neural processing.",
    "Scans, screenshots and photographs of prints or screens.",
    "A real picture passed through a generator's autoencoder, or drawn over with text, logos and frames.",
)

NEXT_STEPS: tuple[str, ...] = (
    "Search for earlier or larger copies, and examine the earliest file that can be had.",
    "Ask the source for the original file from the device, and for neighbouring frames.",
    "Check place, date, weather and shadows against independent records.",
)

PACKAGES: tuple[str, ...] = (
    "vlmforensics", "numpy", "scipy", "pillow", "opencv-python-headless", "scikit-image", "torch",
    "transformers", "peft",
)  # fmt: skip
CITATION = re.compile(r"\[(E[1-9][0-9]*(?:\s*[,;]\s*E[1-9][0-9]*)*)\]")


def printable(text: str, limit: int = 2000) -> str:
    """Text that came from a file, made safe to show: one line, controls and bidirectional marks as escapes.

    Args:
        text: any string, surrogates included (names that are not valid UTF-8).
        limit: characters kept; longer text ends with an ellipsis.
    """
    shown = "".join(_visible(character) for character in text[: limit + 1])
    return shown if len(text) <= limit else shown[:limit] + "…"


def _visible(character: str) -> str:
    # Cc controls, Cf bidi and zero-width formats, Cs lone surrogates, Co private use, Zl/Zp line separators
    if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
        return character.encode("unicode_escape", "backslashreplace").decode("ascii")
    return character


def percent(value: float) -> str:
    """A probability for readers: ``93 %``, ``<1 %`` and ``>99 %`` at the ends, never a false 0 or 100."""
    if value < 0.01:
        return "<1\u00a0%"
    if value > 0.99:
        return ">99\u00a0%"
    return f"{100 * value:.0f}\u00a0%"


def byte_size(count: int) -> str:
    """``1,234,567 bytes (1.2 MiB)``."""
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count:,} bytes ({count / size:.1f} {unit})"
    return f"{count:,} bytes"


def error_rate(reliability: Mapping[str, Any] | None) -> str:
    """The source's known error rate with interval and n (a record's ``reliability``), or that it has none."""
    if reliability is None:
        return "not measured"
    wrong, low, high = (100 * (1 - reliability[name]) for name in ("balanced_accuracy", "high", "low"))
    return f"{wrong:.0f} % ({low:.0f}–{high:.0f} %), n = {reliability['n']}"


def split_citations(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Split text at its citations: yields (plain text, ()) and (citation as written, ids) in order."""
    at = 0
    for found in CITATION.finditer(text):
        if found.start() > at:
            yield text[at : found.start()], ()
        yield found.group(0), tuple(re.findall(r"E[0-9]+", found.group(1)))
        at = found.end()
    if at < len(text):
        yield text[at:], ()


@cache
def software() -> Mapping[str, str]:
    """Installed versions of what computed the numbers; nothing is imported to find out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
