"""Languages: every text of the page has its German, with the same fields; nothing of the visitor's is translated."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the ui extra is not installed")

import vlmforensics.ui
from vlmforensics.report.text import LIMITS
from vlmforensics.strength import VERBAL_SCALE
from vlmforensics.ui import cards, compare, layout, options, words
from vlmforensics.ui.app import STOPPED, WAITING
from vlmforensics.ui.language import LANGUAGES, preferred
from vlmforensics.ui.language import words as language

ROOM = Path(vlmforensics.ui.__file__).parent


def texts():
    """Every English text that the page may translate: arguments of ``t`` and ``label``, and the tables of words."""
    found = set()
    for file in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name == "t" and node.args and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
            if name in {"label", "labels"}:
                found.update(k.value.value for k in node.keywords if isinstance(k.value, ast.Constant))
    tables = (words.TITLES, words.LABEL_NAMES, words.SUMMARIES, words.SOURCES, words.STAGES)
    found.update(text for table in tables for text in table.values())
    found.update(text for pair in options.MODELS.values() for text in pair)
    found.update((*LIMITS, *layout.QUESTIONS, *(name for name, _ in layout.EXAMPLES)))
    found.update(text for _, text in VERBAL_SCALE)
    return found | {WAITING, STOPPED, compare.QUESTION}


def fields(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)


@pytest.mark.parametrize("code", [code for code in LANGUAGES if code != "en"])
def test_every_text_is_translated_and_keeps_its_fields(code):
    table = language(code).table
    missing = sorted(text for text in texts() if text not in table)
    assert missing == []
    for english, other in table.items():
        assert fields(english) == fields(other), english


def test_cards_in_german(report):
    case = report("unsure.jpg")
    card = cards.verdict_card(case, language("de"))
    assert "Nicht entscheidbar" in card
    assert "Was helfen würde" in card
    assert "recht bei 83 % von 512 Prüfbildern" in card
    assert case.verdict.abstention in card  # the engine's own words, marked as English
    assert '<span lang="en">' in card


def test_strength_keeps_its_direction():
    assert (
        words.strength("moderate support against real")
        == "moderate support against “no sign of manipulation”"
    )
    assert words.strength("strong support for tampered", language("de")) == "starke Stützung für „bearbeitet“"
    assert words.strength("not calibrated") == "not calibrated"


@pytest.mark.parametrize(
    ("wanted", "accepted", "chosen"),
    [
        ("de", "en", "de"),
        ("xx", "de-AT,de;q=0.9,en;q=0.8", "de"),
        (None, "fr;q=1,en;q=0.2,de;q=0.7", "de"),
        (None, "fr", "en"),
        (None, None, "en"),
        (None, "de;q=a,en", "en"),
    ],
)
def test_the_first_language(wanted, accepted, chosen):
    assert preferred(wanted, accepted) == chosen


def test_an_unknown_language_is_english():
    assert language("../../etc/passwd").code == "en"
