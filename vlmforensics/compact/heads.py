"""Heads on the language model's hidden states."""

from __future__ import annotations

import torch
from torch import nn

from vlmforensics.compact import layout
from vlmforensics.types import LABELS


class LabelHead(nn.Module):
    """Label logits from the state at ``[CLS]``: LayerNorm → Linear(576, 128) → GELU → Linear(128, 3)."""

    def __init__(self, width: int = layout.LANGUAGE_WIDTH, hidden: int = 128) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, len(LABELS))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Unnormalised logits (B, 3) in the order of ``types.LABELS``, from ``state`` (B, 576)."""
        logits: torch.Tensor = self.outer(nn.functional.gelu(self.inner(self.norm(state))))
        return logits

    def log_probs(self, state: torch.Tensor) -> torch.Tensor:
        """Natural-log probabilities (B, 3)."""
        return torch.log_softmax(self(state).float(), dim=-1)
