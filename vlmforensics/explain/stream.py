"""The explanation, streamed sentence by sentence; nothing generated is shown before it was checked."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from vlmforensics.errors import VlmForensicsError
from vlmforensics.explain.direction import direction, size
from vlmforensics.explain.narration import instruction
from vlmforensics.explain.verify import Check, verify
from vlmforensics.explain.wording import Sentence, Wording, wording
from vlmforensics.types import Explanation, Report
from vlmforensics.vlm.base import TEXT, Backbone, Look

log = logging.getLogger(__name__)

Stop = Callable[[], bool]

NARRATED = 3
"""Generated sentences that are asked for and read; the rest is plain wording."""
PATIENCE = 2
"""Failed sentences after which the narrator is thanked."""
RUN_ON = 600
"""Characters without the end of a sentence after which the narrator is cut off."""

END = re.compile(r"[.!?][)”\"’]?(?=\s)|\n")


def sentences(pieces: Iterator[str]) -> Iterator[str]:
    """Cut a stream of text into sentences, the last one even if unfinished; a run-on ends the stream."""
    buffer = ""
    for piece in pieces:
        buffer += piece
        while (found := END.search(buffer)) is not None:
            sentence, buffer = buffer[: found.end()], buffer[found.end() :]
            if sentence.strip():
                yield sentence.strip()
        if len(buffer) > RUN_ON:
            break
    if buffer.strip():
        yield buffer.strip()


def narrated(
    report: Report,
    backbone: Backbone | None,
    look: Look | None,
    task: str,
    prefix: str,
    *,
    max_new_tokens: int,
    stop: Stop | None,
    most: int,
) -> Iterator[Check]:
    """Ask the narrator and check what it says, at most ``most`` sentences.

    A backbone that can't speak, or breaks while it speaks, says nothing: the plain wording carries the text.
    """
    if backbone is None or look is None or TEXT not in backbone.capabilities:
        return
    said = [prefix] if prefix else []
    pieces: Iterator[str] | None = None
    failed = 0
    try:
        pieces = iter(
            backbone.narrate(
                look, task, prefix=f"{prefix} " if prefix else "", max_new_tokens=max_new_tokens, stop=stop
            )
        )
        for place, sentence in enumerate(sentences(pieces), start=1):
            check = verify(sentence, report, said)
            said.append(check.text)
            failed += not check.passed
            yield check
            if place >= most or failed >= PATIENCE:
                return
    except (VlmForensicsError, RuntimeError, ValueError, OSError) as error:
        # Out of memory, a lost server, a look of another model: text must not fail for want of a narrator.
        log.warning("the narrator failed, plain wording is used: %s", error)
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            with suppress(RuntimeError):
                close()


class Piece(NamedTuple):
    """A sentence with its spacing.

    Attributes:
        text: empty where nothing is left to say in place of a generated sentence.
        generated: written by the narrator; else in plain wording.
        replaced: stands for a generated one that failed its check.
    """

    text: str
    generated: bool = False
    replaced: bool = False


class ExplanationStream:
    """Iterator over pieces of text; when exhausted, ``explanation`` holds the whole and so does the report.

    Attributes:
        explanation: what was said so far as a whole; final once the stream ended.
    """

    def __init__(self, report: Report, pieces: Iterator[Piece]) -> None:
        self._report = report
        self._pieces = pieces
        self.explanation = Explanation("")

    def __iter__(self) -> ExplanationStream:
        return self

    def __next__(self) -> str:
        while True:
            try:
                piece = next(self._pieces)
            except StopIteration:
                self._report.explanation = self.explanation
                raise
            old = self.explanation
            self.explanation = Explanation(
                old.text + piece.text,
                old.sentences + bool(piece.text),
                old.replaced + piece.replaced,
                old.generated + (piece.generated or piece.replaced),
            )
            if piece.text:
                return piece.text


def explain(
    report: Report,
    backbone: Backbone | None = None,
    look: Look | None = None,
    *,
    max_new_tokens: int = 160,
    stop: Stop | None = None,
) -> ExplanationStream:
    """Explain a verdict in several sentences, each citing the evidence it rests on.

    The first sentence states the fused verdict and is forced on the narrator; then come at most three sentences of
    the narrator's own that passed ``verify``, then the evidence that it left out, in plain wording: what speaks for
    the verdict, what against, what would change it. Without a narrator all of it is plain wording.

    Args:
        report: judged; ``report.explanation`` is set when the stream is exhausted.
        backbone: the narrator, or None.
        look: its look at this picture, or None.
        max_new_tokens: of the narrator.
        stop: polled before each sentence; once true, the text ends there.

    Returns:
        A stream of whole sentences with their spacing; joined they are ``explanation.text``.
    """
    return ExplanationStream(report, _pieces(report, backbone, look, max_new_tokens, stop))


def _pieces(
    report: Report, backbone: Backbone | None, look: Look | None, max_new_tokens: int, stop: Stop | None
) -> Iterator[Piece]:
    words = wording(report)
    summary = words.summary()
    yield Piece(summary.text)
    worded: set[str] = set()
    checks = narrated(
        report, backbone, look, instruction(report), summary.text,
        max_new_tokens=max_new_tokens, stop=stop, most=NARRATED,
    )  # fmt: skip
    for check in checks:
        if stop is not None and stop():
            return
        if check.passed:
            worded.update(check.stated)
            yield Piece(f" {check.text}", generated=True)
            continue
        log.debug("a generated sentence was replaced: %s", check.problem)
        plain = _replacement(words, check, worded)
        if plain is not None:
            worded.update(plain.ids)
        yield Piece(f" {plain.text}" if plain is not None else "", replaced=True)
    for paragraph in words.body(worded):
        for place, sentence in enumerate(paragraph):
            if stop is not None and stop():
                return
            yield Piece(("\n\n" if place == 0 else " ") + sentence.text)


def _replacement(words: Wording, check: Check, worded: set[str]) -> Sentence | None:
    """The plain wording of what a failed sentence was about, or None where that was said already."""
    for item in sorted(words.report.evidence, key=lambda item: -size(item)):
        if item.id in check.ids and item.id not in worded and direction(item) is not None:
            return words.reasons([item])[0] if item in words.balance.pros else words.plain(item)
    return None
