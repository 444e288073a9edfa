"""A backbone that says what it is told to: for tests and dry runs of everything above the networks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from vlmforensics.errors import Defect
from vlmforensics.types import Pixels
from vlmforensics.vlm.base import LABEL_HEAD, SEG, TEXT, Look

LogProbs = tuple[float, float, float]
Reply = Callable[[str, str], str]
"""(instruction, prefix) → the reply without its prefix."""


@dataclass(frozen=True)
class Call:
    """One use of a scripted backbone: ``kind`` is ``look`` or ``narrate``, ``said`` hints or instruction + prefix."""

    kind: str
    said: tuple[str, ...]


@dataclass(eq=False)
class ScriptedBackbone:
    """A deterministic backbone without weights.

    Attributes:
        log_probs: what every look returns, or a function of the pixels; None for a backbone without an opinion.
        replies: narrated in order, the last one over and over; or a function of instruction and prefix.
        seg_width: width of the ``[SEG]`` vector (zeros), or 0 for a backbone without one.
        patches: tower layer → (rows, columns, channels): zeros of that shape.
        calls: what was asked, in order.
    """

    log_probs: LogProbs | Callable[[Pixels], LogProbs | None] | None = (-0.3567, -1.6094, -2.3026)
    replies: Sequence[str] | Reply = ("Nothing in the evidence points to manipulation.",)
    seg_width: int = 576
    patches: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    name: str = "scripted"
    version: str = "1"
    capabilities: frozenset[str] = frozenset({LABEL_HEAD, SEG, TEXT})
    calls: list[Call] = field(default_factory=list)
    _told: int = 0

    @property
    def weights_sha256(self) -> str:
        """A digest of the name: the same script, the same report."""
        return hashlib.sha256(f"scripted:{self.name}:{self.version}".encode()).hexdigest()

    def look(self, pixels: Pixels, hints: Sequence[str] = (), *, for_text: bool = True) -> Look:
        """The scripted opinion; see ``Backbone.look``."""
        self.calls.append(Call("look", tuple(hints)))
        found = self.log_probs(pixels) if callable(self.log_probs) else self.log_probs
        return Look(
            log_probs=found,
            seg=np.zeros(self.seg_width, np.float32) if self.seg_width else None,
            patches={layer: np.zeros(shape, np.float32) for layer, shape in self.patches.items()},
            state=self if for_text else None,
        )

    def look_many(
        self, batch: Sequence[Pixels], hints: Sequence[Sequence[str]], *, for_text: bool = False
    ) -> list[Look]:
        """One look per picture; see ``Backbone.look_many``."""
        return [self.look(pixels, said, for_text=for_text) for pixels, said in zip(batch, hints, strict=True)]

    def narrate(
        self,
        look: Look,
        instruction: str,
        *,
        prefix: str = "",
        max_new_tokens: int = 160,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[str]:
        """Stream the next reply word by word (a word counts as a token); see ``Backbone.narrate``."""
        if look.state is not self:
            raise Defect("narrate needs a look of this backbone made with for_text=True")
        self.calls.append(Call("narrate", (instruction, prefix)))
        if callable(self.replies):
            reply = self.replies(instruction, prefix)
        else:
            reply = self.replies[min(self._told, len(self.replies) - 1)] if self.replies else ""
            self._told += 1
        return self._stream(reply, max_new_tokens, stop)

    @staticmethod
    def _stream(reply: str, limit: int, stop: Callable[[], bool] | None) -> Iterator[str]:
        for piece in re.findall(r"\s*\S+|\s+$", reply)[:limit]:
            if stop is not None and stop():
                return
            yield piece
