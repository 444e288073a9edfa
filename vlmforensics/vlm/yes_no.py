"""Yes or no from token probabilities: which first tokens begin either answer, and how they weigh against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from vlmforensics.errors import ModelError

INSTRUCTION = "Answer yes or no."
YES = ("yes", "Yes", "YES", " yes", " Yes", " YES")
NO = ("no", "No", "NO", " no", " No", " NO")


def ask(question: str) -> str:
    """The question as every backbone is asked it."""
    return f"{question} {INSTRUCTION}"


def first_tokens(encode: Callable[[str], Sequence[int]], prompt: str) -> tuple[list[int], list[int]]:
    """Tokens that can begin a yes, and those that can begin a no, right after ``prompt``.

    Tokenizers differ in how a word meets the text before it, so whole texts are encoded. Tokens that could begin
    both (a lone space) are left out.

    Args:
        encode: text to ids.
        prompt: what the reply follows.

    Raises:
        ModelError: the tokenizer offers no token for yes or for no.
    """
    plain = list(encode(prompt))

    def begin(words: Sequence[str]) -> set[int]:
        found = set()
        for word in words:
            ids = list(encode(prompt + word))
            if ids[: len(plain)] == plain and len(ids) > len(plain):
                found.add(ids[len(plain)])
        return found

    yes, no = begin(YES), begin(NO)
    both = yes & no
    if not yes - both or not no - both:
        raise ModelError("this tokenizer has no tokens of their own for the beginnings of yes and no")
    return sorted(yes - both), sorted(no - both)


def log_odds(logits: torch.Tensor, yes: Sequence[int], no: Sequence[int]) -> float:
    """Log-odds of yes against no in nats.

    Args:
        logits: float (V,), of the reply's first token.
        yes: tokens that begin a yes.
        no: tokens that begin a no.
    """
    scores = logits.double()
    return float(torch.logsumexp(scores[list(yes)], 0) - torch.logsumexp(scores[list(no)], 0))
