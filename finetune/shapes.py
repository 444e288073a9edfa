"""Seeded soft masks for made tampering: free shapes, superpixels, brush strokes and face ovals.

Every function takes a picture size in pixels and a generator, and returns float32 (H, W), 1 = inside.
Masks from ``draw`` never touch the outermost pixels: a boundary cut by the frame leaves no trace there.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from vlmforensics.types import Grey, Pixels

SHAPES: tuple[str, ...] = ("ellipse", "polygon", "cloud", "superpixels", "strokes", "face")
_SHAPE_WEIGHTS = np.array([0.15, 0.25, 0.15, 0.25, 0.12, 0.08])
_SMALLEST, _LARGEST = 0.008, 0.5
"""Share of the picture that a mask may cover."""


def _centre_and_radius(height: int, width: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Random centre (x, y) and radius in pixels; log-uniform, so small regions are as common as large."""
    radius = min(height, width) * float(np.exp(rng.uniform(np.log(0.08), np.log(0.38))))
    return (
        float(rng.uniform(0.15, 0.85)) * width,
        float(rng.uniform(0.15, 0.85)) * height,
        radius,
    )


def ellipse(height: int, width: int, rng: np.random.Generator) -> Grey:
    """A rotated ellipse with an aspect ratio of up to 1:2.5."""
    x, y, radius = _centre_and_radius(height, width, rng)
    mask = np.zeros((height, width), np.float32)
    axes = (max(3, round(radius)), max(3, round(radius * float(rng.uniform(0.4, 1.0)))))
    cv2.ellipse(mask, (round(x), round(y)), axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    return mask


def polygon(height: int, width: int, rng: np.random.Generator) -> Grey:
    """A star-shaped outline with a random number of corners, angular or smoothed."""
    x, y, radius = _centre_and_radius(height, width, rng)
    corners = int(rng.integers(4, 14))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = radius * rng.uniform(0.45, 1.25, corners)
    if rng.random() < 0.5:  # a smooth outline: periodic interpolation of the radii
        fine = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        radii = np.interp(fine, angles, radii, period=2 * np.pi)
        kernel = np.hanning(13) / np.hanning(13).sum()
        radii = np.convolve(np.concatenate([radii[-6:], radii, radii[:6]]), kernel, mode="valid")
        angles = fine
    points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    mask = np.zeros((height, width), np.float32)
    cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1.0)
    return mask


def cloud(height: int, width: int, rng: np.random.Generator) -> Grey:
    """A level set of smooth multi-octave noise (Perlin-like), its largest connected part."""
    field = np.zeros((height, width), np.float32)
    for octave in range(3):
        cells = 3 * 2**octave
        coarse = rng.standard_normal((cells + 1, cells + 1)).astype(np.float32)
        field += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    level = float(np.quantile(field, rng.uniform(0.6, 0.93)))
    _, labels, stats, _ = cv2.connectedComponentsWithStats((field > level).astype(np.uint8), connectivity=4)
    if len(stats) < 2:
        return ellipse(height, width, rng)
    return (labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))).astype(np.float32)


def superpixels(pixels: Pixels, rng: np.random.Generator) -> Grey:
    """A few neighbouring superpixels, so that the outline follows edges as a careful cut does.

    References:
        Achanta et al. 2012, SLIC superpixels; segments are computed on a copy of at most 128 px a side.
    """
    from skimage.segmentation import slic

    height, width = pixels.shape[:2]
    scale = min(1.0, 128 / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    labels = slic(
        small, n_segments=int(rng.integers(12, 70)), compactness=float(rng.uniform(4, 20)), start_label=0
    )
    chosen = (
        labels
        == labels[
            int(rng.integers(size[1] // 5, size[1] - size[1] // 5)),
            int(rng.integers(size[0] // 5, size[0] - size[0] // 5)),
        ]
    )
    for _ in range(int(rng.integers(0, 5))):
        ring = cv2.dilate(chosen.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~chosen
        neighbours = np.unique(labels[ring])
        if len(neighbours) == 0:
            break
        chosen = chosen | (labels == rng.choice(neighbours))
    grown = cv2.resize(chosen.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return (grown > 0.5).astype(np.float32)


def strokes(height: int, width: int, rng: np.random.Generator) -> Grey:
    """Thick brush strokes along a wandering line, as painted into an inpainting tool."""
    mask = np.zeros((height, width), np.uint8)
    x, y, radius = _centre_and_radius(height, width, rng)
    thickness = max(5, round(radius * float(rng.uniform(0.25, 0.7))))
    direction = float(rng.uniform(0, 2 * np.pi))
    points = [(x, y)]
    for _ in range(int(rng.integers(2, 9))):
        direction += float(rng.normal(0, 0.9))
        length = radius * float(rng.uniform(0.3, 1.0))
        last_x, last_y = points[-1]
        points.append(
            (
                float(np.clip(last_x + length * np.cos(direction), 0.05 * width, 0.95 * width)),
                float(np.clip(last_y + length * np.sin(direction), 0.05 * height, 0.95 * height)),
            )
        )
    cv2.polylines(mask, [np.round(np.array(points)).astype(np.int32)], False, 1, thickness)
    return mask.astype(np.float32)


def face(height: int, width: int, rng: np.random.Generator) -> Grey:
    """The convex outline of a frontal face: a brow line over a tapering chin (Face X-ray's landmark hull)."""
    x, y, radius = _centre_and_radius(height, width, rng)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    across = np.cos(angle) * float(rng.uniform(0.68, 0.85))
    down = np.sin(angle)
    across = np.where(down > 0, across * (1 - 0.35 * down**2), across)  # the chin is narrower than the brow
    down = np.where(down < 0, down * float(rng.uniform(0.55, 0.9)), down)
    turn = float(rng.normal(0, 0.2))
    outline = np.stack(
        [
            x + radius * (across * np.cos(turn) - down * np.sin(turn)),
            y + radius * (across * np.sin(turn) + down * np.cos(turn)),
        ],
        axis=1,
    )
    outline += rng.normal(0, radius * 0.03, outline.shape)
    mask = np.zeros((height, width), np.float32)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(outline).astype(np.int32)), 1.0)
    return mask


def draw(
    pixels: Pixels, rng: np.random.Generator, *, shapes: Sequence[str] | None = None
) -> tuple[Grey, str]:
    """Draw one hard mask (values 0 and 1) over ``pixels``.

    Args:
        pixels: uint8 (H, W, 3), at least 32 px a side; superpixels follow its edges.
        rng: source of all randomness.
        shapes: names from ``SHAPES`` to choose from uniformly; None = all, in the usual mixture.

    Returns:
        The mask, float32 (H, W), covering 0.8 % to 50 % of the picture, and the shape's name.
    """
    height, width = pixels.shape[:2]
    plain = {"ellipse": ellipse, "polygon": polygon, "cloud": cloud, "strokes": strokes, "face": face}
    edge = 3
    for _ in range(8):
        weights = _SHAPE_WEIGHTS if shapes is None else None
        name = str(rng.choice(list(shapes or SHAPES), p=weights))
        mask = superpixels(pixels, rng) if name == "superpixels" else plain[name](height, width, rng)
        mask[:edge], mask[-edge:], mask[:, :edge], mask[:, -edge:] = 0, 0, 0, 0
        if _SMALLEST <= float(mask.mean()) <= _LARGEST:
            return mask, name
    mask = np.zeros((height, width), np.float32)
    cv2.circle(mask, (width // 2, height // 2), max(4, min(height, width) // 6), 1.0, -1)
    return mask, "ellipse"
