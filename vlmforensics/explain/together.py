"""Several explanations at a time: the same sentences and checks as one by one, but the model writes for all.

A model that writes several texts at once can't be asked sentence by sentence, so each report has a listener that
reads along and says when it has heard enough; what was said is then told through ``stream.explain`` as if the
model had said it now.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from vlmforensics.errors import VlmForensicsError
from vlmforensics.explain.narration import instruction
from vlmforensics.explain.stream import END, NARRATED, PATIENCE, RUN_ON, explain
from vlmforensics.explain.verify import verify
from vlmforensics.explain.wording import wording
from vlmforensics.types import Report
from vlmforensics.vlm.base import TEXT, Backbone, Look

log = logging.getLogger(__name__)


class NarrateMany(Protocol):
    """``narrate`` for several looks at once, see ``CompactBackbone.narrate_many``."""

    def __call__(
        self,
        looks: Sequence[Look],
        instructions: Sequence[str],
        prefixes: Sequence[str],
        *,
        max_new_tokens: int,
        enough: Callable[[int, str], bool],
    ) -> list[str]:
        """One reply per look; ``enough(i, text so far)`` ends the i-th."""
        ...


def explain_many(
    reports: Sequence[tuple[Report, Backbone | None, Look | None]],
    narrate_many: NarrateMany,
    *,
    max_new_tokens: int = 160,
) -> None:
    """Set ``report.explanation`` of each report.

    Args:
        reports: judged, each with its narrator and its look, or None where nobody can speak about it.
        narrate_many: of that narrator.
        max_new_tokens: of each text.
    """
    spoken = [
        (report, look) for report, backbone, look in reports if backbone is not None and look is not None
    ]
    listeners = [_Listener(report) for report, _ in spoken]
    said: dict[int, str] = {}
    try:
        texts = narrate_many(
            [look for _, look in spoken],
            [instruction(report) for report, _ in spoken],
            [f"{listener.prefix} " for listener in listeners],
            max_new_tokens=max_new_tokens,
            enough=lambda row, text: listeners[row].enough(text),
        )
        said = {id(report): text for (report, _), text in zip(spoken, texts, strict=True)}
    except (VlmForensicsError, RuntimeError, ValueError, OSError) as error:
        # as in stream.narrated: text must not fail for want of a narrator
        log.warning("the narrator failed, plain wording is used: %s", error)
    for report, _, look in reports:
        text = said.get(id(report))
        voice: Any = None if text is None else _Said(text)
        for _ in explain(report, voice, look, max_new_tokens=max_new_tokens):
            pass


class _Listener:
    """Counts the sentences of one reply, and those that fail, as ``stream.narrated`` will."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.prefix = wording(report).summary().text
        self._said = [self.prefix]
        self._read = 0
        self._failed = 0

    def enough(self, text: str) -> bool:
        """True once ``narrated`` would stop listening after ``text``."""
        while (found := END.search(text, self._read)) is not None:
            sentence = text[self._read : found.end()].strip()
            self._read = found.end()
            if sentence:
                check = verify(sentence, self._report, self._said)
                self._said.append(check.text)
                self._failed += not check.passed
                if len(self._said) > NARRATED or self._failed >= PATIENCE:
                    return True
        return len(text) - self._read > RUN_ON


class _Said:
    """A narrator that repeats what was written before."""

    capabilities = frozenset({TEXT})

    def __init__(self, text: str) -> None:
        self._text = text

    def narrate(self, look: Look, instruction: str, **_: Any) -> Iterator[str]:
        yield self._text
