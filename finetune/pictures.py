"""Labelled pictures: the manifest, splits that keep families of sources together, and the two recompression chains.

Labels of found data differ in format, size and quality. ``augmented_file`` sends every label through one
random chain, so that training can't lean on them; ``equalised_file`` sends every picture through one fixed chain, so
that evaluation can show what is left without them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from vlmforensics.errors import SettingsError
from vlmforensics.imaging import decode_trusted, encode, resize
from vlmforensics.imaging.codec import Subsampling
from vlmforensics.types import LABELS, Label, Pixels

EQUAL_SIDE = 448
EQUAL_QUALITY = 90
FORGERIES = "tamper"
"""First folder of the found forgeries and of their originals."""


@dataclass(frozen=True)
class Picture:
    """One line of a manifest.

    Attributes:
        path: of the picture file.
        label: ``real``, ``synthetic`` or ``tampered``.
        source: where it was found.
        scene: links a tampered picture with its original; empty where unknown.
        mask: path of the 8-bit mask, 255 = tampered, or None.
        sha256: of the file.
        kind: generator or manipulation; empty where unknown.
        part: first folder of the path.
    """

    path: Path
    label: Label
    source: str
    scene: str
    mask: Path | None
    sha256: str
    kind: str
    part: str

    @property
    def family(self) -> str:
        """Sources that share a site, a photographer or prompts are one family and never straddle folds.

        ``held_back`` goes by source, so there they may; see ``familiar_families``.
        """
        return self.source.split("_")[0].removesuffix("art")


def load_manifest(data: Path) -> list[Picture]:
    """Read ``manifest.jsonl`` in ``data``.

    Raises:
        SettingsError: no manifest there, or a line without path, label, source or sha256.
    """
    file = data / "manifest.jsonl"
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        pictures = [
            Picture(
                path=data / row["path"],
                label=row["label"],
                source=row["source"],
                scene=row.get("scene_id") or "",
                mask=data / row["mask"] if row.get("mask") else None,
                sha256=row["sha256"],
                kind=row.get("generator") or row.get("manipulation") or "",
                part=row["path"].split("/")[0],
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError) as error:
        raise SettingsError(f"can't read pictures from {file}: {error!r}") from error
    strange = {picture.label for picture in pictures} - set(LABELS)
    if strange:
        raise SettingsError(f"{file} has unknown labels {sorted(strange)}")
    return pictures


class Labelled(Protocol):
    """What decides a picture's fold."""

    @property
    def label(self) -> str:
        """One of ``LABELS``; others are spread as they come."""
        ...

    @property
    def family(self) -> str:
        """Sources that are alike."""
        ...


def assign_folds(pictures: Sequence[Labelled], count: int) -> list[int]:
    """Fold of each picture, families kept whole, labels spread evenly: greedy, largest family first.

    Deterministic: ties go by name. A scene never straddles folds, as scenes stay within their source.
    """
    sizes: dict[str, Counter[str]] = {}
    for picture in pictures:
        sizes.setdefault(picture.family, Counter())[picture.label] += 1
    share = {label: max(1, sum(size[label] for size in sizes.values()) / count) for label in LABELS}
    filled: list[Counter[str]] = [Counter() for _ in range(count)]
    home: dict[str, int] = {}

    def crowding(fold: int, extra: Counter[str]) -> float:
        now = sum((filled[fold][label] / share[label]) ** 2 for label in LABELS)
        return float(
            sum(((filled[fold][label] + extra[label]) / share[label]) ** 2 for label in LABELS) - now
        )

    for family in sorted(sizes, key=lambda name: (-sizes[name].total(), name)):
        home[family] = min(range(count), key=lambda fold: (crowding(fold, sizes[family]), fold))
        filled[home[family]] += sizes[family]
    return [home[picture.family] for picture in pictures]


def held_back(source: str) -> bool:
    """True for the sources that the blending detector and the mask head never train on (a fifth, by name's hash)."""
    return int(hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest(), 16) % 5 == 0


def familiar_families(pictures: Iterable[Picture]) -> set[str]:
    """Families that the blending detector and the mask head may know: they have a source that is not held back.

    Found forgeries and their originals don't count, for neither was ever trained on one.
    """
    return {p.family for p in pictures if p.part != FORGERIES and not held_back(p.source)}


def is_unfamiliar(picture: Picture, familiar: set[str]) -> bool:
    """Whether networks that know the ``familiar`` families have an unbiased word of a picture."""
    return picture.label == "tampered" or picture.family not in familiar


def share_of(text: str) -> tuple[int, int]:
    """``I/N``, which share of the work to do or which fold, as two numbers.

    Raises:
        SettingsError: it is something else, or there is no such share.
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise SettingsError(f"a share or fold is I/N with I from 0 to N-1, as 4/5, not {text!r}")
    return int(index), int(count)


def rng_for(picture: Picture, purpose: str, seed: int = 0) -> np.random.Generator:
    """A generator that depends on the picture, the purpose and the seed alone."""
    digest = hashlib.sha256(f"{picture.sha256}/{purpose}/{seed}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def equalised_file(pixels: Pixels) -> bytes:
    """The fixed chain of evaluation: centre square, 448 × 448 pixels, JPEG quality 90, 4:2:0."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = resize(pixels[top : top + side, left : left + side], EQUAL_SIDE, EQUAL_SIDE)
    return encode(square, "JPEG", quality=EQUAL_QUALITY)


def augment(pixels: Pixels, rng: np.random.Generator, *, crop: bool = True) -> Pixels:
    """The random chain that every label goes through, as pixels; see ``augmented_file``."""
    return decode_trusted(augmented_file(pixels, rng, crop=crop))


def augmented_file(pixels: Pixels, rng: np.random.Generator, *, crop: bool = True) -> bytes:
    """The random chain that every label goes through: crop, resize, recompress.

    Args:
        pixels: uint8 (H, W, 3).
        rng: decides everything.
        crop: keep 60-100 % of each side at random; False keeps the frame.

    Returns:
        A picture file, short side 224-900 pixels: JPEG 60-97 (sometimes saved twice), WebP, or PNG.
    """
    if crop:
        height, width = pixels.shape[:2]
        h, w = (max(1, round(side * rng.uniform(0.6, 1))) for side in (height, width))
        y, x = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        pixels = pixels[y : y + h, x : x + w]
    pixels = np.ascontiguousarray(_rescaled(np.ascontiguousarray(pixels), rng))
    draw = rng.random()
    if draw < 0.8:
        quality = int(rng.integers(60, 98))
        subsampling: Subsampling = "4:4:4" if rng.integers(3) == 0 else "4:2:0"
        file = encode(pixels, "JPEG", quality=quality, subsampling=subsampling)
        if rng.random() < 0.25:
            file = encode(decode_trusted(file), "JPEG", quality=int(rng.integers(70, 96)))
        return file
    if draw < 0.9:
        return encode(pixels, "WEBP", quality=int(rng.integers(60, 96)))
    return encode(pixels, "PNG")


def _rescaled(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    short = min(pixels.shape[:2])
    if 256 <= short <= 1200 and rng.random() >= 0.6:
        return pixels
    low = max(256, round(short * 0.35))
    high = max(low + 1, min(900, round(short * 1.15)))
    target = int(rng.integers(300, 901)) if short > 1200 else int(rng.integers(low, high))
    h, w = (max(224, round(side * target / short)) for side in pixels.shape[:2])
    return resize(pixels, w, h, resample=("bicubic", "bilinear", "lanczos")[rng.integers(3)])
