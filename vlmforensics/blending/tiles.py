"""Running the network over a picture at native resolution: overlapping, feathered tiles, in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmforensics.blending.backbone import STRIDE
from vlmforensics.blending.model import MAP_STRIDE, BlendingNet, score_features
from vlmforensics.types import Grey, Pixels

TILE = 512
OVERLAP = 64
MAX_TILES = 64
"""About 13 megapixels; in larger pictures this many tiles are spread evenly."""
BATCH = 4
_RIM = 8
"""Outermost px of a tile that hardly count where another tile covers them: there the network sees padding."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """What the network measured on one picture.

    Attributes:
        boundary: boundary logits, float32 (H // 4, W // 4); -inf where no tile was laid.
        region: foreign-content logits, same shape.
        features: float32 (WIDTH + 2·len(SHARES),), what the score head reads.
        logit: the score head's output.
        covered: share of the picture under tiles, 0..1.
        tiles: number of tiles.
    """

    boundary: Grey
    region: Grey
    features: NDArray[np.float32]
    logit: float
    covered: float
    tiles: int


def layout(length: int, tile: int, overlap: int) -> tuple[int, list[int]]:
    """Tiles along one side: as few as fit, then as small as they can be, so that little is computed twice.

    Args:
        length: px, a multiple of 16.
        tile: largest side of a tile in px, a multiple of 16.
        overlap: px that neighbours share at least (up to 16 px less by rounding), less than ``tile``.

    Returns:
        Side of a tile, and ascending start positions, all multiples of 16; the last tile ends at ``length``.
    """
    if length <= tile:
        return length, [0]
    count = 1 + -(-(length - tile) // (tile - overlap))
    side = -(-(length + (count - 1) * overlap) // count)
    side = min(tile, -(-side // STRIDE) * STRIDE)
    return side, [round(index * (length - side) / (count - 1) / STRIDE) * STRIDE for index in range(count)]


def spread(positions: list[tuple[int, int]], rows: int, columns: int, most: int) -> list[tuple[int, int]]:
    """At most ``most`` of a grid's positions: whole rows and columns are dropped evenly, corners are kept."""
    if len(positions) <= most:
        return positions
    keep_rows, keep_columns = rows, columns
    while keep_rows * keep_columns > most:
        if keep_rows / rows >= keep_columns / columns and keep_rows > 1:
            keep_rows -= 1
        else:
            keep_columns -= 1
    chosen_rows = set(np.linspace(0, rows - 1, keep_rows).round().astype(int).tolist())
    chosen_columns = set(np.linspace(0, columns - 1, keep_columns).round().astype(int).tolist())
    return [
        position
        for index, position in enumerate(positions)
        if index // columns in chosen_rows and index % columns in chosen_columns
    ]


def _ramp(length: int, overlap: int) -> NDArray[np.float32]:
    """Weights along one side of a tile, at map stride: nearly 0 on the rim, rising to 1 over the overlap."""
    cells, rise = length // MAP_STRIDE, max(1, overlap // MAP_STRIDE)
    rim = min(_RIM // MAP_STRIDE, rise - 1)
    distance = np.minimum(np.arange(cells), np.arange(cells)[::-1]) + 0.5 - rim
    return np.clip(distance / max(1, rise - rim), 1e-3, 1.0).astype(np.float32)


def _batches(items: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def analyse(
    net: BlendingNet,
    pixels: Pixels,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    tile: int = TILE,
    overlap: int = OVERLAP,
    max_tiles: int = MAX_TILES,
    batch: int = BATCH,
) -> Analysis:
    """Measure one picture; nothing is resized.

    Args:
        net: the network, in evaluation mode, on ``device`` and of ``dtype``.
        pixels: uint8 (H, W, 3), each side at least 16 px.
        device: where to compute.
        dtype: how precisely to compute.
        tile: largest side of a tile in px, a multiple of 16.
        overlap: px that neighbouring tiles share at least.
        max_tiles: bound on the work; beyond it tiles are spread evenly and ``covered`` falls below 1.
        batch: tiles per forward pass.

    Returns:
        Maps at stride 4 and what the score head made of them.
    """
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % STRIDE), (0, -width % STRIDE), (0, 0)), mode="symmetric")
    tall, rows = layout(padded.shape[0], tile, overlap)
    wide, columns = layout(padded.shape[1], tile, overlap)
    grid = spread([(y, x) for y in rows for x in columns], len(rows), len(columns), max(1, max_tiles))
    weight = np.outer(_ramp(tall, overlap), _ramp(wide, overlap))
    size = (padded.shape[0] // MAP_STRIDE, padded.shape[1] // MAP_STRIDE)
    sums, weights = np.zeros((2, *size), np.float32), np.zeros(size, np.float32)
    pooled = np.zeros(0, np.float32)
    for positions in _batches(grid, batch):
        stack = np.stack([padded[y : y + tall, x : x + wide] for y, x in positions])
        tensor = torch.from_numpy(stack).to(device).permute(0, 3, 1, 2).to(dtype)
        with torch.inference_mode():
            output = net(tensor.contiguous(memory_format=torch.channels_last))
        maps = torch.stack([output.boundary, output.region], dim=1).float().cpu().numpy()
        part = output.pooled.float().sum(dim=0).cpu().numpy()
        pooled = part if pooled.size == 0 else pooled + part
        for (y, x), values in zip(positions, maps, strict=True):
            cells = (slice(y // 4, (y + tall) // 4), slice(x // 4, (x + wide) // 4))
            sums[:, *cells] += values * weight
            weights[cells] += weight
    return _gather(net, sums, weights, pooled / len(grid), (height, width), len(grid), torch.device(device))


def _gather(
    net: BlendingNet,
    sums: NDArray[np.float32],
    weights: NDArray[np.float32],
    pooled: NDArray[np.floating],
    size: tuple[int, int],
    tiles: int,
    device: torch.device,
) -> Analysis:
    """Divide the feathered sums, crop the padding away, and score the covered cells."""
    rows, columns = max(1, size[0] // MAP_STRIDE), max(1, size[1] // MAP_STRIDE)
    sums, weights = sums[:, :rows, :columns], weights[:rows, :columns]
    seen = weights > 0
    maps = np.where(seen, sums / np.where(seen, weights, 1), -np.inf).astype(np.float32)
    cells = torch.from_numpy(maps[:, seen])[:, None]
    with torch.inference_mode():
        joined: Tensor = score_features(cells[0], cells[1], torch.from_numpy(pooled.astype(np.float32))[None])
        parameter = next(net.head.parameters())
        logit = float(net.head(joined.to(device=device, dtype=parameter.dtype))[0])
    return Analysis(maps[0], maps[1], joined[0].numpy(), logit, float(seen.mean()), tiles)
