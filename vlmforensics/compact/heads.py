"""Heads on the language model's hidden states, and what supplies the one on ``[CLS]`` with what the experts read."""

from __future__ import annotations

import torch
from torch import nn

from vlmforensics.compact import layout
from vlmforensics.vlm import heads


class LabelHead(heads.LabelHead):
    """Label logits from the state at ``[CLS]``: LayerNorm → Linear(576, 128) → GELU → Linear(128, 3)."""

    def __init__(self, width: int = layout.LANGUAGE_WIDTH, hidden: int = 128) -> None:
        super().__init__(width, hidden)


class ReadingProjector(nn.Module):
    """The experts' log-odds as a vector that is added to the embedding of ``[CLS]``.

    What a small tower misses is supplied by detectors that see it, as numbers and not as words: a language model of
    this size reads no figures. Zeros, for an expert that says nothing, add nothing; untrained, nothing is added at all.

    References:
        Chen et al. 2024, X²-DFD (weak feature supplementing).
    """

    def __init__(self, readings: int = layout.READINGS, width: int = layout.LANGUAGE_WIDTH) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, readings))

    def forward(self, readings: torch.Tensor) -> torch.Tensor:
        """Vectors, float (B, 576), from log-odds (B, 2) in the order of ``whole.EXPERTS``; 0 = nothing is said."""
        most = layout.READING_MOST
        return nn.functional.linear((readings / layout.READING_SCALE).clamp(-most, most), self.weight)
