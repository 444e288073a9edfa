"""The DINOv2 tower by itself: patch features of any layer at any size, from the module inside the LLaVA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlmforensics.compact import layout
from vlmforensics.errors import Defect
from vlmforensics.imaging import resize
from vlmforensics.types import Pixels

Features = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TowerFeatures:
    """What the tower saw.

    Attributes:
        patches: layer → float32 (B, rows, columns, 384), row-major from the top left, one vector per 14-pixel
            patch.
        cls: layer → float32 (B, 384), the class token.

    Layer *n* is the residual stream after *n* blocks (0 = embeddings, 12 = last), before the final norm.
    """

    patches: dict[int, Features]
    cls: dict[int, Features]


def squash(pixels: Pixels, side: int = layout.SIDE) -> Pixels:
    """The whole picture as uint8 (side, side, 3), bicubic with antialiasing, aspect not kept.

    Padding to a square would tell the model the aspect ratio, which differs between sources of real and
    synthetic pictures and is no trace of making; a centre crop would hide the border of a tampered picture.
    """
    if pixels.shape[:2] == (side, side):
        return pixels
    return resize(pixels, side, side, resample="bicubic")


def normalise(batch: Sequence[Pixels] | NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """float32 (B, 3, H, W), ImageNet mean and deviation, from uint8 (H, W, 3) arrays of one size."""
    stacked = torch.from_numpy(np.ascontiguousarray(np.stack(list(batch)))).to(device)
    mean = torch.tensor(layout.MEAN, device=device)
    std = torch.tensor(layout.STD, device=device)
    return ((stacked.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def run_tower(module: Any, pixel_values: torch.Tensor, layers: Sequence[int]) -> dict[int, torch.Tensor]:
    """Residual stream after each of ``layers``: float32 (B, 1 + patches, 384), class token first.

    Stops after the deepest layer that is asked for; equal to ``hidden_states`` of the stock module.
    """
    wanted = set(layers)
    stream = module.embeddings(pixel_values)
    found = {0: stream} if 0 in wanted else {}
    for index, block in enumerate(module.encoder.layer[: max(wanted)], start=1):
        stream = block(stream)
        if index in wanted:
            found[index] = stream
    return found


class Tower:
    """The vision tower of a LLaVA, for rooms that want features rather than words.

    Args:
        module: the ``vision_tower`` of the model (shared, not copied).
        device: where it lives.
    """

    def __init__(self, module: Any, device: torch.device) -> None:
        self.module = module
        self.device = device
        self.depth = len(module.encoder.layer)

    def features(
        self, batch: Sequence[Pixels] | NDArray[np.uint8], layers: Sequence[int] = layout.FEATURE_LAYERS
    ) -> TowerFeatures:
        """Features of pictures of one size.

        Args:
            batch: uint8 (H, W, 3) arrays, H and W multiples of 14 (not necessarily equal).
            layers: 0..12, see ``TowerFeatures``.
        """
        height, width = batch[0].shape[:2]
        if height % layout.PATCH or width % layout.PATCH or not (height and width):
            raise Defect(
                f"the tower needs sides that are multiples of {layout.PATCH}, not {width} × {height}"
            )
        if not layers or not all(0 <= layer <= self.depth for layer in layers):
            raise Defect(f"tower layers lie between 0 and {self.depth}, not {list(layers)}")
        with torch.inference_mode():
            streams = run_tower(self.module, normalise(batch, self.device), layers)
        return self._split(streams, height // layout.PATCH, width // layout.PATCH)

    def concatenated(self, batch: Sequence[Pixels] | NDArray[np.uint8]) -> torch.Tensor:
        """What the projector reads: float32 (B, 256, 1536) for 224-pixel squares, layers in order."""
        with torch.inference_mode():
            streams = run_tower(self.module, normalise(batch, self.device), layout.FEATURE_LAYERS)
            return join(streams)

    @staticmethod
    def _split(streams: dict[int, torch.Tensor], rows: int, columns: int) -> TowerFeatures:
        patches, cls = {}, {}
        for layer, stream in streams.items():
            array = stream.float().cpu().numpy()
            cls[layer] = array[:, 0]
            patches[layer] = array[:, 1:].reshape(len(array), rows, columns, -1)
        return TowerFeatures(patches, cls)


def join(streams: dict[int, torch.Tensor]) -> torch.Tensor:
    """Patch features of the projector's layers without class token, concatenated: (B, patches, 1536)."""
    return torch.cat([streams[layer][:, 1:] for layer in layout.FEATURE_LAYERS], dim=-1)
