"""What a fine-tuned model says of a picture by itself, kept as an observation where it can be let through.

FakeVLM and its like answer with a verdict sentence and an explanation that nothing supports but the model. The verdict
sentence is dropped, for fusion decides; so is a sentence that claims authenticity, names a number (nothing was
measured), or is not well formed. What remains is quoted as one observed finding without a score: it is shown and may be
cited, and moves no probability.
"""

from __future__ import annotations

import re

from vlmforensics.explain.stream import sentences
from vlmforensics.explain.verify import LONGEST, SHORTEST, sayable
from vlmforensics.types import Evidence

SOURCE = "remark"
MOST = 3
"""Sentences that are kept."""
_DIGIT = re.compile(r"\d")
_VERDICT = re.compile(
    r"^(?:this|the) (?:is an?|image|picture|photo\w*)\b[^,;]{0,40}"
    r"\b(?:real|fake|synthetic|tampered|genuine|manipulated)\b[^,;]{0,20}$",
    re.IGNORECASE,
)


def kept_sentences(text: str) -> tuple[list[str], int]:
    """The sentences of a model's own explanation that may be quoted, and how many were dropped."""
    kept: list[str] = []
    dropped = 0
    for sentence in sentences(iter([text])):
        plain = " ".join(sentence.split())
        ended = plain.endswith((".", "!", "?"))
        verdict = _VERDICT.search(plain.rstrip(".!? "))
        fits = SHORTEST <= len(plain) <= LONGEST and sayable(plain) and plain not in kept
        if verdict or not ended or not fits or _DIGIT.search(plain) or len(kept) == MOST:
            dropped += not verdict
            continue
        kept.append(plain)
    return kept, dropped


def remark_evidence(name: str, text: str) -> list[Evidence]:
    """The model's own explanation as one observed finding without a score; nothing where nothing may be quoted.

    Args:
        name: of the model.
        text: as it was generated.
    """
    kept, dropped = kept_sentences(text)
    if not kept:
        return []
    quoted = " ".join(kept).replace("“", "'").replace("”", "'")
    return [
        Evidence(
            SOURCE,
            f"{name} remarks, unmeasured: “{quoted}”",
            status="observed",
            recompute={"backbone": name, "sentences": len(kept), "dropped": dropped},
        )
    ]
