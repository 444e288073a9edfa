"""Fixed forensic filters on native pixels: noise residuals (SRM) and the local spectrum on the 8×8 grid.

Both are computed before anything is resized, because a resize wipes out what they measure. Pictures of up to
:data:`MAX_WHOLE_PIXELS` are read whole; larger ones are sampled by native blocks (see :func:`sample_blocks`),
so that time and memory stay bounded whatever the picture's size.

References:
    Fridrich & Kodovský 2012, "Rich Models for Steganalysis of Digital Images" (the residual kernels).
    Zhou et al. 2018, "Learning Rich Features for Image Manipulation Detection" (three of them as a noise
    stream).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vlmforensics.types import Pixels

MAX_WHOLE_PIXELS = 2_000_000
"""Pictures with more pixels are sampled by blocks."""
BLOCK_GRID = 32
"""Blocks per side of a sampled picture."""
BLOCK = 48
"""Side of a sampled block in native pixels, a multiple of 8."""
CORE = 32
"""Side of the part of a block whose features are kept; the rest is context for the convolutions."""
RESIDUALS = 7
"""Channels of :class:`ResidualBank`."""
SPECTRUM = 64
"""Channels of :class:`LocalSpectrum`."""


def luma_planes(pixels: Pixels) -> NDArray[np.float32]:
    """Y, Cb, Cr (BT.601, full range) of ``pixels``: float32 (3, H, W), Y in 0..255, chroma in -128..127."""
    rgb = pixels.astype(np.float32)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return np.stack([luma, (blue - luma) * 0.564, (red - luma) * 0.713])


def sample_blocks(pixels: Pixels) -> NDArray[np.uint8]:
    """Take one native block from each cell of a ``BLOCK_GRID`` × ``BLOCK_GRID`` division of a large picture.

    Each block is ``BLOCK`` × ``BLOCK`` untouched pixels around its cell's centre, with its corner moved to
    the nearest multiple of 8 below, so that the JPEG grid keeps its phase; blocks never leave the picture.

    Args:
        pixels: uint8 (H, W, 3), both sides at least ``BLOCK``.

    Returns:
        uint8 (BLOCK_GRID², BLOCK, BLOCK, 3), row by row.
    """
    height, width = pixels.shape[:2]
    rows, columns = (_corners(side) for side in (height, width))
    blocks = [pixels[y : y + BLOCK, x : x + BLOCK] for y in rows for x in columns]
    return np.stack(blocks)


def _corners(side: int) -> list[int]:
    centres = (np.arange(BLOCK_GRID) + 0.5) * side / BLOCK_GRID
    last = (side - BLOCK) // 8 * 8
    return [int(np.clip((centre - BLOCK / 2) // 8 * 8, 0, last)) for centre in centres]


def is_sampled(height: int, width: int) -> bool:
    """True where a picture of this size is read by blocks instead of whole."""
    return height * width > MAX_WHOLE_PIXELS and min(height, width) >= BLOCK_GRID * 8


def _kernels() -> NDArray[np.float32]:
    """Five luma kernels, (5, 5, 5): first order → and ↓, second order, 3×3 square, 5×5 square (KV)."""
    bank = np.zeros((5, 5, 5), dtype=np.float32)
    bank[0, 2, 2:4] = (-1, 1)
    bank[1, 2:4, 2] = (-1, 1)
    bank[2, 2, 1:4] = np.array((1, -2, 1)) / 2
    bank[3, 1:4, 1:4] = np.array(((-1, 2, -1), (2, -4, 2), (-1, 2, -1))) / 4
    bank[4] = (
        np.array(
            (
                (-1, 2, -2, 2, -1),
                (2, -6, 8, -6, 2),
                (-2, 8, -12, 8, -2),
                (2, -6, 8, -6, 2),
                (-1, 2, -2, 2, -1),
            )
        )
        / 12
    )
    return bank


class ResidualBank(nn.Module):
    """SRM residuals of luma and the square residual of both chroma planes, truncated and scaled.

    Residuals are clipped to ±12 grey levels, as SRM truncates them, so that strong edges do not drown the
    noise.
    """

    luma: Tensor
    chroma: Tensor

    def __init__(self) -> None:
        super().__init__()
        kernels = torch.from_numpy(_kernels())
        self.register_buffer("luma", kernels[:, None], persistent=False)
        self.register_buffer("chroma", kernels[3][None, None].repeat(2, 1, 1, 1), persistent=False)

    def forward(self, planes: Tensor) -> Tensor:
        """(B, 3, H, W) from :func:`luma_planes` → (B, RESIDUALS, H, W) in [-3, 3]."""
        padded = F.pad(planes, (2, 2, 2, 2), mode="replicate")
        luma = F.conv2d(padded[:, :1], self.luma)
        chroma = F.conv2d(padded[:, 1:], self.chroma, groups=2)
        return torch.cat([luma, chroma], dim=1).clamp(-12, 12) / 4


class LocalSpectrum(nn.Module):
    """Log magnitudes of the 64 DCT coefficients of each 8×8 luma block of the picture's own grid.

    A region that was blurred, resampled, denoised or compressed differently has another local spectrum than
    the rest; and blocks of a shifted JPEG grid spread energy differently over the coefficients.
    """

    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        index = np.arange(8)
        one = np.cos((2 * index[None] + 1) * index[:, None] * math.pi / 16) * 0.5
        one[0] *= math.sqrt(0.5)
        basis = np.einsum("ui,vj->uvij", one, one).reshape(64, 1, 8, 8).astype(np.float32)
        self.register_buffer("basis", torch.from_numpy(basis), persistent=False)

    def forward(self, planes: Tensor) -> Tensor:
        """(B, 3, H, W) from :func:`luma_planes` → (B, SPECTRUM, ceil(H/8), ceil(W/8)), about [-2, 2]."""
        height, width = planes.shape[-2:]
        padded = F.pad(planes[:, :1], (0, -width % 8, 0, -height % 8), mode="replicate")
        coefficients = F.conv2d(padded - 128, self.basis, stride=8)
        return torch.log2(coefficients.abs() + 0.25) / 4
