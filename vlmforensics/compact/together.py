"""Writing several texts at once: one pass of the language model gives the next token of every text.

A single text is bound by memory: each token reads all weights once. Several texts share that reading. Each row's
instruction is fed by itself (that is bound by arithmetic, and padding would only add to it); then the rows' keys
and values are laid into one store, padded on the left so that all rows end at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from vlmforensics.vlm.decoding import PieceDecoder, in_a_loop


@dataclass(eq=False)
class Row:
    """One text to write.

    Attributes:
        cache: keys and values of what came before, batch of one; consumed.
        prompt: token ids fed first.
        decoder: set up with the forced prefix.
        spaces: spaces that the reader has already got with the prefix.
        text: what was written.
    """

    cache: Any
    prompt: Sequence[int]
    decoder: PieceDecoder
    spaces: str = ""
    text: str = ""
    said: list[int] = field(default_factory=list)
    length: int = 0

    def push(self, piece: str) -> None:
        """Append text, without the spaces that are there already."""
        self.text += piece.lstrip(" ") if self.spaces and not self.text else piece


def write_together(
    core: Any,
    rows: Sequence[Row],
    *,
    ends: Sequence[int],
    banned: Sequence[int],
    max_new_tokens: int,
    enough: Callable[[int, str], bool],
) -> list[str]:
    """Write all rows greedily; the rules are those of ``vlm.decoding.stream_greedily``.

    Args:
        core: the ``LlavaForConditionalGeneration``.
        rows: see :class:`Row`; changed.
        ends: ids that end a row.
        banned: ids that are never written.
        max_new_tokens: bound for each row.
        enough: given a row's place and its text, True ends it; asked after every piece.

    Returns:
        The rows' texts.
    """
    never = sorted(set(banned) - set(ends))
    with torch.inference_mode():
        live = list(range(len(rows)))
        logits = [_feed(core, row) for row in rows]
        store: _Store | None = None
        for step in range(max_new_tokens):
            going, fed = [], []
            for place, row_logits in zip(live, logits, strict=True):
                row_logits[never] = float("-inf")
                token = int(row_logits.argmax())
                if _take(rows[place], place, token, ends, enough) and step + 1 < max_new_tokens:
                    going.append(place)
                    fed.append(token)
            if not going:
                break
            if store is None:
                store = _Store([rows[place] for place in going], max_new_tokens)
            elif len(going) < len(live):
                store.keep([live.index(place) for place in going])
            live = going
            logits = list(_step(core, store, fed))
    for row in rows:
        row.push(row.decoder.finish())
    return [row.text for row in rows]


def _take(row: Row, place: int, token: int, ends: Sequence[int], enough: Callable[[int, str], bool]) -> bool:
    """Add a token to a row; False where the row ends with it."""
    if token in ends:
        return False
    piece = row.decoder.push(token)
    if piece:
        row.push(piece)
        if enough(place, row.text):
            return False
    row.said.append(token)
    return not in_a_loop(row.said)


def _feed(core: Any, row: Row) -> torch.Tensor:
    """Feed a row's prompt; the logits (V,) of its first token."""
    device = core.get_input_embeddings().weight.device
    ids = torch.tensor([list(row.prompt)], device=device)
    output = core.model.language_model(
        inputs_embeds=core.get_input_embeddings()(ids), past_key_values=row.cache, use_cache=True
    )
    row.length = row.cache.get_seq_length()
    logits: torch.Tensor = core.lm_head(output.last_hidden_state[:, -1])[0].float().cpu().clone()
    return logits


def _step(core: Any, store: _Store, tokens: Sequence[int]) -> torch.Tensor:
    """Feed one token to each row; logits (rows, V)."""
    device = store.mask.device
    ids = torch.tensor(tokens, device=device)[:, None]
    positions = store.advance()
    output = core.model.language_model(
        inputs_embeds=core.get_input_embeddings()(ids),
        past_key_values=store.cache,
        attention_mask=store.mask[:, : store.end],
        position_ids=positions,
        use_cache=True,
    )
    logits: torch.Tensor = core.lm_head(output.last_hidden_state[:, -1]).float().cpu().clone()
    return logits


class _RoomyLayer(DynamicLayer):
    """A cache layer that writes into room it has, where the stock one copies all it holds for every token."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, used: int) -> None:
        super().__init__()
        self.room_keys, self.room_values, self.used = keys, values, used
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.show()

    def show(self) -> None:
        """Present what is used as the stock layer presents all it has."""
        self.keys = self.room_keys[:, :, : self.used]
        self.values = self.room_values[:, :, : self.used]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one more token of each row; all keys and values so far."""
        start, self.used = self.used, self.used + key_states.shape[-2]
        self.room_keys[:, :, start : self.used] = key_states
        self.room_values[:, :, start : self.used] = value_states
        self.show()
        return self.keys, self.values


class _Store:
    """Keys and values of several rows in one place, with room for what will be written."""

    def __init__(self, rows: Sequence[Row], room: int) -> None:
        longest = max(row.length for row in rows)
        first = rows[0].cache.layers[0].keys
        self.mask = torch.zeros((len(rows), longest + room), dtype=torch.long, device=first.device)
        self.lengths = torch.tensor([row.length for row in rows], device=first.device)
        self.end = longest
        for place, row in enumerate(rows):
            self.mask[place, longest - row.length :] = 1  # what is written later included
        self.cache = DynamicCache()
        layers = []
        for index in range(len(rows[0].cache.layers)):
            keys, values = (
                first.new_zeros((len(rows), first.shape[1], longest + room, first.shape[3])) for _ in range(2)
            )
            for place, row in enumerate(rows):
                layer = row.cache.layers[index]
                keys[place, :, longest - row.length : longest] = layer.keys[0]
                values[place, :, longest - row.length : longest] = layer.values[0]
                layer.keys = layer.values = None  # its copy is in the store
            layers.append(_RoomyLayer(keys, values, longest))
        self.cache.layers = layers

    def advance(self) -> torch.Tensor:
        """Make place for one token a row; its positions (rows, 1)."""
        positions = self.lengths[:, None]
        self.lengths = self.lengths + 1
        self.end += 1
        return positions

    def keep(self, places: Sequence[int]) -> None:
        """Drop the rows that have ended."""
        chosen = torch.tensor(list(places), device=self.mask.device)
        self.mask, self.lengths = self.mask[chosen], self.lengths[chosen]
        for layer in self.cache.layers:
            layer.room_keys, layer.room_values = layer.room_keys[chosen], layer.room_values[chosen]
            layer.show()
