"""The forward passes that a backbone is made of: a prefill that keeps its keys and values, and tokens after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(eq=False)
class Read:
    """Prompts that a model has read, side by side.

    Attributes:
        cache: keys and values.
        mask: int64 (B, L), 1 where a row has a token and 0 where it was padded on the left.
        deltas: int64 (B, 1), what multimodal rotary positions are ahead of the count of tokens, or None.
        logits: float32 (B, K, V) at the last K positions read.
        state: (B, D) last hidden state, after the final norm, at the last position.
        marked: (B, D) for each token that was asked for, the state at its last place.
    """

    cache: Any
    mask: torch.Tensor
    deltas: torch.Tensor | None
    logits: torch.Tensor
    state: torch.Tensor
    marked: tuple[torch.Tensor, ...] = ()


class Reader:
    """Feeds prompts and tokens to a picture-and-text model of transformers, adapted or not.

    The parts of the model are called in turn, as its own ``forward`` does, because the last hidden state is needed
    beside the logits. Qwen's models keep the offset of their multimodal positions as a value on the module, which
    the next picture overwrites; here each read has its own.

    Args:
        model: ``…ForConditionalGeneration``; adapters may be injected into it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def prefill(
        self, inputs: dict[str, torch.Tensor], keep: int = 1, *, marks: Sequence[int] = (), layer: int = -1
    ) -> Read:
        """Read prompts with their pictures.

        Args:
            inputs: as the processor makes them, on the model's device, padded on the left.
            keep: number of last positions whose logits are wanted.
            marks: tokens whose states are wanted.
            layer: language-model layer whose output those are; -1 = the last, after the final norm.
        """
        from transformers import DynamicCache

        mask = inputs["attention_mask"]
        cache = DynamicCache(config=self.model.config.get_text_config())
        more: dict[str, Any] = {"output_hidden_states": True} if marks and layer != -1 else {}
        if not self._multimodal and not bool(mask.all()):
            more["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        output = self.model.model(**inputs, **more, past_key_values=cache, use_cache=True)
        deltas = self.model.model.rope_deltas.clone() if self._multimodal else None
        state = output.last_hidden_state
        read = state if layer == -1 or not marks else output.hidden_states[layer]
        marked = tuple(_state_at(read, inputs["input_ids"], mark) for mark in marks)
        return Read(cache, mask, deltas, self._logits(state, keep), state[:, -1], marked)

    def feed(self, read: Read, ids: Sequence[int], keep: int = 1) -> Read:
        """Read the same tokens after every row; the cache grows in place.

        Args:
            read: what was read before.
            ids: tokens.
            keep: number of last positions whose logits are wanted.
        """
        rows, device = read.mask.shape[0], read.mask.device
        fed = torch.tensor([list(ids)], device=device).expand(rows, -1)
        positions = read.mask.sum(-1, keepdim=True) + torch.arange(len(ids), device=device)
        if read.deltas is not None:
            positions = (positions + read.deltas.to(device)).unsqueeze(0).expand(3, -1, -1)
        mask = torch.cat([read.mask, read.mask.new_ones(rows, len(ids))], dim=-1)
        output = self.model.model(
            input_ids=fed,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=read.cache,
            use_cache=True,
        )
        state = output.last_hidden_state
        return Read(read.cache, mask, read.deltas, self._logits(state, keep), state[:, -1])

    @staticmethod
    def forget(read: Read, count: int) -> Read:
        """Without the last ``count`` tokens; the cache shrinks in place, logits and state are stale."""
        if not count:
            return read
        read.cache.crop(-count)
        return Read(read.cache, read.mask[:, :-count], read.deltas, read.logits, read.state)

    @property
    def _multimodal(self) -> bool:
        return hasattr(self.model.model, "rope_deltas")

    def _logits(self, state: torch.Tensor, keep: int) -> torch.Tensor:
        logits: torch.Tensor = self.model.lm_head(state[:, -keep:]).float()
        return logits


def _state_at(states: torch.Tensor, ids: torch.Tensor, mark: int) -> torch.Tensor:
    """(B, D) at the last place of ``mark`` in each row: positions are looked up, never counted."""
    places = (ids == mark).int()
    last = places.shape[1] - 1 - places.flip(-1).argmax(-1)
    return states[torch.arange(len(ids), device=states.device), last.to(states.device)]
