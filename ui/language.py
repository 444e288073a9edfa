"""The page's languages: English in the code, others in ``static/language-CODE.toml``, which maps English to the other.

Findings and explanations are written by the engine, in English; the page marks them so for screen readers.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

LANGUAGES: Mapping[str, str] = {"en": "English", "de": "Deutsch"}
FOLDER = Path(__file__).parent / "static"


@dataclass(frozen=True, eq=False)
class Words:
    """One language: call it with an English text and the values of its fields.

    Attributes:
        code: of the language, e.g. ``de``.
        table: English → this language; a text that is missing stays English.
    """

    code: str = "en"
    table: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, text: str, **values: object) -> str:
        """The text in this language; ``{name}`` is replaced by the value of that name."""
        said = self.table.get(text, text)
        return said.format(**values) if values else said


ENGLISH = Words()


@cache
def words(code: str) -> Words:
    """The language of a code; English for any other code."""
    if code not in LANGUAGES or code == "en":
        return ENGLISH
    with (FOLDER / f"language-{code}.toml").open("rb") as stream:
        return Words(code, tomllib.load(stream)["words"])


def preferred(wanted: str | None, accepted: str | None) -> str:
    """The language to begin with.

    Args:
        wanted: of the address (``?lang=de``), or None.
        accepted: the browser's ``Accept-Language``, or None.
    """
    if wanted in LANGUAGES:
        return str(wanted)
    ranked = []
    for part in (accepted or "").split(","):
        name, _, quality = part.strip().partition(";q=")
        ranked.append((-_number(quality), name.split("-")[0].lower()))
    return next((name for _, name in sorted(ranked, key=lambda pair: pair[0]) if name in LANGUAGES), "en")


def _number(text: str) -> float:
    try:
        return float(text) if text else 1.0
    except ValueError:
        return 0.0
