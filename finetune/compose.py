"""From answered clues to an explanation: what speaks for the label, in sentences that somebody measured or saw."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlmforensics.clues import Clue
from vlmforensics.types import Label

MOST = 5
"""Sentences of support; more is a list, not an explanation."""

OPENINGS: Mapping[Label, str] = {
    "real": "The picture is real.",
    "synthetic": "The picture is synthetic.",
    "tampered": "The picture is tampered.",
}
"""The sentence whose words are scored in use (profile ``explained``): training expects answers to begin with it."""
FAKECLUE: Mapping[Label, str] = {
    "real": "This is a real image.",
    "synthetic": "This is a fake image.",
    "tampered": "This is a fake image.",
}
"""How FakeClue's answers open; models tuned on it are scored by these words."""
UNEXPLAINED: Mapping[Label, str] = {
    "real": "",
    "synthetic": "None of the clues that were looked for shows it.",
    "tampered": "None of the clues that were looked for shows where.",
}
AGAINST = "One finding points the other way:"


@dataclass(frozen=True)
class Answered:
    """A clue with its agreed answer.

    Attributes:
        clue: of the catalogue.
        answer: True = present.
        by: who said so.
        sentence: how to say it: measured facts, an annotator's words that passed the checks, or the clue's own.
    """

    clue: Clue
    answer: bool
    by: str
    sentence: str


def compose(
    label: Label,
    answered: Sequence[Answered],
    *,
    key: str,
    without: frozenset[str] = frozenset(),
) -> str:
    """An explanation of ``label`` from answered clues; the same input gives the same text.

    A picture with a label to explain is explained by clues that are present and favour it. A real one is
    explained by clues against it that are absent. At most one measured finding that points the other way is told.

    Args:
        label: the truth.
        answered: agreed answers.
        key: names the picture; chooses the order of what was seen.
        without: clues not to be used, e.g. those that ``assess`` found the model to be blind to.
    """
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    usable = [item for item in answered if item.clue.id not in without and item.clue.favours]
    support = [item for item in usable if supports(item, label)]
    # measured facts first, then what was seen, in an order that differs from picture to picture
    order = rng.permutation(len(support))
    support = sorted((support[i] for i in order), key=lambda item: not item.clue.measured)[:MOST]
    against = [
        item for item in usable if item.clue.measured and item.answer and label not in item.clue.favours
    ]
    sentences = [OPENINGS[label], *(item.sentence for item in support)]
    if not support and UNEXPLAINED[label]:
        sentences.append(UNEXPLAINED[label])
    if against:
        said = against[0].sentence
        sentences.append(f"{AGAINST} {said[0].lower()}{said[1:]}")
    return " ".join(sentences)


def supports(item: Answered, label: Label) -> bool:
    """True where the answer speaks for the label; for ``real`` also where a sign of the others is absent."""
    if item.answer:
        return label in item.clue.favours
    return label == "real" and "real" not in item.clue.favours
