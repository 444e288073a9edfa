"""What a vision-language backbone must do, whatever stands behind it: look once, then speak from the same look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlmforensics.types import Pixels

LABEL_HEAD = "label_head"
"""Capability: label log-probabilities come from a trained head on ``[CLS]``."""
LABEL_WORDS = "label_words"
"""Capability: label log-probabilities come from the tokens of the label words, zero-shot or as fine-tuned."""
SEG = "seg"
"""Capability: a hidden state at ``[SEG]`` prompts the mask head."""
TEXT = "text"
"""Capability: it can generate text."""
YES_NO = "yes_no"
"""Capability: it answers yes-or-no questions by token probabilities; see ``AnswersYesNo``."""


@dataclass(frozen=True, eq=False)
class Look:
    """One prefill over one picture and the question.

    Attributes:
        log_probs: natural-log probability of real, synthetic, tampered (order of ``types.LABELS``), or None where the
            backbone has no opinion.
        seg: float32 (d,), hidden state at ``[SEG]``, or None.
        patches: tower layer index → float32 (rows, columns, channels), the tower's patch features of the whole
            picture (squashed to the tower's square), for rooms that reuse them; empty for remote backbones.
        remark: what the model says of the picture as it was trained to, unasked and unchecked; empty where it was not.
        means: how the labels were read where it isn't told by the backbone's capabilities, e.g. ``label word in 5
            sampled answers``.
        state: private to the backbone: what lets ``narrate`` continue from this prefill (KV cache), or None.
    """

    log_probs: tuple[float, float, float] | None
    seg: NDArray[np.float32] | None = None
    patches: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    state: Any = None
    means: str = ""
    remark: str = ""


class Backbone(Protocol):
    """A vision-language model. ``capabilities`` holds the constants of this module that apply."""

    name: str
    version: str
    weights_sha256: str
    capabilities: frozenset[str]

    def look(self, pixels: Pixels, hints: Sequence[str] = (), *, for_text: bool = True) -> Look:
        """Look at one picture (uint8 (H, W, 3) upright).

        Args:
            pixels: the upright picture at its own resolution; the backbone resizes.
            hints: sentences of external detectors that go into the prompt (X²-DFD's weak-feature supplement).
            for_text: False where no text will follow, so that layers behind the label head may be skipped.
        """
        ...

    def look_many(
        self, batch: Sequence[Pixels], hints: Sequence[Sequence[str]], *, for_text: bool = False
    ) -> list[Look]:
        """The same for several pictures at once; equal to ``look`` one by one within 1e-4."""
        ...

    def narrate(
        self,
        look: Look,
        instruction: str,
        *,
        prefix: str = "",
        max_new_tokens: int = 160,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[str]:
        """Continue the conversation of ``look`` with ``instruction`` as the user's turn; stream the reply greedily.

        The reply is forced to begin with ``prefix`` (which is not streamed again). User and evidence text never
        forms control tokens. Ends at the end-of-turn token, ``max_new_tokens`` or when ``stop()`` turns true.
        """
        ...


class AnswersYesNo(Protocol):
    """A backbone with the capability ``YES_NO``."""

    name: str
    weights_sha256: str

    def yes_no(self, pixels: Pixels, questions: Sequence[str]) -> list[float]:
        """Log-odds (nats) of yes against no for each question about one picture, from the first token of the reply.

        Nothing is generated and no text is read: the probabilities of all ways to begin with yes (capital, space)
        are summed and compared with those of no.

        Args:
            pixels: uint8 (H, W, 3) upright.
            questions: answered independently of each other.
        """
        ...
