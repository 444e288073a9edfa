"""A seeded generator of tampered pictures with their soft masks, made from authentic ones.

Ways of tampering: self-blending (two differently processed copies of one picture under a mask), pastes from
another picture, copy-move, content-aware fill, local re-synthesis and local colour edits; composited by plain
alpha, feathered or Poisson blending. Multi-band (Laplacian pyramid) pastes, local warps and texture synthesis
exist too and are left to evaluation: training never sees them, so they stand for ways that are unknown.

References:
    Shiohara & Yamasaki 2022, Detecting Deepfakes with Self-Blended Images.
    Li et al. 2020, Face X-ray for More General Face Forgery Detection.
    Pérez et al. 2003, Poisson Image Editing. Burt & Adelson 1983, A Multiresolution Spline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vlmforensics.errors import SettingsError
from vlmforensics.finetune import distort
from vlmforensics.finetune.distort import recompress
from vlmforensics.finetune.shapes import draw
from vlmforensics.types import Grey, Pixels

__all__ = ["BLENDS", "KINDS", "UNSEEN_KINDS", "Tampered", "boundary", "recompress", "tamper"]

KINDS: tuple[str, ...] = ("self-blend", "paste", "copy-move", "fill", "resynthesis", "colour")
"""Ways of tampering that training uses."""
UNSEEN_KINDS: tuple[str, ...] = ("multiband-paste", "warp", "texture-fill")
"""Ways that only evaluation uses; training never sees them."""
BLENDS: tuple[str, ...] = ("alpha", "feather", "poisson")
_KIND_WEIGHTS = {
    "self-blend": 0.3,
    "paste": 0.26,
    "copy-move": 0.14,
    "fill": 0.12,
    "resynthesis": 0.12,
    "colour": 0.06,
}
_LEAST_CHANGE = 1.0
"""Mean absolute change inside (or outside) the mask, in grey levels, that counts as tampering."""


@dataclass(frozen=True, eq=False)
class Tampered:
    """A made forgery.

    Attributes:
        pixels: uint8 (H, W, 3).
        mask: float32 (H, W) in [0, 1], the share of foreign content in each pixel.
        kind: from ``KINDS`` or ``UNSEEN_KINDS``.
        blend: how it was composited: ``alpha``, ``feather``, ``poisson`` or ``multiband``.
        shape: name of the mask's shape, see ``shapes.SHAPES``.
    """

    pixels: Pixels
    mask: Grey
    kind: str
    blend: str
    shape: str


def boundary(mask: Grey, *, sigma: float = 2.0) -> Grey:
    """Face X-ray's target 4·m·(1 - m) of a soft mask: 1 where both sources mix evenly, 0 where only one is.

    A hard mask is softened first by a Gaussian of ``sigma`` px, so that its outline gets a width.

    Args:
        mask: float32 (H, W) in [0, 1].
        sigma: px, > 0.

    Returns:
        float32 (H, W) in [0, 1].
    """
    soft = cv2.GaussianBlur(mask, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return np.clip(4 * soft * (1 - soft), 0, 1).astype(np.float32)


def _soften(mask: Grey, rng: np.random.Generator, blend: str) -> Grey:
    """Anti-alias (alpha) or feather a hard mask; a feather is 2 % to 20 % of the region's size wide."""
    if blend == "feather":
        sigma = max(1.0, float(np.sqrt(mask.sum())) * float(np.exp(rng.uniform(np.log(0.02), np.log(0.2)))))
    else:
        sigma = float(rng.uniform(0.4, 1.0))
    soft = cv2.GaussianBlur(mask, (0, 0), sigma)
    if blend == "feather" and rng.random() < 0.3:
        soft = soft * float(rng.uniform(0.75, 1.0))  # a partly transparent layer
    return np.clip(soft, 0, 1)  # blurring overshoots by a rounding error


