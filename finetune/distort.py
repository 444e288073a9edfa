"""Seeded processing of pictures: what two sources of a composite differ in, and what both classes share.

``process`` makes one picture look as if it came from another camera or file history; ``recompress`` is the
life of a picture after it was made (resize, mild editing, one or two lossy saves), applied alike to tampered
and authentic pictures so that neither format nor quality tells the label.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from vlmforensics.imaging import decode_trusted, encode
from vlmforensics.imaging.codec import Subsampling
from vlmforensics.types import Grey, Pixels

_INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4, cv2.INTER_NEAREST)
_SUBSAMPLING: tuple[Subsampling, ...] = ("4:2:0", "4:4:4")


def to_uint8(values: np.ndarray) -> Pixels:
    """Round and clip to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def jpeg(pixels: Pixels, quality: int, rng: np.random.Generator) -> Pixels:
    """One JPEG save and load."""
    subsampling = _SUBSAMPLING[int(rng.random() < 0.25)]
    return decode_trusted(encode(pixels, "JPEG", quality=quality, subsampling=subsampling))


def jpeg_off_grid(pixels: Pixels, quality: int, rng: np.random.Generator) -> Pixels:
    """A JPEG save whose 8×8 grid is shifted by 0..7 px each way, as of a part cut from another picture."""
    dy, dx = (int(v) for v in rng.integers(0, 8, 2))
    padded = cv2.copyMakeBorder(pixels, dy, 0, dx, 0, cv2.BORDER_REFLECT_101)
    return np.ascontiguousarray(jpeg(padded, quality, rng)[dy:, dx:])


def colour(pixels: Pixels, rng: np.random.Generator, strength: float = 1.0) -> Pixels:
    """Brightness, contrast, gamma, white balance, hue and saturation, each within plausible limits."""
    values = pixels.astype(np.float32) / 255
    values = values ** float(np.exp(rng.normal(0, 0.15 * strength)))
    values = (values - 0.5) * float(np.exp(rng.normal(0, 0.1 * strength))) + 0.5
    values = values + float(rng.normal(0, 0.04 * strength))
    values = values * np.exp(rng.normal(0, 0.05 * strength, 3)).astype(np.float32)
    if rng.random() < 0.5:
        grey = values.mean(axis=2, keepdims=True)
        values = grey + (values - grey) * float(np.exp(rng.normal(0, 0.25 * strength)))
    out = to_uint8(values * 255)
    if rng.random() < 0.2:
        hsv = cv2.cvtColor(out, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + int(rng.integers(-8, 9))) % 180
        out = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return out


