"""What a LLaVA-family backbone says after a look: one text, or several side by side."""

from __future__ import annotations

import copy
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlmforensics.errors import Defect, ModelError
from vlmforensics.vlm.base import Look
from vlmforensics.vlm.decoding import (
    PieceDecoder,
    Reply,
    split_prefix,
    stream_greedily,
    without_leading,
    write_together,
)
from vlmforensics.vlm.memory import free_bytes
from vlmforensics.vlm.reader import Read, Reader
from vlmforensics.vlm.rows import Rows, joinable

log = logging.getLogger(__name__)
MOST_AT_ONCE = 8
"""Texts written together where memory is no matter; the gain of more is small beside that of the first few."""
TILED = 8192
"""Tokens that a picture may take where its tiles or grid are not known beforehand (LLaVA-OneVision: up to 7,290)."""
AROUND = 1024
"""Tokens of question, instruction and reply."""


@dataclass(eq=False)
class Prefill:
    """What a narration continues from: the prompt's ids, what was read of it, the question, and the owner."""

    ids: list[int]
    read: Read
    asked: str
    owner: object


@dataclass(frozen=True, eq=False)
class _Turn:
    """A reply about to be written.

    Attributes:
        state: the look's.
        ids: the whole prompt, forced beginning of the reply included.
        kept: tokens at its beginning that the look has read already.
        room: tokens that the reply may have.
        spaces: not empty where the reply's leading spaces are dropped.
    """

    state: Prefill
    ids: list[int]
    kept: int
    room: int
    spaces: str

    @property
    def fed(self) -> list[int]:
        """What of the prompt is still to be read."""
        return self.ids[self.kept :]


