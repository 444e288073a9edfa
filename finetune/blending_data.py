"""Pictures for training and measuring the blending detector: manifest, split by source, cache, seeded pairs.

The cache holds decoded pixels in one flat file that processes share by memory-mapping, so that the computing
time goes to the network. Every training pair is a pure function of (seed, index): a resumed run sees what an
uninterrupted one would have seen.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vlmforensics.errors import InputError, SettingsError
from vlmforensics.finetune import distort
from vlmforensics.finetune.checkpoint import claim_cache
from vlmforensics.finetune.pictures import FORGERIES, held_back, load_manifest
from vlmforensics.finetune.tampering import boundary, recompress, tamper
from vlmforensics.imaging import open_case
from vlmforensics.types import Grey, Pixels

MAX_SIDE = 768
"""Cached pictures are reduced (by area averaging) to at most this side, in px."""
MIN_SIDE = 200
_SYNTHETIC_BASES, _SYNTHETIC_DONORS = 0.2, 0.3
"""Share of pairs built on a generated picture, and of pastes whose donor is generated: whether the whole was
generated must not matter to a detector of composites."""


@dataclass(frozen=True)
class Row:
    """One cached picture: where its pixels lie, and what the manifest says of it."""

    path: str
    label: str
    source: str
    scene: str
    offset: int
    height: int
    width: int


class Pictures:
    """Memory-mapped pixels of many pictures.

    Attributes:
        rows: one per picture.
        sha256: digest of the index, which names the data in a manifest of weights.
    """

    def __init__(self, folder: Path) -> None:
        text = (folder / "index.json").read_text(encoding="utf-8")
        self.rows = [Row(**row) for row in json.loads(text)]
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        self._pixels: NDArray[np.uint8] = np.memmap(folder / "pixels.bin", dtype=np.uint8, mode="r")

    def pixels(self, row: Row) -> Pixels:
        """The picture, uint8 (H, W, 3), a view that must not be written to."""
        size = row.height * row.width * 3
        return np.asarray(self._pixels[row.offset : row.offset + size]).reshape(row.height, row.width, 3)


def reduce_side(pixels: Pixels, side: int) -> Pixels:
    """Shrink by area averaging so that the longer side is at most ``side`` px."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def build_cache(data: Path, folder: Path, *, limit: int | None = None) -> Pictures:
    """Decode the manifest's whole real and synthetic pictures once; a finished cache of the same is reused.

    The few pictures of ``tamper/``, originals included, are left out: they measure, they never train, and an
    original seen in training would flatter the comparison with its tampered version.

    Args:
        data: folder of ``manifest.jsonl``.
        folder: where the cache lies or is to lie.
        limit: use only this many pictures (every n-th), for trials.

    Raises:
        SettingsError: no manifest, or the cache holds other pictures than these.
    """
    wanted = [
        picture
        for picture in load_manifest(data)
        if picture.label in ("real", "synthetic") and picture.part != FORGERIES
    ]
    if limit is not None:
        wanted = wanted[:: max(1, len(wanted) // limit)]
    names = [
        f"{p.label}/{p.source}/{p.scene}/{p.sha256}/{p.path.relative_to(data).as_posix()}" for p in wanted
    ]
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    finished = (folder / "index.json").is_file()
    claim_cache(folder, {"pictures": digest}, filled=finished)
    if finished:
        return Pictures(folder)
    rows: list[Row] = []
    offset = 0
    with (folder / "pixels.bin").open("wb") as stream:
        for entry in wanted:
            try:
                pixels = reduce_side(open_case(entry.path).upright, MAX_SIDE)
            except InputError:
                continue  # a damaged download is no reason to stop; the index says what was used
            if min(pixels.shape[:2]) < MIN_SIDE:
                continue
            stream.write(np.ascontiguousarray(pixels).tobytes())
            rows.append(
                Row(
                    path=entry.path.relative_to(data).as_posix(),
                    label=entry.label,
                    source=entry.source,
                    scene=entry.scene or entry.path.relative_to(data).as_posix(),
                    offset=offset,
                    height=pixels.shape[0],
                    width=pixels.shape[1],
                )
            )
            offset += pixels.size
    partial = folder / "index.json.partial"
    partial.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
    partial.replace(folder / "index.json")
    return Pictures(folder)


def by_source(rows: list[Row]) -> NDArray[np.float64]:
    """Sampling weights: each source in proportion to the square root of its size, so that none dominates."""
    sizes = Counter(row.source for row in rows)
    weights = np.array([1 / np.sqrt(sizes[row.source]) for row in rows])
    return weights / weights.sum()


def targets(mask: Grey) -> tuple[Grey, Grey]:
    """Boundary and region targets at stride 4, float32 (H/4, W/4), from a soft mask whose sides 4 divides."""
    height, width = mask.shape
    size = (width // 4, height // 4)
    edge = cv2.resize(boundary(mask), size, interpolation=cv2.INTER_AREA)
    return edge, cv2.resize(mask, size, interpolation=cv2.INTER_AREA)


class PairDataset(Dataset[dict[str, Tensor]]):
    """Pairs of an authentic crop and a tampered version of it that went through the same chain.

    Args:
        pictures: the cache.
        split: ``train`` or ``val`` (sources held out).
        seed: with the index, all that a pair depends on.
        size: side of a crop in px, a multiple of 16.
        length: number of pairs.
        kinds: ways of tampering; None = the usual mixture.
        curriculum: over this first share of the pairs, difficulty rises from mild (large regions, high quality, little
            resizing) to full; 0 = full from the start.
    """

    def __init__(
        self,
        pictures: Pictures,
        split: str,
        *,
        seed: int,
        size: int,
        length: int,
        kinds: tuple[str, ...] | None = None,
        curriculum: float = 0.0,
    ) -> None:
        rows = [row for row in pictures.rows if held_back(row.source) == (split == "val")]
        self.real = [row for row in rows if row.label == "real"]
        self.synthetic = [row for row in rows if row.label == "synthetic"]
        if len(self.real) < 2:
            raise SettingsError(
                f"the {split} split has {len(self.real)} real pictures; at least 2 are needed"
            )
        self.pictures, self.seed, self.size, self.length, self.kinds = pictures, seed, size, length, kinds
        self.split_code = 1 if split == "val" else 0
        self.curriculum = curriculum
        self._weights = by_source(self.real), (by_source(self.synthetic) if self.synthetic else None)

    def __len__(self) -> int:
        return self.length

    def _ease(self, index: int) -> float:
        """1 = as mild as it gets, 0 = full difficulty."""
        if self.curriculum <= 0:
            return 0.0
        return max(0.0, 1.0 - index / (self.curriculum * self.length))

    def _pick(self, rng: np.random.Generator, synthetic_share: float) -> Row:
        real_weights, synthetic_weights = self._weights
        if synthetic_weights is not None and rng.random() < synthetic_share:
            return self.synthetic[int(rng.choice(len(self.synthetic), p=synthetic_weights))]
        return self.real[int(rng.choice(len(self.real), p=real_weights))]

    def _crop(self, pixels: Pixels, scale: float, rng: np.random.Generator) -> tuple[Pixels, float]:
        """A random crop, a little over ``size`` px after scaling; scale rises for small pictures."""
        height, width = pixels.shape[:2]
        scale = max(scale, (self.size + 2) / min(height, width))
        side = min(int(np.ceil((self.size + 8) / scale)), height, width)
        y = int(rng.integers(0, height - side + 1))
        x = int(rng.integers(0, width - side + 1))
        crop = np.ascontiguousarray(pixels[y : y + side, x : x + side])
        if rng.random() < 0.5:
            crop = np.ascontiguousarray(crop[:, ::-1])
        return crop, scale

    def pair(self, index: int) -> tuple[Pixels, Pixels, Grey]:
        """Authentic pixels, tampered pixels and the tampered one's soft mask, all ``size`` px square."""
        cv2.setNumThreads(1)
        rng = np.random.default_rng([self.seed, self.split_code, index])
        base, donor = self._pick(rng, _SYNTHETIC_BASES), self._pick(rng, _SYNTHETIC_DONORS)
        ease = self._ease(index)
        scale = 1.0 if rng.random() < 0.4 + 0.5 * ease else float(rng.uniform(0.5 + 0.3 * ease, 1.2))
        crop, scale = self._crop(self.pictures.pixels(base), scale, rng)
        if rng.random() < 0.3 * (1 - ease):
            crop = distort.process(crop, rng, steps=1)  # the whole is processed alike: that is no tampering
        made = tamper(crop, self.pictures.pixels(donor), rng, kinds=self.kinds)
        for _ in range(3):
            if float(made.mask.mean()) >= 0.04 * ease:
                break
            made = tamper(crop, self.pictures.pixels(donor), rng, kinds=self.kinds)
        chain = int(rng.integers(0, 2**63))
        quality = (60 + round(28 * ease), 95 + round(3 * ease))
        untouched = np.zeros(crop.shape[:2], np.float32)
        authentic, _ = recompress(crop, untouched, np.random.default_rng(chain), scale=scale, quality=quality)
        tampered, mask = recompress(
            made.pixels, made.mask, np.random.default_rng(chain), scale=scale, quality=quality
        )
        y = int(rng.integers(0, authentic.shape[0] - self.size + 1))
        x = int(rng.integers(0, authentic.shape[1] - self.size + 1))
        window = (slice(y, y + self.size), slice(x, x + self.size))
        return authentic[window], tampered[window], mask[window]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        authentic, tampered, mask = self.pair(index)
        edge, region = targets(mask)
        blank = np.zeros_like(edge)
        stack = np.stack([authentic, tampered]).transpose(0, 3, 1, 2)
        return {
            "pixels": torch.from_numpy(np.ascontiguousarray(stack)),
            "boundary": torch.from_numpy(np.stack([blank, edge])),
            "region": torch.from_numpy(np.stack([blank, region])),
            "label": torch.tensor([0.0, 1.0 if float(mask.mean()) > 0.002 else 0.0]),
        }
