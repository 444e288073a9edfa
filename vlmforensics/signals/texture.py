"""Contrast between the fine noise of rich and of poor texture.

Generators paint smooth surfaces well and busy ones badly: what their noise looks like depends on the texture otherwise
than a sensor's does. Patches are ranked by their texture, and the residual statistics of the richest and the poorest
third are set against each other.

Reference: Zhong, Xu, Li, Qian & Zhang 2023, PatchCraft: Exploring Texture Patch for Efficient AI-generated Image
Detection (texture diversity, rich and poor patches, high-pass filters of steganalysis).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vlmforensics.signals.maps import luma, too_small
from vlmforensics.signals.spectrum_features import native_crops
from vlmforensics.types import CaseImage, Evidence, Grey, Pixels

PATCH = 32
"""Pixels a side of a patch (PatchCraft's)."""
SIDE = 160
"""Pixels a side under which a picture has too few patches."""
_FILTERS: tuple[NDArray[np.float32], ...] = tuple(
    np.array(kernel, dtype=np.float32)
    for kernel in (
        [[0, 0, 0], [0, -1, 1], [0, 0, 0]],
        [[0, 0, 0], [0, -1, 0], [0, 1, 0]],
        [[0, 0, 0], [1, -2, 1], [0, 0, 0]],
        [[0, 1, 0], [0, -2, 0], [0, 1, 0]],
        [[-1, 2, -1], [2, -4, 2], [-1, 2, -1]],
    )
)
_DIVISORS = (1, 1, 2, 2, 4)
_EDGES = np.array([0.5, 1.5, 3.5, 7.5], dtype=np.float32)
_FLOOR = 1e-3


def _diversity(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum of absolute differences of neighbours in four directions, of each patch (n, 32, 32): float32 (n,)."""
    total = np.abs(np.diff(patches, axis=1)).mean(axis=(1, 2)) + np.abs(np.diff(patches, axis=2)).mean(
        axis=(1, 2)
    )
    total += np.abs(patches[:, 1:, 1:] - patches[:, :-1, :-1]).mean(axis=(1, 2))
    total += np.abs(patches[:, 1:, :-1] - patches[:, :-1, 1:]).mean(axis=(1, 2))
    return np.asarray(total, dtype=np.float32)


def _patches(plane: Grey) -> NDArray[np.float32]:
    rows, columns = plane.shape[0] // PATCH, plane.shape[1] // PATCH
    cut = plane[: rows * PATCH, : columns * PATCH].reshape(rows, PATCH, columns, PATCH)
    return np.ascontiguousarray(cut.transpose(0, 2, 1, 3)).reshape(-1, PATCH, PATCH)


def _levels(residual: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log share of residuals of each size class (5), of patches (n, 32, 32)."""
    share = np.diff([0.0, *(float(np.mean(np.abs(residual) < edge)) for edge in _EDGES), 1.0])
    return np.asarray(np.log(share + _FLOOR))


def texture_features(pixels: Pixels) -> NDArray[np.float32] | None:
    """Describe the residuals of rich and of poor texture.

    Args:
        pixels: uint8 (H, W, 3) at native resolution, both sides at least 160.

    Returns:
        float32 (53,): log ratios of mean texture and of residual energy between both thirds (3), then for each of
        five high-pass filters the log shares of five size classes in poor patches, and rich less poor; or None where
        the picture has under 12 patches with any texture.
    """
    planes = [luma(crop) for crop in native_crops(pixels)]
    patches = np.concatenate([_patches(plane) for plane in planes])
    diversity = _diversity(patches)
    clipped = ((patches > 252) | (patches < 3)).mean(axis=(1, 2)) > 0.2
    usable = np.flatnonzero((diversity > 0.2) & ~clipped)
    if len(usable) < 12:
        return None
    third = len(usable) // 3
    order = usable[np.argsort(diversity[usable], kind="stable")]
    poor, rich = order[:third], order[-third:]
    out = [float(np.log(diversity[rich].mean() / diversity[poor].mean()))]
    energy, levels = [], []
    for kernel, divisor in zip(_FILTERS, _DIVISORS, strict=True):
        filtered = [cv2.filter2D(plane, cv2.CV_32F, kernel / divisor) for plane in planes]
        residual = np.concatenate([_patches(plane) for plane in filtered])
        both = [_levels(residual[group]) for group in (poor, rich)]
        energy.append([float(np.log(np.square(residual[group]).mean() + 0.01)) for group in (poor, rich)])
        levels += [*both[0], *(both[1] - both[0])]
    out += [energy[-1][1] - energy[-1][0], energy[0][1] - energy[0][0]]
    return np.array([*out, *levels], dtype=np.float32)


class TextureContrast:
    """Evidence from how the fine noise of rich texture differs from that of poor texture."""

    name, version, cost = "texture_contrast", "1", "hundredths of a second"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence; an empty list for small pictures and such without texture."""
        if too_small(case, SIDE):
            return []
        vector = texture_features(case.upright)
        if vector is None:
            return []
        texture, noise = float(np.exp(vector[0])), float(np.exp(vector[1] / 2))
        text = (
            f"The richest third of the patches has {texture:.1f} times the texture of the poorest, "
            f"and {noise:.1f} times its fine noise."
        )
        recompute = {"version": self.version, "patch": PATCH, "features": len(vector)}
        return [
            Evidence(
                self.name, text, score=float(vector[1]), vector=tuple(map(float, vector)), recompute=recompute
            )
        ]
