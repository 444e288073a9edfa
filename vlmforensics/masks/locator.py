"""Where a picture looks edited to CLIP: a small network on the patch tokens of the frozen tower.

What shows an edit to the experts on the whole picture shows, coarser, where it is: a patch whose tokens differ from the
picture's own. Resizing and JPEG take away the traces at an edit's border sooner than that. The map is the start that
the mask network corrects.

Reference:
    Smeu, Oneata & Oneata 2025, DeCLIP: Decoding CLIP Representations for Deepfake Localization (a decoder on the patch
    tokens of a frozen CLIP).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vlmforensics.types import Pixels

LAYERS = (3, 6, 9, 12)
"""Blocks whose patch tokens are read."""
SIDE = 336
"""Pixels a side of the square that the tower sees: 21 × 21 patches of 16 pixels."""
CHANNELS = len(LAYERS) * 768
HIDDEN = 128


class PatchReader(Protocol):
    """A tower that gives patch tokens (``compact.clip.Clip``)."""

    def patch_tokens(self, pixels: Pixels, side: int, layers: tuple[int, ...]) -> NDArray[np.float32]:
        """float32 (side / 16, side / 16, channels) of the whole picture, aspect not kept."""
        ...


class Locator(nn.Module):
    """Patch tokens, standardised over the picture, → a logit a patch that it is edited."""

    def __init__(self, channels: int = CHANNELS, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.wide = nn.Linear(channels, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, tokens: Tensor, dropout: float = 0.0) -> Tensor:
        """(B, n, channels), the patches of B pictures, → (B, n) logits.

        Args:
            tokens: as the tower gives them.
            dropout: share of hidden units left out, in training.
        """
        mean, spread = tokens.mean(1, keepdim=True), tokens.std(1, keepdim=True)
        hidden = nn.functional.gelu(self.wide((tokens - mean) / (spread + 0.1)))
        logits: Tensor = self.out(nn.functional.dropout(hidden, dropout, self.training))[..., 0]
        return logits

    def read(self, tower: PatchReader, pixels: Pixels) -> NDArray[np.float32]:
        """Logits of one upright picture uint8 (H, W, 3): float32 (21, 21)."""
        return self.draw(tower.patch_tokens(pixels, SIDE, LAYERS))

    def draw(self, tokens: NDArray[np.floating]) -> NDArray[np.float32]:
        """Logits of the patches of one picture: float (rows, columns, channels) → float32 (rows, columns)."""
        seen = torch.from_numpy(tokens.reshape(1, -1, tokens.shape[-1]).astype(np.float32))
        with torch.inference_mode():
            logits = self(seen.to(self.out.weight.device))
        found: NDArray[np.float32] = logits.reshape(tokens.shape[:2]).cpu().numpy()
        return found
