"""Several conversations of unlike length that the language model goes on with side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class Rows:
    """Keys and values of several prompts in one cache, padded wherever they are shorter; pads are never attended to.

    Args:
        core: the model, with ``model.language_model`` and ``lm_head``.
        caches: one per row, of one row each; copied.
        pad: token that stands where there is none.
    """

    def __init__(self, core: Any, caches: Sequence[Any], *, pad: int) -> None:
        from transformers import DynamicCache

        self._core, self._pad = core, pad
        lengths = [int(cache.get_seq_length()) for cache in caches]
        widest = max(lengths, default=0)
        self._cache = DynamicCache()
        for index in range(len(caches[0].layers) if caches else 0):
            keys, values = (
                torch.cat([_from_left(getattr(cache.layers[index], name), widest) for cache in caches])
                for name in ("keys", "values")
            )
            self._cache.update(keys, values, index)
        device = core.lm_head.weight.device
        self._seen = torch.tensor(lengths, device=device)  # tokens of each row, pads apart
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
        with torch.inference_mode():
            output = self._core.model.language_model(
                inputs_embeds=self._core.get_input_embeddings()(fed),
                attention_mask=self._mask,
                position_ids=self._seen[:, None] + place.clamp(min=0),
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


def _from_left(kept: torch.Tensor, widest: int) -> torch.Tensor:
    """(1, heads, n, d) → (1, heads, widest, d), zeros before it."""
    return torch.nn.functional.pad(kept, (0, 0, widest - kept.shape[2], 0))
