"""Text against reference text (ROUGE-L, CSS), and the published way to read a verdict from an answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vlmforensics.errors import MissingExtra

Encoder = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts → one vector each, float32 (n, d)."""


def rouge_l(said: str, references: Sequence[str]) -> float:
    """ROUGE-L F-measure (longest common subsequence of words, no stemming) against the best reference, in [0, 1].

    Raises:
        MissingExtra: rouge-score is not installed.

    References:
        Lin 2004, ROUGE: a package for automatic evaluation of summaries.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError as error:
        raise MissingExtra('ROUGE-L needs rouge-score: pip install "vlmforensics[eval]"') from error
    scorer = RougeScorer(["rougeL"])
    return max(
        (float(scorer.score(reference, said)["rougeL"].fmeasure) for reference in references), default=0.0
    )


def css(said: Sequence[str], references: Sequence[Sequence[str]], encoder: Encoder) -> list[float]:
    """Cosine of sentence embeddings against the best reference of each text, in [-1, 1].

    The encoder behind published CSS figures is not known, so the numbers of two encoders can't be compared.
    """
    found = []
    for text, own in zip(said, references, strict=True):
        vectors = np.asarray(encoder([text, *own]), np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        found.append(float((vectors[1:] @ vectors[0]).max()))
    return found


def published_label(answer: str) -> str | None:
    """*real* or *fake* as FakeVLM's evaluation reads it from an answer, or None where that code tosses a coin.

    The first sentence (up to the first full stop) decides: *real* in it, even as part of another word or after *not*,
    means real; else *fake* means fake; else the second sentence is read the same way. We report this beside our own
    reading, and count what it can't read as wrong.
    """
    for sentence in re.split(r"\.", answer.lower())[:2]:
        if "real" in sentence:
            return "real"
        if "fake" in sentence:
            return "fake"
    return None