def _poisson(base: Pixels, layer: Pixels, mask: Grey, rng: np.random.Generator) -> Pixels:
    """Gradient-domain clone of ``layer`` into ``base`` inside ``mask``, in register."""
    binary = (mask > 0.5).astype(np.uint8) * 255
    x, y, width, height = cv2.boundingRect(binary)
    centre = (x + width // 2, y + height // 2)
    mode = cv2.MIXED_CLONE if rng.random() < 0.15 else cv2.NORMAL_CLONE
    clone = cv2.seamlessClone(layer, base, binary.copy(), centre, mode)
    # OpenCV solves for the mask's whole bounding box, so that surroundings drift by some levels: put them back.
    reach = cv2.GaussianBlur(
        cv2.dilate(binary, np.ones((3, 3), np.uint8)).astype(np.float32) / 255, (3, 3), 0
    )
    return distort.to_uint8(base + reach[..., None] * (clone.astype(np.float32) - base))


def _multiband(base: Pixels, layer: Pixels, mask: Grey) -> Pixels:
    """Laplacian-pyramid composite of four levels."""
    height, width = mask.shape
    pad_y, pad_x = -height % 16, -width % 16
    images = [
        cv2.copyMakeBorder(plane.astype(np.float32), 0, pad_y, 0, pad_x, cv2.BORDER_REFLECT_101)
        for plane in (base, layer, mask)
    ]
    below, above, weight = images
    parts = []
    for _ in range(4):
        smaller = [cv2.pyrDown(image) for image in (below, above, weight)]
        detail = [
            image - cv2.pyrUp(small, dstsize=image.shape[1::-1])
            for image, small in zip((below, above), smaller, strict=False)
        ]
        parts.append(detail[0] + weight[..., None] * (detail[1] - detail[0]))
        below, above, weight = smaller
    out = below + weight[..., None] * (above - below)
    for part in reversed(parts):
        out = cv2.pyrUp(out, dstsize=part.shape[1::-1]) + part
    return distort.to_uint8(out[:height, :width])


def _composite(
    base: Pixels, layer: Pixels, mask: Grey, rng: np.random.Generator, blend: str | None = None
) -> tuple[Pixels, Grey, str]:
    """Put ``layer`` over ``base`` where hard ``mask`` is 1; returns pixels, the soft mask and the blend."""
    if blend is None:
        blend = str(rng.choice(BLENDS, p=[0.4, 0.4, 0.2]))
    if blend == "poisson":
        return _poisson(base, layer, mask, rng), _soften(mask, rng, "alpha"), blend
    soft = _soften(mask, rng, "alpha" if blend == "multiband" else blend)
    if blend == "multiband":
        return _multiband(base, layer, soft), soft, blend
    values = base + soft[..., None] * (layer.astype(np.float32) - base)
    return distort.to_uint8(values), soft, blend


def _fit_donor(donor: Pixels, height: int, width: int, rng: np.random.Generator) -> Pixels:
    """A random part of ``donor`` of (height, width), maybe rescaled and mirrored."""
    have_y, have_x = donor.shape[:2]
    least = max(height / have_y, width / have_x)
    factor = max(least, float(np.exp(rng.uniform(np.log(0.5), np.log(1.5)))))
    if abs(factor - 1) < 0.1 and least <= 1:
        factor = 1.0  # no resampling: the part keeps its own history
    if factor != 1.0:
        size = (max(width, round(have_x * factor)), max(height, round(have_y * factor)))
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        donor = cv2.resize(donor, size, interpolation=method)
    y = int(rng.integers(0, donor.shape[0] - height + 1))
    x = int(rng.integers(0, donor.shape[1] - width + 1))
    part = donor[y : y + height, x : x + width]
    return np.ascontiguousarray(part[:, ::-1] if rng.random() < 0.5 else part)


def _match_colours(layer: Pixels, base: Pixels, mask: Grey) -> Pixels:
    """Give ``layer`` the mean and deviation of ``base`` inside the mask (Reinhard et al. 2001, in Lab)."""
    inside = mask > 0.5
    source = cv2.cvtColor(layer, cv2.COLOR_RGB2LAB).astype(np.float32)
    target = cv2.cvtColor(base, cv2.COLOR_RGB2LAB).astype(np.float32)[inside]
    own = source[inside]
    gain = np.clip(target.std(axis=0) / (own.std(axis=0) + 1e-3), 0.5, 2.0)
    values = (source - own.mean(axis=0)) * gain + target.mean(axis=0)
    return cv2.cvtColor(distort.to_uint8(values), cv2.COLOR_LAB2RGB)


def _self_blend(pixels: Pixels, donor: Pixels, rng: np.random.Generator) -> Tampered:
    mask, shape = draw(pixels, rng)
    layer, base = pixels, pixels
    if rng.random() < 0.5:
        layer = distort.process(pixels, rng)
    else:
        base = distort.process(pixels, rng)
    if rng.random() < 0.3:
        layer = distort.shift(layer, rng)
    return Tampered(*_swap(_composite(base, layer, mask, rng)), shape=shape)


def _swap(result: tuple[Pixels, Grey, str], kind: str = "self-blend") -> tuple[Pixels, Grey, str, str]:
    pixels, mask, blend = result
    return pixels, mask, kind, blend


def _paste(pixels: Pixels, donor: Pixels, rng: np.random.Generator) -> Tampered:
    mask, shape = draw(pixels, rng)
    layer = _fit_donor(donor, pixels.shape[0], pixels.shape[1], rng)
    if rng.random() < 0.5:
        layer = _match_colours(layer, pixels, mask)
    if rng.random() < 0.5:
        layer = distort.process(layer, rng, steps=1)
    return Tampered(*_swap(_composite(pixels, layer, mask, rng), "paste"), shape=shape)


def _moved(pixels: Pixels, mask: Grey, rng: np.random.Generator) -> Pixels:
    """``pixels`` shifted (maybe turned and scaled) so that other content of theirs lies under ``mask``."""
    height, width = mask.shape
    x, y, box_width, box_height = cv2.boundingRect((mask > 0.5).astype(np.uint8))
    for _ in range(12):
        new_x = int(rng.integers(0, max(1, width - box_width)))
        new_y = int(rng.integers(0, max(1, height - box_height)))
        if abs(new_x - x) > 0.3 * box_width or abs(new_y - y) > 0.3 * box_height:
            break
    matrix = np.array([[1.0, 0.0, x - new_x], [0.0, 1.0, y - new_y]])
    if rng.random() < 0.4:
        centre = (x + box_width / 2, y + box_height / 2)
        turn = cv2.getRotationMatrix2D(centre, float(rng.normal(0, 12)), float(np.exp(rng.normal(0, 0.12))))
        matrix = turn @ np.vstack([matrix, [0.0, 0.0, 1.0]])
    return cv2.warpAffine(
        pixels, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )


def _copy_move(pixels: Pixels, donor: Pixels, rng: np.random.Generator) -> Tampered:
    mask, shape = draw(pixels, rng)
    layer = _moved(pixels, mask, rng)
    if rng.random() < 0.3:
        layer = distort.process(layer, rng, steps=1)
    return Tampered(*_swap(_composite(pixels, layer, mask, rng), "copy-move"), shape=shape)


def _fill(pixels: Pixels, donor: Pixels, rng: np.random.Generator) -> Tampered:
    """Remove what lies under the mask: diffusion inpainting with re-grained noise, or a patch from nearby."""
    mask, shape = draw(pixels, rng, shapes=("strokes", "superpixels", "ellipse", "polygon"))
    if rng.random() < 0.5 or float(mask.mean()) > 0.12:
        layer = _moved(pixels, mask, rng)
        blend = str(rng.choice(["poisson", "feather"]))
    else:
        method = cv2.INPAINT_TELEA if rng.random() < 0.5 else cv2.INPAINT_NS
        hole = cv2.dilate((mask > 0.5).astype(np.uint8), np.ones((3, 3), np.uint8))
        layer = cv2.inpaint(pixels, hole, 3, method)
        if rng.random() < 0.4:
            layer = distort.noise(layer, rng)
        blend = "alpha"
    return Tampered(*_swap(_composite(pixels, layer, mask, rng, blend), "fill"), shape=shape)


def _resynthesis(pixels: Pixels, donor: Pixels, rng: np.random.Generator) -> Tampered:
    """Content that went through a lossy re-creation: down- and up-sampling, smoothing, sharpening."""
    mask, shape = draw(pixels, rng)
    height, width = mask.shape
    factor = float(rng.uniform(0.2, 0.5))
    small = cv2.resize(
        pixels, (max(8, round(width * factor)), max(8, round(height * factor))), interpolation=cv2.INTER_AREA
    )
    if rng.random() < 0.5:
        small = distort.smooth(small, rng)
    layer = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    keep = float(rng.uniform(0.0, 0.5))  # some detail survives, as it does through an autoencoder
    layer = distort.to_uint8(layer + keep * (distort.smooth(pixels, rng).astype(np.float32) - layer))
    if rng.random() < 0.6:
        layer = distort.sharpen(layer, rng)
    if rng.random() < 0.4:
        layer = distort.noise(layer, rng)
    return Tampered(*_swap(_composite(pixels, layer, mask, rng), "resynthesis"), shape=shape)


def _colour(pixels: Pixels, donor: Pixels, rng: np.random.Generator) -> Tampered:
    mask, shape = draw(pixels, rng)
    blend = str(rng.choice(["alpha", "feather"]))
    return Tampered(
        *_swap(_composite(pixels, distort.colour(pixels, rng, 2.5), mask, rng, blend), "colour"), shape=shape
    )


def _multiband_paste(pixels: Pixels, donor: Pixels, rng: np.random.Generator) -> Tampered:
    mask, shape = draw(pixels, rng)
    layer = _match_colours(_fit_donor(donor, pixels.shape[0], pixels.shape[1], rng), pixels, mask)
    return Tampered(*_swap(_composite(pixels, layer, mask, rng, "multiband"), "multiband-paste"), shape=shape)


def _warp(pixels: Pixels, donor: Pixels, rng: np.random.Generator) -> Tampered:
    """A local warp ("liquify"): content is displaced by up to 15 % of the region's size and resampled."""
    mask, shape = draw(pixels, rng, shapes=("ellipse", "cloud"))
    height, width = mask.shape
    size = float(np.sqrt(mask.sum()))
    soft = cv2.GaussianBlur(mask, (0, 0), max(1.5, 0.12 * size))
    grid_y, grid_x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, reach = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.06, 0.15)) * size
    map_x = (grid_x + soft * reach * np.cos(angle)).astype(np.float32)
    map_y = (grid_y + soft * reach * np.sin(angle)).astype(np.float32)
    layer = cv2.remap(pixels, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return Tampered(layer, np.clip(soft, 0, 1), "warp", "feather", shape)


def _texture_fill(pixels: Pixels, donor: Pixels, rng: np.random.Generator) -> Tampered:
    """Fill with phase-randomised texture of the same picture (same spectrum, no structure), feathered."""
    mask, shape = draw(pixels, rng, shapes=("strokes", "superpixels"))
    height, width = mask.shape
    phase = np.exp(1j * np.angle(np.fft.rfft2(rng.standard_normal((height, width)))))[..., None]
    spectrum = np.fft.rfft2(pixels.astype(np.float32), axes=(0, 1))
    texture = np.fft.irfft2(np.abs(spectrum) * phase, s=(height, width), axes=(0, 1))
    high = texture - cv2.GaussianBlur(texture.astype(np.float32), (0, 0), 4.0)
    hole = cv2.dilate((mask > 0.5).astype(np.uint8), np.ones((3, 3), np.uint8))
    layer = distort.to_uint8(cv2.inpaint(pixels, hole, 3, cv2.INPAINT_TELEA) + high)
    return Tampered(*_swap(_composite(pixels, layer, mask, rng, "feather"), "texture-fill"), shape=shape)


_MAKERS: dict[str, Callable[[Pixels, Pixels, np.random.Generator], Tampered]] = {
    "self-blend": _self_blend,
    "paste": _paste,
    "copy-move": _copy_move,
    "fill": _fill,
    "resynthesis": _resynthesis,
    "colour": _colour,
    "multiband-paste": _multiband_paste,
    "warp": _warp,
    "texture-fill": _texture_fill,
}


def tamper(
    pixels: Pixels, donor: Pixels, rng: np.random.Generator, *, kinds: Sequence[str] | None = None
) -> Tampered:
    """Make one tampered picture.

    Args:
        pixels: uint8 (H, W, 3), the authentic picture, at least 32 px a side; not modified.
        donor: uint8 (h, w, 3), another picture, from which pastes are taken; at least 32 px a side.
        rng: source of all randomness: the same state and pictures give the same result.
        kinds: ways to choose from uniformly, out of ``KINDS`` and ``UNSEEN_KINDS``; None = ``KINDS`` in the
            usual mixture.

    Returns:
        Pixels and mask of the size of ``pixels``; inside the mask, or around
        it, they differ by at least one grey level on average.

    Raises:
        SettingsError: an unknown kind, or a picture under 32 px a side.
    """
    if min(*pixels.shape[:2], *donor.shape[:2]) < 32:
        raise SettingsError("pictures to tamper with must be at least 32 px a side")
    unknown = set(kinds or ()) - set(_MAKERS)
    if unknown:
        raise SettingsError(f"unknown way of tampering {sorted(unknown)}; known: {sorted(_MAKERS)}")
    for _ in range(6):
        if kinds is None:
            kind = str(rng.choice(list(_KIND_WEIGHTS), p=list(_KIND_WEIGHTS.values())))
        else:
            kind = str(rng.choice(list(kinds)))
        made = _MAKERS[kind](pixels, donor, rng)
        change = np.abs(made.pixels.astype(np.int16) - pixels).mean(axis=2)
        inside, outside = made.mask, 1 - made.mask  # self-blending may process the surroundings instead
        if any(
            float((change * part).sum() / (part.sum() + 1e-6)) >= _LEAST_CHANGE for part in (inside, outside)
        ):
            return made
    # A flat picture (all one colour) hides most edits; pasting the donor's negative always shows.
    mask, shape = draw(pixels, rng)
    layer = 255 - cv2.resize(donor, pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
    return Tampered(*_swap(_composite(pixels, layer, mask, rng, "alpha"), "paste"), shape=shape)
