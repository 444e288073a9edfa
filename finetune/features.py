"""Cached features of labelled pictures: everything a frozen network or a fixed statistic says, computed once.

A *variant* is one way of preparing every picture: ``raw`` (as found), ``equalised`` (one fixed chain), ``augmented-N``
(the random chain, seed N), ``made-N`` and ``made-equalised`` (a forgery made from each real picture, then one chain or
the other). Each variant is a folder of one small safetensors file per picture, so an interrupted run goes on where it
stopped.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlmforensics.compact.clip import Clip
from vlmforensics.compact.tower import Tower, squash
from vlmforensics.errors import InputError, SettingsError
from vlmforensics.finetune.pictures import Picture, augmented_file, equalised_file, rng_for
from vlmforensics.finetune.tampering import tamper
from vlmforensics.imaging import open_case, resize
from vlmforensics.settings import Settings, load_settings
from vlmforensics.signals.cooccurrence import cooccurrence_features
from vlmforensics.signals.spectrum_features import spectrum_features
from vlmforensics.types import Pixels

LONGEST = 2048
"""Pictures are first cut to this many pixels a side around their centre: native pixels, bounded work."""
DONOR_SIDE = 1024


NAMES = ("patches", "last", "spectrum", "runs", "whole")
"""Features of one picture in one variant:

- ``patches``: float16 (256, 1536), what the projector reads (whole picture at 224 × 224).
- ``last``: float32 (1152,), last tower layer of the whole picture: class token, patch mean, patch deviation (the
  linear-probe baseline).
