"""Several conversations of unlike length that the language model goes on with side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class Rows:
    """Keys and values of several prompts in one cache, padded wherever they are shorter; pads are never attended to.

    Args:
        core: the model, with ``model.language_model`` and ``lm_head``.
        caches: one per row, of one row each, all as :func:`joinable` wants them; copied.
        pad: token that stands where there is none.
        lengths: how many tokens of each cache are kept, its first ones; None keeps all.
        deltas: int64 (1, 1) per row, what multimodal rotary positions are ahead of the count of tokens; None where
            positions are that count.
    """

    def __init__(
        self,
        core: Any,
        caches: Sequence[Any],
        *,
        pad: int,
        lengths: Sequence[int] | None = None,
        deltas: Sequence[torch.Tensor] | None = None,
    ) -> None:
        from transformers import DynamicCache

        self._core, self._pad = core, pad
        lengths = [int(cache.get_seq_length()) for cache in caches] if lengths is None else list(lengths)
        widest = max(lengths, default=0)
        self._cache = DynamicCache()
        # not the weights': those of a model that spills over are nowhere while it rests
        device = caches[0].layers[0].keys.device if caches else core.lm_head.weight.device
        for index in range(len(caches[0].layers) if caches else 0):
            keys, values = (
                torch.cat(
                    [
                        _from_left(getattr(cache.layers[index], name)[:, :, :length], widest)
                        for cache, length in zip(caches, lengths, strict=True)
                    ]
                )
                for name in ("keys", "values")
            )
            self._cache.update(keys, values, index)
        self._seen = torch.tensor(lengths, device=device)  # tokens of each row, pads apart
        self._ahead = None if not deltas else torch.cat([delta.to(device) for delta in deltas])
        self._mask = (torch.arange(widest, device=device) >= widest - self._seen[:, None]).long()
        self._rows = list(range(len(caches)))

    def step(self, rows: Sequence[int], ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Feed tokens to rows; rows that are not named are dropped for good.

        Args:
            rows: numbers of rows, a subset of those of the last call in their order.
            ids: at least one token per row; shorter ones are padded on the left.

        Returns:
            float32 (rows, V), logits of each row's next token, on the CPU.
        """
        self._keep(rows)
        device = self._mask.device
        widest = max(map(len, ids))
        fed = torch.tensor([[self._pad] * (widest - len(row)) + list(row) for row in ids], device=device)
        count = torch.tensor([len(row) for row in ids], device=device)
        place = torch.arange(widest, device=device) - (widest - count)[:, None]  # negative on pads
        self._mask = torch.cat([self._mask, (place >= 0).long()], dim=-1)
        positions = self._seen[:, None] + place.clamp(min=0)
        if self._ahead is not None:
            positions = (positions + self._ahead).unsqueeze(0).expand(3, -1, -1)
        with torch.inference_mode():
            output = self._core.model.language_model(
                inputs_embeds=self._core.get_input_embeddings()(fed),
                attention_mask=self._mask,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
            )
            logits: torch.Tensor = self._core.lm_head(output.last_hidden_state[:, -1]).float().cpu()
        self._seen = self._seen + count
        return logits

    def _keep(self, rows: Sequence[int]) -> None:
        if list(rows) == self._rows:
            return
        kept = torch.tensor([self._rows.index(row) for row in rows], device=self._mask.device)
        self._cache.batch_select_indices(kept)
        self._mask, self._seen, self._rows = self._mask[kept], self._seen[kept], list(rows)
        self._ahead = None if self._ahead is None else self._ahead[kept]


def joinable(cache: Any) -> bool:
    """True where each layer keeps every token; one with a sliding window would count the pads as part of it."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)


def _from_left(kept: torch.Tensor, widest: int) -> torch.Tensor:
    """(1, heads, n, d) → (1, heads, widest, d), zeros before it."""
    return torch.nn.functional.pad(kept, (0, 0, widest - kept.shape[2], 0))
