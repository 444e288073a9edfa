"""Greedy decoding, one token at a time, with text that comes out in whole characters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

REPLACEMENT = "�"
LONGEST_LOOP = 32
"""Tokens of the longest phrase whose repetition is noticed."""
LOOP_TOKENS = 24
"""Tokens that a repetition must fill, thrice over, to count as one: lists and numbers repeat harmlessly."""
Step = Callable[[Sequence[int]], torch.Tensor]
"""Feeds token ids to the model after all that it has seen; returns the logits (V,) of the next token."""
StepMany = Callable[[Sequence[int], Sequence[Sequence[int]]], torch.Tensor]
"""Feeds each of some rows its token ids, after all that the row has seen; returns their next logits (rows, V)."""


class PieceDecoder:
    """Turns a growing list of token ids into pieces of text.

    A token may be half a UTF-8 character, and whether it begins with a space depends on its neighbours, so
    each piece is the difference of two decodings that share their beginning; half characters are held back.

    Args:
        tokenizer: with ``decode``.
        context: ids that came before (a forced prefix); never part of a piece.
    """

    def __init__(self, tokenizer: Any, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(context)
        self._start = max(0, len(self._ids) - 6)  # a few tokens of context settle the spacing
        self._told = len(self._ids)

    def push(self, token: int) -> str:
        """Text that has become certain with ``token``; may be empty."""
        self._ids.append(token)
        return self._advance(final=False)

    def finish(self) -> str:
        """What was held back, at the end; an incomplete character is dropped."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        before = self._decode(self._ids[self._start : self._told])
        now = self._decode(self._ids[self._start :])
        if now.endswith(REPLACEMENT) and not final:
            return ""
        piece = now[len(before) :].replace(REPLACEMENT, "")  # bytes that never became a character
        self._start, self._told = max(self._start, self._told - 6), len(self._ids)
        return piece

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class Reply:
    """A reply that grows by the likeliest token, until an end token, the bound or a loop.

    Args:
        decoder: set up with the forced prefix.
        ends: ids that end the reply.
        banned: ids that may never be generated (control tokens).
        max_new_tokens: upper bound on generated tokens.

    Attributes:
        said: the tokens so far, without the one that ended it.
        done: True where nothing more comes.
    """

    def __init__(
        self, decoder: PieceDecoder, *, ends: Sequence[int], banned: Sequence[int] = (), max_new_tokens: int
    ) -> None:
        self.decoder = decoder
        self.said: list[int] = []
        self.done = max_new_tokens <= 0
        self._ends, self._most = frozenset(ends), max_new_tokens
        self._never = sorted(set(banned) - set(ends))

    def take(self, logits: torch.Tensor) -> str:
        """Text that has become certain with the likeliest of the next tokens, logits (V,); may be empty."""
        allowed = logits.clone()  # a tensor of inference mode may not be written to
        allowed[self._never] = float("-inf")
        token = int(allowed.argmax())
        if token in self._ends:
            self.done = True
            return ""
        self.said.append(token)
        self.done = len(self.said) >= self._most or in_a_loop(self.said)
        return self.decoder.push(token)


def stream_greedily(
    step: Step,
    prompt: Sequence[int],
    decoder: PieceDecoder,
    *,
    ends: Sequence[int],
    banned: Sequence[int] = (),
    max_new_tokens: int,
    stop: Callable[[], bool] | None = None,
) -> Iterator[str]:
    """Yield text greedily until an end token, ``max_new_tokens``, ``stop()`` or a loop.

    A small model that decodes greedily and has begun to repeat a phrase never leaves the loop.

    Args:
        step: the model.
        prompt: ids fed first.
        decoder: set up with the forced prefix.
        ends: ids that end the reply.
        banned: ids that may never be generated (control tokens).
        max_new_tokens: upper bound on generated tokens.
        stop: asked before each token.
    """
    if stop is not None and stop():
        return
    reply = Reply(decoder, ends=ends, banned=banned, max_new_tokens=max_new_tokens)
    feed = list(prompt)
    while not reply.done:
        piece = reply.take(step(feed))
        if piece:
            yield piece
        if stop is not None and stop():
            break
        feed = reply.said[-1:]
    tail = decoder.finish()
    if tail:
        yield tail


def write_together(
    step: StepMany,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Reply],
    enough: Callable[[int, str], bool],
) -> list[str]:
    """Write several replies greedily, one token each at a time; a row that is done is not fed any more.

    Args:
        step: the model.
        prompts: ids fed first, per row.
        replies: empty yet, one per row.
        enough: asked with row and text so far after each token; true ends that row.
    """
    texts = [""] * len(replies)
    rows = [row for row, reply in enumerate(replies) if not reply.done]
    feed = [prompts[row] for row in rows]
    while rows:
        for row, logits in zip(rows, step(rows, feed), strict=True):
            texts[row] += replies[row].take(logits)
        rows = [row for row in rows if not replies[row].done and not enough(row, texts[row])]
        feed = [replies[row].said[-1:] for row in rows]
    return [text + reply.decoder.finish() for text, reply in zip(texts, replies, strict=True)]


def in_a_loop(tokens: Sequence[int]) -> bool:
    """Whether the sequence ends in the same phrase three times running, over at least ``LOOP_TOKENS`` tokens."""
    for period in range(1, LONGEST_LOOP + 1):
        times = max(3, -(-LOOP_TOKENS // period))
        if len(tokens) < times * period:
            continue
        tail = list(tokens[-times * period :])
        if tail[period:] == tail[:-period]:
            return True
    return False


def split_prefix(prefix: str) -> tuple[str, str]:
    """A forced prefix as (text to encode, trailing spaces).

    Byte-level vocabularies put the space in front of the next word, so a prefix must not end in one; the
    caller drops one leading space from the first piece instead.
    """
    bare = prefix.rstrip(" ")
    return bare, prefix[len(bare) :]


def without_leading(pieces: Iterator[str], spaces: str) -> Iterator[str]:
    """Drop from the stream's beginning the spaces that the reader has already got with the prefix."""
    first = True
    for piece in pieces:
        text = piece.lstrip(" ") if first and spaces else piece
        if text:
            first = False
            yield text