def blur(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Gaussian blur, sigma 0.4 to 1.6 px."""
    return cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.4, 1.6)))


def sharpen(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Unsharp mask, radius 0.6 to 2 px, amount 0.3 to 1.2."""
    values = pixels.astype(np.float32)
    soft = cv2.GaussianBlur(values, (0, 0), float(rng.uniform(0.6, 2.0)))
    return to_uint8(values + float(rng.uniform(0.3, 1.2)) * (values - soft))


def noise(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Sensor-like noise, constant or signal-dependent: 1 to 7 grey levels, grain of one or two pixels."""
    height, width = pixels.shape[:2]
    grain = rng.standard_normal((height, width, 3), dtype=np.float32)
    if rng.random() < 0.3:
        grain = cv2.GaussianBlur(grain, (0, 0), 0.7) * 2.0
    if rng.random() < 0.4:
        grain = np.repeat(grain.mean(axis=2, keepdims=True) * 1.7, 3, axis=2)
    level = float(np.exp(rng.uniform(0, np.log(7))))
    weight = 1.0 if rng.random() < 0.5 else np.sqrt(pixels.astype(np.float32) / 128 + 0.05)
    return to_uint8(pixels + level * weight * grain)


def rescale(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Down to 0.4–0.9 (or up to 1.2–2.0) of the size and back: changes what frequencies there are."""
    height, width = pixels.shape[:2]
    factor = float(rng.uniform(0.4, 0.9)) if rng.random() < 0.75 else float(rng.uniform(1.2, 2.0))
    size = (max(8, round(width * factor)), max(8, round(height * factor)))
    there, back = (_INTERPOLATIONS[int(i)] for i in rng.integers(0, 4, 2))
    return cv2.resize(cv2.resize(pixels, size, interpolation=there), (width, height), interpolation=back)


def shift(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A sub-pixel shift with slight rotation and scaling, as of a part that was moved into place."""
    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D(
        (width / 2, height / 2), float(rng.normal(0, 1.0)), float(np.exp(rng.normal(0, 0.015)))
    )
    matrix[:, 2] += rng.uniform(-1.5, 1.5, 2)
    method = _INTERPOLATIONS[int(rng.integers(0, 2))]
    return cv2.warpAffine(pixels, matrix, (width, height), flags=method, borderMode=cv2.BORDER_REFLECT_101)


def smooth(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Edge-preserving smoothing (median or bilateral): texture and noise go, contours stay."""
    if rng.random() < 0.5:
        return cv2.medianBlur(pixels, int(rng.choice([3, 5])))
    return cv2.bilateralFilter(pixels, 5, float(rng.uniform(12, 45)), 3.0)


def _jpeg_any(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return jpeg_off_grid(pixels, int(rng.integers(35, 93)), rng)


_STEPS: tuple[Callable[[Pixels, np.random.Generator], Pixels], ...] = (
    colour, blur, sharpen, noise, rescale, shift, smooth, _jpeg_any,
)  # fmt: skip
_STEP_WEIGHTS = np.array([0.2, 0.1, 0.12, 0.15, 0.15, 0.1, 0.06, 0.12])


def process(pixels: Pixels, rng: np.random.Generator, *, steps: int | None = None) -> Pixels:
    """Apply one to three different random steps (colour, sharpness, noise, resampling, shift, compression).

    Args:
        pixels: uint8 (H, W, 3).
        rng: source of all randomness.
        steps: how many; None = 1 to 3.

    Returns:
        uint8 (H, W, 3), same size.
    """
    count = int(rng.integers(1, 4)) if steps is None else steps
    for index in rng.choice(len(_STEPS), size=count, replace=False, p=_STEP_WEIGHTS):
        pixels = _STEPS[int(index)](pixels, rng)
    return pixels


def _save(pixels: Pixels, rng: np.random.Generator, lowest: int, highest: int) -> Pixels:
    kind = rng.random()
    quality = int(rng.integers(lowest, highest + 1))
    if kind < 0.76:
        return jpeg(pixels, quality, rng)
    if kind < 0.88:
        return decode_trusted(encode(pixels, "WEBP", quality=quality))
    return pixels  # PNG: lossless, so nothing changes


def recompress(
    pixels: Pixels,
    mask: Grey,
    rng: np.random.Generator,
    *,
    scale: float | None = None,
    quality: tuple[int, int] = (60, 95),
) -> tuple[Pixels, Grey]:
    """The shared last chain: resize, sometimes a mild edit of the whole, one or two saves.

    Args:
        pixels: uint8 (H, W, 3).
        mask: float32 (H, W) in [0, 1]; resized along.
        rng: source of all randomness; the same state gives the same chain whatever the pixels.
        scale: resize factor; None = none in 35 % of cases, else uniform in 0.5..1.2.
        quality: lowest and highest quality of JPEG and WebP saves, inclusive.

    Returns:
        Pixels and mask at the new size (each side at least 16 px).
    """
    chain = np.random.default_rng(int(rng.integers(0, 2**63)))
    if scale is None:
        scale = 1.0 if chain.random() < 0.35 else float(chain.uniform(0.5, 1.2))
    height, width = pixels.shape[:2]
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    if chain.random() < 0.15:
        pixels = jpeg(pixels, int(chain.integers(70, 97)), chain)  # saved once before it was resized
    if size != (width, height):
        method = _INTERPOLATIONS[int(chain.integers(0, 4))]
        pixels = cv2.resize(pixels, size, interpolation=method)
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if chain.random() < 0.2:
        edit = (colour, sharpen, noise, blur)[int(chain.integers(0, 4))]
        pixels = edit(pixels, chain)
    pixels = _save(pixels, chain, *quality)
    if chain.random() < 0.15:
        pixels = _save(pixels, chain, *quality)
    return pixels, np.clip(mask, 0, 1).astype(np.float32)
