"""What stands beside an adapter: a head that reads labels at ``[CLS]``, and the tokens it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlmforensics.errors import AdapterMismatch
from vlmforensics.types import LABELS
from vlmforensics.vlm.quiet import quiet_transformers


class LabelHead(nn.Module):
    """Label logits from the state at ``[CLS]``: LayerNorm → Linear(width, hidden) → GELU → Linear(hidden, 3)."""

    def __init__(self, width: int, hidden: int = 128) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, len(LABELS))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Unnormalised logits (B, 3) in the order of ``types.LABELS``, from ``state`` (B, width)."""
        logits: torch.Tensor = self.outer(nn.functional.gelu(self.inner(self.norm(state))))
        return logits

    def log_probs(self, state: torch.Tensor) -> torch.Tensor:
        """Natural-log probabilities (B, 3)."""
        return torch.log_softmax(self(state).float(), dim=-1)


@dataclass(frozen=True, eq=False)
class Heads:
    """Heads of an adapter.

    Attributes:
        label: reads the labels.
        cls, seg: tokens at the end of the user's turn whose states are read.
        layer: language-model layer whose output is read; -1 = the last.
        masks: folder of a mask head that is prompted by the state at ``seg``, or None.
    """

    label: LabelHead
    cls: str
    seg: str
    layer: int
    masks: Path | None

    @classmethod
    def load(cls, folder: Path, note: Mapping[str, Any], width: int) -> Heads | None:
        """The heads that an adapter's note names; None where it names none.

        Args:
            folder: of the adapter.
            note: its ``vlmforensics.json``.
            width: of the language model's states.

        Raises:
            AdapterMismatch: the note is incomplete, or the head has other keys or another width.
            WeightsCorrupt: the file can't be read.
        """
        from vlmforensics.vlm.adapters import read_tensors

        if "label_head" not in note:
            return None
        try:
            name, layer = Path(str(note["label_head"])).name, int(note["layer"])
            marks = str(note["cls"]), str(note["seg"])
        except (KeyError, TypeError, ValueError) as error:
            raise AdapterMismatch(
                f"the note in {folder} names a label head without cls, seg and layer"
            ) from error
        tensors = {key.removeprefix("label."): value for key, value in read_tensors(folder / name).items()}
        try:
            head = LabelHead(width, int(tensors["inner.weight"].shape[0]))
            head.load_state_dict(tensors)
        except (KeyError, RuntimeError) as error:
            raise AdapterMismatch(
                f"{folder / name} is not a label head for states of {width}: {error}"
            ) from error
        masks = folder / "masks"
        return cls(
            head.float().eval().requires_grad_(False), *marks, layer, masks if masks.is_dir() else None
        )


def extend_vocabulary(model: Any, tokenizer: Any, words: Sequence[str]) -> tuple[int, ...]:
    """Make ``words`` single control tokens, and give them rows; returns their ids.

    LLaVA-1.5's embedding has more rows than its vocabulary has words, and those are taken first. New rows start as the
    mean of the others, so they are the same wherever the base is extended again.
    """
    known = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    fresh = [word for word in words if word not in known]
    if fresh:
        tokenizer.add_special_tokens({"extra_special_tokens": fresh}, replace_extra_special_tokens=False)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        resize_vocabulary(model, len(tokenizer))
        with torch.no_grad():
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                layer.weight[rows:] = layer.weight[:rows].float().mean(0).to(layer.weight.dtype)
    return tuple(int(tokenizer.convert_tokens_to_ids(word)) for word in words)


def resize_vocabulary(model: Any, rows: int) -> None:
    """Embedding and output layer with so many rows; those that stay are unchanged."""
    with quiet_transformers():
        model.resize_token_embeddings(rows, mean_resizing=False)
