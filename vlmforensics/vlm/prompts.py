"""What is asked of a vision-language model. Fixed wording: trained heads and adapters depend on it."""

from __future__ import annotations

from collections.abc import Sequence

QUESTION = "Is this picture a real photograph, wholly synthetic, or tampered with?"
"""Asked of every picture; the compact model's heads are trained on exactly this."""

HINT_LIMIT = 300
"""Characters kept of one hint sentence; a hint is a detector's number in words, never longer."""


def question_with(hints: Sequence[str]) -> str:
    """The question, followed by the sentences of external detectors (X²-DFD's weak-feature supplement).

    Args:
        hints: e.g. ``("The blending detector gives 0.12 out of 1.",)``; white space is collapsed, over-long
            text cut.

    References:
        Chen et al. 2024, X²-DFD: A framework for eXplainable and eXtendable Deepfake Detection, §3 (WFS).
    """
    cleaned = (" ".join(hint.split())[:HINT_LIMIT] for hint in hints)
    return " ".join([QUESTION, *(hint for hint in cleaned if hint)])
