"""The compact model as a ``Backbone``; one prefill gives label, mask prompt and start of the narration."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vlmforensics.compact import layout
from vlmforensics.compact.assembly import CompactParts
from vlmforensics.compact.forward import core_of, embed, pad_prompts, state_at, trunk_states
from vlmforensics.compact.tower import Tower, join, normalise, run_tower, squash
from vlmforensics.errors import Defect
from vlmforensics.types import Pixels
from vlmforensics.vlm.base import LABEL_HEAD, SEG, TEXT, YES_NO, Look
from vlmforensics.vlm.decoding import (
    PieceDecoder,
    Reply,
    split_prefix,
    stream_greedily,
    without_leading,
    write_together,
)
from vlmforensics.vlm.rows import Rows
from vlmforensics.vlm.yes_no import ask, first_tokens, log_odds

SILENCE = (0.0,) * layout.READINGS
MICRO_BATCH = 8
"""Pictures that go through the network together; more gains nothing on a CPU and costs memory."""


@dataclass(eq=False)
class _Prefill:
    """What a narration continues from: keys and values of the look's prompt, and which backbone made them."""

    cache: Any
    owner: object


class CompactBackbone:
    """See ``vlm.base.Backbone``.

    Several threads may look and narrate at once: a forward pass reads the weights and writes nothing shared.

    Args:
        parts: the assembled model.
        version: of the shipped weights.
        weights_sha256: digest over base and shipped weights.
        told: log-odds that are told of every picture where ``parts`` has no experts.
    """

    name = "compact"
    capabilities = frozenset({LABEL_HEAD, SEG, TEXT, YES_NO})

    def __init__(
        self, parts: CompactParts, version: str, weights_sha256: str, told: Sequence[float] = SILENCE
    ) -> None:
        self.parts = parts
        self.told = tuple(told)
        self.version = version
        self.weights_sha256 = weights_sha256

    @property
    def tower(self) -> Tower:
        """The vision tower, for other witnesses; shares the module."""
        return self.parts.tower

    def look(self, pixels: Pixels, hints: Sequence[str] = (), *, for_text: bool = True) -> Look:
        """Look at one picture; see ``Backbone.look``."""
        return self._look([pixels], [hints], for_text=for_text)[0]

    def look_many(
        self, batch: Sequence[Pixels], hints: Sequence[Sequence[str]], *, for_text: bool = False
    ) -> list[Look]:
        """Look at several pictures; see ``Backbone.look_many``."""
        if len(batch) != len(hints):
            raise Defect(f"{len(batch)} pictures but {len(hints)} lists of hints")
        looks: list[Look] = []
        for start in range(0, len(batch), MICRO_BATCH):
            end = start + MICRO_BATCH
            looks += self._look(batch[start:end], hints[start:end], for_text=for_text)
        return looks

    def _look(self, batch: Sequence[Pixels], hints: Sequence[Sequence[str]], *, for_text: bool) -> list[Look]:
        parts, tokens = self.parts, self.parts.tokens
        prompts = [tokens.look(sentences) for sentences in hints]
        # Padding stands on the right, where a causal model can't see it: no attention mask is needed.
        ids = pad_prompts(prompts, tokens)[0].to(parts.device)
        told = [parts.experts.believed(p) if parts.experts is not None else self.told for p in batch]
        with torch.inference_mode():
            streams = self._streams(batch)
            supplement = parts.readings(torch.tensor(told, device=parts.device))
            embeddings = embed(parts.model, join(streams), ids, (tokens.cls, supplement))
            states, cache = (
                self._run(embeddings) if for_text else (trunk_states(parts.model, embeddings, None), None)
            )
            log_probs = parts.head.log_probs(state_at(states, ids, tokens.cls)).cpu().double()
            seg = state_at(states, ids, tokens.seg).float().cpu().numpy()
        looks = []
        for row, prompt in enumerate(prompts):
            real, synthetic, tampered = (float(value) for value in torch.log_softmax(log_probs[row], -1))
            patches = {
                layer: stream[row, 1:].float().cpu().numpy().reshape(layout.GRID, layout.GRID, -1)
                for layer, stream in streams.items()
            }
            state = _Prefill(_row_of(cache, row, len(prompt)), self) if cache is not None else None
            looks.append(Look((real, synthetic, tampered), np.ascontiguousarray(seg[row]), patches, state))
        return looks

    def _streams(self, batch: Sequence[Pixels]) -> dict[int, torch.Tensor]:
        """The tower's layers that the projector reads."""
        squares = [squash(pixels) for pixels in batch]
        return run_tower(
            self.parts.tower.module, normalise(squares, self.parts.device), layout.FEATURE_LAYERS
        )

    def _run(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """The whole language model: hidden states at the head's layer, and every layer's keys and values."""
        from transformers import DynamicCache

        language = core_of(self.parts.model).model.language_model
        cache = DynamicCache(config=language.config)
        with _tapped(language.layers[layout.CLS_LAYER]) as seen:
            language(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
        return seen[0], cache

    def narrate(
        self,
        look: Look,
        instruction: str,
        *,
        prefix: str = "",
        max_new_tokens: int = 160,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[str]:
        """Stream a reply that continues from ``look``; see ``Backbone.narrate``.

        The look's cache is copied, so several narrations may follow one look, and two may run in turn.
        """
        tokens = self.parts.tokens
        bare, spaces = split_prefix(prefix)
        cache = copy.deepcopy(self._cache_of(look))
        pieces = stream_greedily(
            lambda ids: self._feed(cache, ids),
            tokens.instruct(instruction, bare),
            PieceDecoder(tokens.tokenizer, tokens.text(bare)),
            ends=(tokens.turn_end, tokens.pad),
            banned=tokens.control,
            max_new_tokens=max_new_tokens,
            stop=stop,
        )
        return without_leading(pieces, spaces)

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

        Args:
            looks: of this backbone, made with ``for_text=True``.
            instructions: one per look.
            prefixes: one per look.
            max_new_tokens: of each reply.
            enough: asked with row and text so far after each token; true ends that row.

        Returns:
            One reply per look, without its prefix. Equal to ``narrate``'s but for rounding in the last place.
        """
        tokens = self.parts.tokens
        begun = [split_prefix(prefix) for prefix in prefixes]
        prompts = [tokens.instruct(text, bare) for text, (bare, _) in zip(instructions, begun, strict=True)]
        replies = [
            Reply(
                PieceDecoder(tokens.tokenizer, tokens.text(bare)),
                ends=(tokens.turn_end, tokens.pad),
                banned=tokens.control,
                max_new_tokens=max_new_tokens,
            )
            for bare, _ in begun
        ]
        rows = Rows(core_of(self.parts.model), [self._cache_of(look) for look in looks], pad=tokens.pad)
        texts = write_together(rows.step, prompts, replies, enough)
        return [text.lstrip(" ") if spaces else text for text, (_, spaces) in zip(texts, begun, strict=True)]

    def _feed(self, cache: Any, ids: Sequence[int]) -> torch.Tensor:
        """Logits (V,) of the token after ``ids``, float32 on the CPU; the cache grows in place."""
        core = core_of(self.parts.model)
        with torch.inference_mode():
            fed = torch.tensor([list(ids)], device=self.parts.device)
            output = core.model.language_model(
                inputs_embeds=core.get_input_embeddings()(fed), past_key_values=cache, use_cache=True
            )
            logits: torch.Tensor = core.lm_head(output.last_hidden_state[:, -1])[0].float().cpu()
        return logits

    def _cache_of(self, look: Look) -> Any:
        if not isinstance(look.state, _Prefill) or look.state.owner is not self:
            raise Defect("narrate needs a look of this backbone made with for_text=True")
        return look.state.cache

    def yes_no(self, pixels: Pixels, questions: Sequence[str]) -> list[float]:
        """See ``AnswersYesNo.yes_no``; each question follows the one look that is taken at the picture."""
        tokens = self.parts.tokens
        yes, no = first_tokens(tokens.text, "assistant\n")
        state = self.look(pixels).state
        found = []
        for question in questions:
            logits = self._feed(copy.deepcopy(state.cache), tokens.instruct(ask(question), ""))
            found.append(log_odds(logits, yes, no))
        return found


def _row_of(cache: Any, row: int, length: int) -> Any:
    """The keys and values of one row without its padding, as a cache of its own."""
    from transformers import DynamicCache

    own = DynamicCache()
    for index, layer in enumerate(cache.layers):
        keys, values = (kept[row : row + 1, :, :length].clone() for kept in (layer.keys, layer.values))
        own.update(keys, values, index)
    return own


@contextmanager
def _tapped(module: Any) -> Iterator[list[torch.Tensor]]:
    """Collect what ``module`` is given as its first argument during the block, by this thread."""
    seen: list[torch.Tensor] = []
    mine = threading.get_ident()

    def keep(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        if threading.get_ident() == mine:
            seen.append(args[0])

    handle = module.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
