"""Block-DCT arithmetic that the JPEG sources share, on decoded pixels and on the grid of the stored frame."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from vlmforensics.types import Container, Grey

Coefficients = NDArray[np.float32]
"""float32 (r, c, n, n): orthonormal DCT of each 8×8 block, [v, u] = [vertical, horizontal] frequency; n ≤ 8."""

_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29,
    51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121,
    120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99,
    99, 99, 99, 99, *[99] * 32,
)  # fmt: skip
ZIGZAG = tuple(
    sorted(
        ((row, column) for row in range(8) for column in range(8)),
        key=lambda cell: (sum(cell), cell[0] if sum(cell) % 2 else cell[1]),
    )
)
"""(v, u) of the 64 modes in zig-zag order (ITU-T T.81, figure A.6)."""


@cache
def basis() -> NDArray[np.float32]:
    """Orthonormal 8-point DCT-II matrix, float32 (8, 8), rows are frequencies."""
    x, u = np.meshgrid(np.arange(8), np.arange(8))
    matrix = 0.5 * np.cos((2 * x + 1) * u * np.pi / 16)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


def block_dct(plane: Grey, top: int = 0, left: int = 0, lowest: int = 8) -> Coefficients:
    """DCT of all whole 8×8 blocks of a grid that starts at (``top``, ``left``); the level shift of 128 is applied.

    Args:
        plane: float32 (H, W), 0..255.
        top: 0..7.
        left: 0..7.
        lowest: frequencies a direction that are computed.
    """
    rows, columns = (plane.shape[0] - top) // 8, (plane.shape[1] - left) // 8
    part = plane[top : top + 8 * rows, left : left + 8 * columns] - np.float32(128)
    matrix = basis()[:lowest]
    # Two large products; one small product for each block takes several times as long.
    down = np.matmul(matrix, part.reshape(rows, 8, columns * 8))
    both = down.reshape(rows * lowest * columns, 8) @ matrix.T
    return np.asarray(both.reshape(rows, lowest, columns, lowest).transpose(0, 2, 1, 3), dtype=np.float32)


@cache
def standard_table(quality: int, chroma: bool = False) -> NDArray[np.int32]:
    """Quantisation table of libjpeg at a quality 1..100 (jcparams.c): int32 (8, 8), natural order."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = np.array(_CHROMA if chroma else _LUMA, dtype=np.int32)
    return np.clip((base * scale + 50) // 100, 1, 255).reshape(8, 8)


def luma_table(container: Container) -> NDArray[np.int32] | None:
    """The file's luma quantisation table (lowest id): int32 (8, 8), or None for what is no JPEG."""
    tables = container.jpeg.quant_tables if container.jpeg else {}
    return np.asarray(tables[min(tables)], dtype=np.int32) if tables else None


def nearest_quality(table: NDArray[np.int32], chroma: bool = False) -> tuple[int, float]:
    """The libjpeg quality whose table is nearest, and the mean absolute difference from it (0 = standard)."""
    distances = [float(np.abs(standard_table(q, chroma) - table).mean()) for q in range(1, 101)]
    best = int(np.argmin(distances))
    return best + 1, distances[best]
