"""What the narrator is told and shown, and texts from which a small one can learn to narrate.

The narrator never decides: the instruction states the fused verdict, the reply is forced to begin with it
(``prefix``),
and every sentence that follows has to pass ``verify``. ``reference_texts`` gives replies that pass by
construction, in many phrasings, for fine-tuning: train on ``prefix(report) + " " + reference_texts(report,
rng)`` after ``instruction(report)``, with the loss on what follows the prefix.
"""

from __future__ import annotations

import random

from vlmforensics.explain import phrases
from vlmforensics.explain.direction import Balance, balance, percent, size
from vlmforensics.explain.verify import verify
from vlmforensics.explain.wording import (
    Chooser,
    Sentence,
    Wording,
    degree,
    statement,
    supported,
    topic,
    wording,
)
from vlmforensics.types import LABELS, Evidence, Report

SHOWN = 4
"""Findings listed to the narrator, beside one of the other side; a small model loses track of more."""
CUT = 260
"""Characters of a statement that are shown."""
ROOM = 480
"""Characters of a reply that fit in the 160 tokens that a narrator has by default (``Settings.max_new_tokens``)."""

TASK = (
    "Write two or three short sentences for a reader. Say which findings speak for this result and "
    "which against it. "
    "Copy numbers exactly, cite each finding in square brackets, and add nothing that is not listed."
)


def shown(report: Report) -> list[Evidence]:
    """The findings that the narrator sees, heaviest first.

    Those with support; the heaviest of either side in any case, so that it can tell of both; silent ones only where
    nothing else is there.
    """
    parts = balance(report)
    speaking = parts.heaviest
    firm = [item for item in speaking if degree(item)][:SHOWN]
    heads = [*parts.pros[:1], *parts.cons[:1]]
    chosen = [item for item in speaking if item in firm or item in heads]
    return chosen or sorted(report.evidence, key=lambda item: -size(item))[:SHOWN]


def verdict_words(report: Report) -> str:
    """The fused verdict in a few words."""
    verdict = report.verdict
    figures = ", ".join(f"{label} {percent(verdict.probabilities[label])}" for label in LABELS)
    name = "no sign of manipulation found" if verdict.label == "real" else verdict.label
    return f"{name} ({figures})"


def instruction(report: Report) -> str:
    """The user's turn: verdict, findings by what they say of it, task.

    Nothing in a statement can form a citation or markup.
    """
    parts, visible = balance(report), shown(report)
    groups = {
        "Findings for this result": parts.pros,
        "Findings against this result": parts.cons,
        "Findings that say little": (*parts.neutral, *parts.unweighed),
    }
    lines = [f"The result is settled: {verdict_words(report)}."]
    for title, group in groups.items():
        told = [item for item in visible if item in group]
        lines += [f"{title}:", *(_line(item, parts) for item in told)] if told else []
    return "\n".join([*lines, TASK])


def _line(item: Evidence, parts: Balance) -> str:
    """What it weighs stands with its name, in words that the reply may take over."""
    found = parts.direction(item)
    weight = (
        item.strength if found is None else supported(item, found, phrases.TOWARD[found.sign, found.label][0])
    )
    return f"[{item.id}] {topic(item.source)}, {weight}: {statement(item)[:CUT]}"


def prefix(report: Report) -> str:
    """The sentence with which every reply begins: the fused verdict, its probability and the heaviest evidence."""
    return wording(report).summary().text


def question_instruction(report: Report, question: str) -> str:
    """The user's turn of a follow-up question; the question is quoted material, never an order."""
    cleaned = " ".join("".join(ch if ch.isprintable() else " " for ch in question).split())[:300]
    lines = instruction(report).split("\n")[:-1]
    asked = cleaned.translate(str.maketrans("[]<>“”", "()‹›''"))
    task = (
        f"A reader asks: “{asked}”. Answer in one short sentence from the findings only, citing them in "
        "square "
        "brackets. The result can't be changed."
    )
    return "\n".join([*lines, task])


def reference_texts(report: Report, rng: random.Random) -> str:
    """Two or three sentences that a good narrator could have written after ``prefix``; every one passes ``verify``.

    Args:
        report: with judged evidence.
        rng: chooses order and phrasing; its state advances.

    Returns:
        The text, or an empty string where no evidence says anything.
    """
    words = Wording(report, Chooser(rng))
    sentences: list[str] = []
    for sentence in _plan(words, rng):
        check = verify(sentence.text, report, sentences)
        if check.passed and len(" ".join([*sentences, check.text])) <= ROOM:
            sentences.append(check.text)
        if len(sentences) == 3:
            break
    return " ".join(sentences)


def _plan(words: Wording, rng: random.Random) -> list[Sentence]:
    """Sentences in one of several orders: for then against, against first, contrast, or pairs."""
    # what the narrator sees cut short, it can't be asked to copy
    visible = {item.id for item in shown(words.report) if len(statement(item)) <= CUT}
    pros = [item for item in words.balance.pros if item.id in visible]
    cons = [item for item in words.balance.cons if item.id in visible]
    if not pros and not cons:
        silent = [item for item in words.report.evidence if item.id in visible]
        kinds = (words.balance.neutral, words.balance.unweighed)
        groups = [[item for item in silent if item in kind] for kind in kinds]
        return [words.silent(group[:3]) for group in groups if group]
    if len(pros) > 2 and rng.random() < 0.3:
        pros[1], pros[2] = pros[2], pros[1]
    favour = words.reasons(pros[: rng.choice((1, 2, 2, 3))])
    against = [
        words.one(item, *banks)
        for item, banks in zip(cons[: rng.choice((1, 1, 2))], _CON_BANKS, strict=False)
    ]
    shape = rng.random()
    if pros and cons and shape < 0.3:
        contrast = words.contrast(pros[0], cons[0])
        return [contrast, *favour] if rng.random() < 0.5 else [*favour[:1], contrast, *favour[1:]]
    if pros and cons and shape < 0.4:
        return [*against[:1], *favour]
    return [*favour[:2], *against, *favour[2:]]


_CON_BANKS = (
    (phrases.CON_FIRST_LEAD, phrases.CON_FIRST_TAIL),
    (phrases.CON_NEXT_LEAD, phrases.CON_NEXT_TAIL),
)
