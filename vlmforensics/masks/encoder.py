"""The compact image encoder: what stands in for SAM's ViT on a CPU.

Three streams meet in one 64 × 64 × 256 embedding that covers the whole picture, stretched to the square (so
one cell is ``H/64 × W/64`` native pixels, and a mask on this frame is simply resized back to the upright
size):

- the frozen vision tower's patch features: what is in the picture;
- the forensic stream: fixed residual and spectrum filters on native pixels, a small convnet, then pooling;
- the maps of the blending detector, where there are any: boundary, and foreign region.

Manipulation shows as *inconsistency*, so forensic features are given twice: as they are, and standardised
over the picture (how far is this place from the rest of it?).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vlmforensics.masks.residuals import (
    BLOCK,
    BLOCK_GRID,
    CORE,
    RESIDUALS,
    SPECTRUM,
    LocalSpectrum,
    ResidualBank,
    is_sampled,
    luma_planes,
    sample_blocks,
)
from vlmforensics.types import Pixels, Traces

GRID = 64
"""Cells per side of the image embedding."""
TRACE_CHANNELS = 5
SPAN = 6.0
"""Logits of the region map are cut at this size."""
BLOCKS_AT_ONCE = 128
"""Sampled blocks convolved together: bounds the memory of a large picture."""


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoder.

    Attributes:
        layers: tower layers whose patch features are read (0 = the patch embedding, n = after block n).
        tower_channels: their channels.
        width: channels of the forensic stream after pooling.
        semantic: channels of the tower stream.
        blocks: context blocks at 64 × 64.
        channels: of the embedding; what the mask decoder expects.
    """

    layers: tuple[int, ...] = (4, 8, 12)
    tower_channels: int = 384
    width: int = 96
    semantic: int = 96
    blocks: int = 4
    channels: int = 256


