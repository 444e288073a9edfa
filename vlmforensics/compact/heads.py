"""Heads on the language model's hidden states."""

from __future__ import annotations

from vlmforensics.compact import layout
from vlmforensics.vlm import heads


class LabelHead(heads.LabelHead):
    """Label logits from the state at ``[CLS]``: LayerNorm → Linear(576, 128) → GELU → Linear(128, 3)."""

    def __init__(self, width: int = layout.LANGUAGE_WIDTH, hidden: int = 128) -> None:
        super().__init__(width, hidden)