- ``spectrum``: float32 (d,), ``signals.spectrum_features``.
- ``runs``: float32 (d,), ``signals.cooccurrence``.
- ``whole``: float32 (9216,), ``compact.clip.Clip.read``, what the experts read.
"""


def shrink_to(pixels: Pixels, side: int) -> Pixels:
    """Downscale so that the short side is at most ``side`` pixels."""
    height, width = pixels.shape[:2]
    if min(height, width) <= side:
        return pixels
    scale = side / min(height, width)
    return resize(pixels, max(1, round(width * scale)), max(1, round(height * scale)))


def prepare(picture: Picture, variant: str, donors: Sequence[Picture], settings: Settings) -> bytes:
    """The file of one picture in one variant.

    Args:
        picture: which.
        variant: ``raw``, ``equalised``, ``augmented-N``, ``made-N`` or ``made-equalised``.
        donors: real pictures of the same fold, for forgeries.
        settings: limits of decoding.
    """
    case = open_case(picture.path, settings=settings)
    pixels = case.upright
    if variant == "raw":
        return case.data
    if variant == "equalised":
        return equalised_file(pixels)
    height, width = pixels.shape[:2]
    top, left = max(0, (height - LONGEST) // 2), max(0, (width - LONGEST) // 2)
    pixels = np.ascontiguousarray(pixels[top : top + LONGEST, left : left + LONGEST])
    rng = rng_for(picture, variant)
    kind, _, chain = variant.partition("-")
    if kind == "augmented":
        return augmented_file(pixels, rng)
    if kind == "made":
        donor = open_case(donors[int(rng.integers(len(donors)))].path, settings=settings).upright
        forged = tamper(shrink_to(pixels, DONOR_SIDE), shrink_to(donor, DONOR_SIDE), rng)
        return (
            equalised_file(forged.pixels)
            if chain == "equalised"
            else augmented_file(forged.pixels, rng, crop=False)
        )
    raise SettingsError(f"unknown variant {variant!r}: raw, equalised, augmented-N, made-N or made-equalised")


def measure(tower: Tower, clip: Clip, pixels: Pixels, names: Collection[str] = NAMES) -> dict[str, Any]:
    """The named features of one prepared picture, from at most one pass of each tower."""
    found: dict[str, Any] = {}
    if {"patches", "last"} & set(names):
        seen = tower.features([squash(pixels)])
        layers = [seen.patches[layer].reshape(256, -1) for layer in (4, 8, 10, 12)]
        found["patches"] = np.concatenate(layers, axis=-1).astype(np.float16)
        last = seen.patches[12]
        parts = [seen.cls[12][0], last.mean((1, 2))[0], last.std((1, 2))[0]]
        found["last"] = np.concatenate(parts).astype(np.float32)
    if "spectrum" in names:
        found["spectrum"] = np.asarray(spectrum_features(pixels), np.float32)
    if "runs" in names:
        found["runs"] = cooccurrence_features(pixels)
    if "whole" in names:
        found["whole"] = clip.read(pixels)
    return {name: found[name] for name in names}


def save_features(file: Path, features: Mapping[str, NDArray[Any]]) -> None:
    """Write atomically."""
    from safetensors.numpy import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    save_file({name: np.ascontiguousarray(value) for name, value in features.items()}, part)
    part.replace(file)


def feature_file(cache: Path, variant: str, picture: Picture) -> Path:
    """Where the features of one picture lie."""
    return cache / variant / f"{picture.sha256[:24]}.safetensors"


def stored(file: Path) -> list[str]:
    """Names of the features that a file holds; none where there is no such file."""
    from safetensors import safe_open

    if not file.exists():
        return []
    with safe_open(file, framework="numpy") as tensors:
        return sorted(tensors.keys())


def load_features(cache: Path, variant: str, picture: Picture, names: Sequence[str]) -> dict[str, Any] | None:
    """The named arrays of one picture, or None where not all of them were computed."""
    from safetensors import safe_open

    file = feature_file(cache, variant, picture)
    if not file.exists():
        return None
    with safe_open(file, framework="numpy") as tensors:
        if not set(names) <= set(tensors.keys()):
            return None
        return {name: tensors.get_tensor(name) for name in names}


def matrix_tiles() -> bool:
    """Whether the processor has matrix tiles for bfloat16, which is three times as fast with them."""
    tiles: Callable[[], bool] = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return tiles()


def compute(
    tower: Tower,
    clip: Clip,
    pictures: Sequence[Picture],
    folds: Sequence[int],
    cache: Path,
    variant: str,
    *,
    part: tuple[int, int] = (0, 1),
    only: Collection[str] | None = None,
    names: Collection[str] = NAMES,
) -> Iterator[str]:
    """Fill the cache of one variant; yields a progress line now and then.

    Args:
        tower: the language model's frozen tower.
        clip: the expert's.
        pictures: all of them; forgeries are made of the real ones only.
        folds: of each picture: a forgery's donor comes from the same fold.
        cache: folder.
        variant: see the module.
        part: (index, count), to split the work over processes.
        only: SHA-256 of the pictures to compute; all by default. The rest may still lend parts to forgeries.
        names: of the features wanted; what a picture has already of others is kept.

    Raises:
        SettingsError: no such feature or variant.
    """
    if unknown := sorted(set(names) - set(NAMES)):
        raise SettingsError(f"there are no features {unknown[0]!r}, but {', '.join(NAMES)}")
    settings = load_settings(sandbox=False)
    made = variant.startswith("made")
    todo = [
        i
        for i, picture in enumerate(pictures)
        if (not made or picture.label == "real") and (only is None or picture.sha256 in only)
    ]
    todo = sorted(todo, key=lambda i: hashlib.sha256(pictures[i].sha256.encode()).digest())[
        part[0] :: part[1]
    ]
    donors = {
        fold: [p for p, f in zip(pictures, folds, strict=True) if p.label == "real" and f == fold]
        for fold in set(folds)
    }
    started, skipped, fast = time.monotonic(), 0, matrix_tiles()
    for done, index in enumerate(todo, start=1):
        picture = pictures[index]
        file = feature_file(cache, variant, picture)
        missing = [name for name in NAMES if name in names and name not in stored(file)]
        if missing:
            try:
                data = prepare(picture, variant, donors[folds[index]], settings)
                pixels = open_case(data, settings=settings).upright
                if min(pixels.shape[:2]) >= 112:
                    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=fast):
                        found = measure(tower, clip, pixels, missing)
                    save_features(
                        file, {**(load_features(cache, variant, picture, stored(file)) or {}), **found}
                    )
                else:
                    skipped += 1
            except InputError as error:
                skipped += 1
                yield f"{variant}: left out {error}"
        if done % 100 == 0 or done == len(todo):
            rate = done / (time.monotonic() - started)
            yield f"{variant}: {done} of {len(todo)}, {rate:.1f} a second, {skipped} left out"