class ContextBlock(nn.Module):
    """Depth-wise 7 × 7 convolution, two point-wise layers, residual path (ConvNeXt, Liu et al. 2022).

    Works channels-last, where a point-wise convolution is a plain matrix product: several times faster
    on a CPU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, 2 * channels)
        self.narrow = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → the same shape."""
        near = self.spatial(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        inner: Tensor = self.narrow(F.gelu(self.widen(self.norm(near))))
        return x + inner


class NativeStream(nn.Module):
    """Convolutions at native resolution: planes → features at a quarter of it, and spectra at an eighth."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.residuals = ResidualBank()
        self.spectrum = LocalSpectrum()
        self.first = nn.Conv2d(RESIDUALS, 24, 5, stride=2, padding=2)
        self.second = nn.Conv2d(24, width // 2, 3, stride=2, padding=1)
        self.third = nn.Conv2d(width // 2, width // 2, 3, padding=1)

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) → ((B, width/2, ~H/4, ~W/4), (B, SPECTRUM, ~H/8, ~W/8))."""
        x = F.gelu(self.first(self.residuals(planes)))
        x = F.gelu(self.second(x))
        return F.gelu(self.third(x)), self.spectrum(planes)


class ForensicStream(nn.Module):
    """Native features pooled to the 64 × 64 grid, by mean and by spread, then context blocks."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.native = NativeStream(config.width)
        # Mean and standard deviation inside each cell: noise shows in the second moment.
        pooled = 2 * (config.width // 2) + SPECTRUM
        self.merge = nn.Linear(2 * pooled, config.width)
        self.blocks = nn.Sequential(*(ContextBlock(config.width) for _ in range(config.blocks)))

    def forward(self, pixels: Pixels) -> Tensor:
        """uint8 (H, W, 3) of any size → (1, 64, 64, width)."""
        pooled = self._pool_blocks(pixels) if is_sampled(*pixels.shape[:2]) else self._pool_whole(pixels)
        spread, mean = torch.std_mean(pooled, dim=(2, 3), keepdim=True)
        relative = ((pooled - mean) / (spread + 0.05)).clamp(-6, 6)
        both = torch.cat([pooled, relative], dim=1).permute(0, 2, 3, 1).contiguous()
        merged: Tensor = self.blocks(self.merge(both))
        return merged

    def _device(self) -> torch.device:
        return self.merge.weight.device

    def _pool_whole(self, pixels: Pixels) -> Tensor:
        planes = torch.from_numpy(luma_planes(pixels))[None].to(self._device())
        features, spectrum = self.native(planes)
        return torch.cat([_moments(features, GRID), F.adaptive_avg_pool2d(spectrum, GRID)], dim=1)

    def _pool_blocks(self, pixels: Pixels) -> Tensor:
        """Read a large picture by native blocks; each gives 2 × 2 cells of the grid, from its core only."""
        blocks = sample_blocks(pixels)
        cells, margin = GRID // BLOCK_GRID, (BLOCK - CORE) // 2
        parts = []
        for start in range(0, len(blocks), BLOCKS_AT_ONCE):
            planes = np.stack([luma_planes(block) for block in blocks[start : start + BLOCKS_AT_ONCE]])
            features, spectrum = self.native(torch.from_numpy(planes).to(self._device()))
            near, far = margin // 4, margin // 8
            features = features[..., near : near + CORE // 4, near : near + CORE // 4]
            spectrum = spectrum[..., far : far + CORE // 8, far : far + CORE // 8]
            parts.append(
                torch.cat([_moments(features, cells), F.adaptive_avg_pool2d(spectrum, cells)], dim=1)
            )
        grid = torch.cat(parts)
        channels = grid.shape[1]
        grid = grid.view(BLOCK_GRID, BLOCK_GRID, channels, cells, cells).permute(2, 0, 3, 1, 4)
        return grid.reshape(1, channels, GRID, GRID)


def _moments(features: Tensor, side: int) -> Tensor:
    """Mean and standard deviation of (B, C, h, w) in each of side × side cells → (B, 2C, side, side)."""
    mean = F.adaptive_avg_pool2d(features, side)
    square = F.adaptive_avg_pool2d(features.square(), side)
    return torch.cat([mean, (square - mean.square()).clamp_min(1e-6).sqrt()], dim=1)


class TowerStream(nn.Module):
    """Patch features of the frozen tower, projected, summed over layers, brought to 64 × 64; or 'absent'."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layers = config.layers
        self.norms = nn.ModuleList(nn.LayerNorm(config.tower_channels) for _ in config.layers)
        self.projections = nn.ModuleList(
            nn.Linear(config.tower_channels, config.semantic) for _ in config.layers
        )
        self.absent = nn.Parameter(torch.zeros(config.semantic))

    def forward(self, patches: Mapping[int, Tensor] | None) -> Tensor:
        """Layer → (rows, columns, tower_channels), or None → (1, 64, 64, semantic)."""
        if not patches:
            return self.absent.expand(1, GRID, GRID, -1)
        device = self.absent.device
        total = torch.zeros((), device=device)
        for layer, norm, projection in zip(self.layers, self.norms, self.projections, strict=True):
            total = total + projection(norm(patches[layer].to(device, torch.float32)))
        square = F.gelu(total).permute(2, 0, 1)[None]
        return F.interpolate(square, (GRID, GRID), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


def pooled_traces(traces: Traces | None, device: torch.device) -> Tensor:
    """The blending maps on the grid: float32 (1, GRID, GRID, TRACE_CHANNELS).

    Channels: the strongest boundary of each cell (thin lines would vanish in a mean), whether there is such a map, mean
    and maximum of the region map's logits divided by ``SPAN``, and whether there is such a map.
    """
    found = torch.zeros(1, GRID, GRID, TRACE_CHANNELS, device=device)
    if traces is None:
        return found
    found[..., 0] = F.adaptive_max_pool2d(_plane(traces.boundary, device), GRID)
    found[..., 1] = 1
    if traces.region is not None:
        logits = torch.logit(_plane(traces.region, device), eps=1e-6).clamp(-SPAN, SPAN) / SPAN
        found[..., 2] = F.adaptive_avg_pool2d(logits, GRID)
        found[..., 3] = F.adaptive_max_pool2d(logits, GRID)
        found[..., 4] = 1
    return found


def _plane(values: NDArray[np.float32], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None].to(device)


class CompactEncoder(nn.Module):
    """Pixels, tower patches and blending maps → image embedding and a coarse map."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.forensic = ForensicStream(config)
        self.tower = TowerStream(config)
        inputs = config.width + config.semantic + TRACE_CHANNELS
        self.fuse = nn.Linear(inputs, config.channels // 2)
        self.context = nn.Sequential(ContextBlock(config.channels // 2), ContextBlock(config.channels // 2))
        self.expand = nn.Linear(config.channels // 2, config.channels)
        self.norm = nn.LayerNorm(config.channels)
        self.coarse = nn.Linear(config.channels, 1)
        # The detector's region map is the start that everything else corrects.
        self.trust = nn.Parameter(torch.tensor(1.0))

    def forward(
        self, pixels: Pixels, patches: Mapping[int, Tensor] | None, traces: Traces | None
    ) -> tuple[Tensor, Tensor]:
        """Embed one picture.

        Args:
            pixels: uint8 (H, W, 3), upright.
            patches: layer → float (rows, columns, tower_channels) over the whole picture; None or empty:
                absent.
            traces: over the whole picture, or None.

        Returns:
            ``(embedding, coarse)``: (1, channels, 64, 64), and logits (1, 1, 64, 64) of the encoder alone.
        """
        forensic = self.forensic(pixels)
        drawn = pooled_traces(traces, forensic.device)
        fused = self.fuse(torch.cat([forensic, self.tower(patches), drawn], dim=-1))
        embedding = self.norm(self.expand(F.gelu(self.context(fused))))
        coarse: Tensor = self.coarse(embedding) + self.trust * SPAN * drawn[..., 2:3]
        return embedding.permute(0, 3, 1, 2), coarse.permute(0, 3, 1, 2)