class Speech(ABC):
    """The speaking half of ``LlavaBackbone``, which sets these attributes and knows how a prompt is put."""

    name: str
    model: Any
    tokenizer: Any
    device: torch.device
    lock: threading.RLock
    reader: Reader
    _context: int
    _image_id: int
    _square: bool
    _ends: tuple[int, ...]
    _banned: tuple[int, ...]
    _era: object

    def narrate(
        self,
        look: Look,
        instruction: str,
        *,
        prefix: str = "",
        max_new_tokens: int = 160,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[str]:
        """Stream a reply to the look's picture and question plus ``instruction``; see ``Backbone.narrate``."""
        turn = self._turn(look, instruction, prefix, max_new_tokens)
        return without_leading(self._pieces(turn, stop), turn.spaces)

    def narrate_many(
        self,
        looks: Sequence[Look],
        instructions: Sequence[str],
        prefixes: Sequence[str],
        *,
        max_new_tokens: int = 160,
        enough: Callable[[int, str], bool] = lambda row, text: False,
    ) -> list[str]:
        """As :meth:`narrate` for several looks, but the weights are read once per token for all of them.

        One after the other where memory runs out or the model's cache can't be joined.

        Args:
            looks: of this backbone, made with ``for_text=True``.
            instructions: one per look.
            prefixes: one per look.
            max_new_tokens: of each reply.
            enough: asked with row and text so far after each token; true ends that row.

        Returns:
            One reply per look, without its prefix. Equal to ``narrate``'s but for rounding in the last place, which
            in 16 bits turns a word more often than in 32.
        """
        turns = [
            self._turn(look, instruction, prefix, max_new_tokens)
            for look, instruction, prefix in zip(looks, instructions, prefixes, strict=True)
        ]
        texts: list[str] | None = None
        if len(turns) > 1 and all(joinable(turn.state.read.cache) for turn in turns):
            try:
                texts = self._write(turns, enough)
            except torch.OutOfMemoryError:
                log.warning("%d texts at once do not fit: written one by one", len(turns))
        if texts is None:
            texts = [self._write_alone(turn, row, enough) for row, turn in enumerate(turns)]
        return [text.lstrip(" ") if turn.spaces else text for turn, text in zip(turns, texts, strict=True)]

    @property
    def texts_at_once(self) -> int:
        """How many texts :meth:`narrate_many` is best given, by the memory that is free now.

        A batch holds three sets of keys and values per text: the look's, its copy while texts are written, and
        those of the looks that are taken meanwhile.
        """
        free = free_bytes(self.device)
        if free is None:
            return MOST_AT_ONCE
        text = self.model.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        picture = int(getattr(self.model.config, "image_seq_length", TILED)) if self._square else TILED
        tokens = min(self._context, picture + AROUND)
        each = 2 * text.num_hidden_layers * heads * width * self._dtype.itemsize * tokens
        return max(1, min(MOST_AT_ONCE, int(free * 0.8) // (3 * each)))

    def _turn(self, look: Look, instruction: str, prefix: str, max_new_tokens: int) -> _Turn:
        state = self._state(look)
        bare, spaces = split_prefix(prefix)
        ids = self._fitting(state, instruction, bare, max_new_tokens)
        kept = min(common(state.ids, ids), len(ids) - 1)
        if self._image_id in ids[kept:]:
            raise Defect("the prompt of the narration does not begin like the look's")
        room = max(1, min(max_new_tokens, self._context - len(ids)))
        return _Turn(state, ids, kept, room, spaces or ("" if bare else " "))

    def _state(self, look: Look) -> Prefill:
        state = look.state
        if not isinstance(state, Prefill) or state.owner is not self._era:
            raise Defect("narrate needs a look of this backbone made with for_text=True")
        return state

    def _pieces(self, turn: _Turn, stop: Callable[[], bool] | None) -> Iterator[str]:
        return self._continue(turn.state, turn.kept, turn.fed, turn.ids, turn.room, stop)

    def _continue(
        self,
        state: Prefill,
        kept: int,
        fed: Sequence[int],
        context: Sequence[int],
        room: int,
        stop: Callable[[], bool] | None,
    ) -> Iterator[str]:
        """Stream what the model says after the first ``kept`` tokens of a look and ``fed``."""
        read = Read(
            copy.deepcopy(state.read.cache),
            state.read.mask,
            state.read.deltas,
            state.read.logits,
            state.read.state,
        )
        read = self.reader.forget(read, len(state.ids) - kept)

        def step(tokens: Sequence[int]) -> torch.Tensor:
            nonlocal read
            with self.lock, torch.inference_mode():
                read = self.reader.feed(read, tokens)
                return read.logits[0, -1].cpu()

        return stream_greedily(
            step,
            fed,
            PieceDecoder(self.tokenizer, context[-6:]),
            ends=self._ends,
            banned=self._banned,
            max_new_tokens=room,
            stop=stop,
        )

    def _write(self, turns: Sequence[_Turn], enough: Callable[[int, str], bool]) -> list[str]:
        """The replies, side by side; the looks' own keys and values stay as they are."""
        reads = [turn.state.read for turn in turns]
        deltas = [read.deltas for read in reads if read.deltas is not None]
        with self.lock, torch.inference_mode():
            rows = Rows(
                self.model,
                [read.cache for read in reads],
                pad=0,  # any token will do: pads are never attended to
                lengths=[turn.kept for turn in turns],
                deltas=deltas or None,
            )

        def step(numbers: Sequence[int], ids: Sequence[Sequence[int]]) -> torch.Tensor:
            with self.lock:
                return rows.step(numbers, ids)

        replies = [
            Reply(
                PieceDecoder(self.tokenizer, turn.ids[-6:]),
                ends=self._ends,
                banned=self._banned,
                max_new_tokens=turn.room,
            )
            for turn in turns
        ]
        return write_together(step, [turn.fed for turn in turns], replies, enough)

    def _write_alone(self, turn: _Turn, row: int, enough: Callable[[int, str], bool]) -> str:
        text = ""
        pieces = self._pieces(turn, lambda: bool(text) and enough(row, text))
        for piece in pieces:
            text += piece
        return text

    def _fitting(self, state: Prefill, instruction: str, prefix: str, max_new_tokens: int) -> list[int]:
        """Ids of the narration's prompt; the middle of an over-long instruction gives way."""
        pictures = state.ids.count(self._image_id)
        room = self._context - min(max_new_tokens, self._context // 4)
        text = instruction
        while True:
            plain = self._encode(self._prompt(f"{state.asked}\n{text}") + self._join(prefix))
            ids: list[int] = []
            for i in plain:
                ids += [i] * (pictures if i == self._image_id else 1)
            over = len(ids) - room
            if over <= 0:
                return ids
            if len(text) < 20:
                raise ModelError(
                    f"the context of {self.name} ({self._context} tokens) is too small to narrate"
                )
            keep = max(10, min(len(text) - 10, int(len(text) * (1 - over / len(plain))) - 8)) // 2
            log.debug("instruction of %d characters shortened to %d", len(text), 2 * keep)
            text = f"{text[:keep]} … {text[-keep:]}" if keep > 10 else text[:10]

    def _encode(self, text: str) -> list[int]:
        """Ids of a prompt whose picture is still one token."""
        return [int(i) for i in self.tokenizer(text)["input_ids"]]

    @property
    def _dtype(self) -> torch.dtype:
        """Of the arithmetic, and of keys and values."""
        found: torch.dtype = next(p.dtype for p in self.model.parameters() if p.dtype.is_floating_point)
        return found

    @abstractmethod
    def _prompt(self, text: str) -> str:
        """The user's turn and the reply's start; ``text`` forges no token."""

    @abstractmethod
    def _join(self, prefix: str) -> str:
        """The forced beginning of the reply as it stands after the prompt."""


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
