"""Samples for the mask head: tampering made in code on real photographs, and untouched ones beside them.

Sample *i* is a function of ``(seed, i)`` and of the pictures alone, so a run can be stopped, resumed and
repeated. Half of the samples are untouched pictures that went through the same crop, scale and recompression,
so that those steps teach nothing; donors of a paste are real photographs or generated pictures. Sources (not
pictures) are held back for validation, see ``pictures.held_back``.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlmforensics.errors import InputError, SettingsError
from vlmforensics.finetune.checkpoint import claim_cache, write_arrays
from vlmforensics.finetune.pictures import Picture
from vlmforensics.finetune.tampering import recompress, tamper
from vlmforensics.imaging import decode_trusted, encode, open_case, resize
from vlmforensics.settings import Settings
from vlmforensics.types import BoolMask, CaseImage, Pixels, Traces

logger = logging.getLogger(__name__)

TowerFunction = Callable[[Pixels], Mapping[int, NDArray[np.float32]]]
"""Upright pixels → layer → float32 (rows, columns, channels), as ``Look.patches``."""
TraceFunction = Callable[[Pixels], Traces | None]
"""Upright pixels → maps of the blending detector."""
SMALLEST_AREA, LARGEST_AREA = 0.003, 0.6
"""Share of the picture that made tampering may cover; others are drawn again."""
_METHODS: tuple[Literal["bilinear", "bicubic", "lanczos"], ...] = ("bilinear", "bicubic", "lanczos")
ATTEMPTS = 6
"""Draws before a sample is left untouched."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One training sample.

    Attributes:
        pixels: uint8 (H, W, 3).
        mask: bool (H, W), True = tampered; all False for an untouched picture.
        patches: layer → float16 (rows, columns, channels) of the frozen tower.
        traces: maps of the blending detector, or None.
        kind: the manipulation, or ``untouched``.
        source: where the picture comes from.
    """

    pixels: Pixels
    mask: BoolMask
    patches: Mapping[int, NDArray[np.float16]]
    kind: str
    source: str
    traces: Traces | None = None

    @property
    def tampered(self) -> bool:
        """True where anything was changed."""
        return bool(self.mask.any())


def load_pixels(path: Path, settings: Settings) -> Pixels:
    """Upright pixels of a picture file."""
    return open_case(path, settings=settings).upright


def load_mask(path: Path, settings: Settings) -> BoolMask:
    """A mask picture: True where it is brighter than mid-grey."""
    return load_pixels(path, settings)[..., 0] > 127


def open_masked(picture: Picture, settings: Settings) -> tuple[CaseImage, BoolMask] | None:
    """A found picture and what of it is tampered, bool (H, W).

    None, with a warning, where it can't be read or its mask has another size.
    """
    try:
        case = open_case(picture.path, settings=settings)
        shape = case.upright.shape[:2]
        truth = load_mask(picture.mask, settings) if picture.mask else np.zeros(shape, dtype=np.bool_)
    except InputError as error:
        logger.warning("left out: %s", error)
        return None
    if truth.shape != shape:
        logger.warning("left out: the mask of %s has another size", picture.path.name)
        return None
    return case, truth


class SampleMaker:
    """Makes sample *i* of a series.

    Args:
        pictures: what may be used; ``real`` ones are tampered with, ``synthetic`` ones serve as donors and,
            now and then, as untouched pictures (so that a generated look alone is no reason to mark a
            region).
        tower: the frozen tower.
        layers: its layers to keep.
        seed: of the series.
        short_side: range of the short side in pixels.
        traces: the blending detector, or None.
        blending_weights: digest of the weights behind ``traces``.

    Attributes:
        facts: what decides a sample beside its index and the frozen tower, as JSON gives it back.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        tower: TowerFunction,
        layers: Sequence[int],
        seed: int,
        short_side: tuple[int, int] = (288, 560),
        traces: TraceFunction | None = None,
        blending_weights: str | None = None,
    ) -> None:
        self.tower = tower
        self.traces = traces
        self.layers = tuple(layers)
        self.seed = seed
        self.short_side = short_side
        # A decoding process guards against hostile files; these are the user's own training pictures.
        self.settings = Settings(sandbox=False)
        self._pools = {label: _by_source(pictures, label) for label in ("real", "synthetic")}
        if not self._pools["real"]:
            raise SettingsError("no real photographs to train the mask head on")
        # In the manifest's order, for that is what is drawn from.
        used = [f"{p.label}/{p.source}/{p.sha256}" for p in pictures if p.label in self._pools]
        self.facts: dict[str, Any] = {
            "pictures": hashlib.sha256("\n".join(used).encode()).hexdigest(),
            "seed": seed,
            "layers": list(self.layers),
            "short_side": list(short_side),
            "blending_maps": traces is not None,
            "blending_weights": blending_weights,
        }

    def make(self, index: int) -> Sample:
        """Sample ``index``: the same whenever it is called."""
        rng = np.random.default_rng([self.seed, index])
        wants_tampering = bool(rng.random() < 0.5)
        label = "synthetic" if not wants_tampering and rng.random() < 0.15 else "real"
        pixels, source = self._draw(label, rng)
        mask = np.zeros(pixels.shape[:2], dtype=np.float32)
        kind = "untouched"
        for _ in range(ATTEMPTS if wants_tampering else 0):
            donor, _ = self._draw("synthetic" if rng.random() < 0.3 else "real", rng)
            made = tamper(pixels, donor, rng)
            area = float((made.mask > 0.5).mean())
            if SMALLEST_AREA <= area <= LARGEST_AREA:
                pixels, mask, kind = made.pixels, made.mask, made.kind
                break
        pixels, mask = recompress(pixels, mask, rng)
        patches = self.tower(pixels)
        kept = {layer: patches[layer].astype(np.float16) for layer in self.layers}
        traces = self.traces(pixels) if self.traces is not None else None
        return Sample(pixels, mask > 0.5, kept, kind, source, traces)

    def _draw(self, label: str, rng: np.random.Generator) -> tuple[Pixels, str]:
        """A random picture, cropped and scaled, of a source drawn by the root of its size."""
        pool = self._pools[label] or self._pools["real"]
        names = sorted(pool)
        weights = np.sqrt([len(pool[name]) for name in names])
        for _ in range(ATTEMPTS):
            source = names[int(rng.choice(len(names), p=weights / weights.sum()))]
            path = pool[source][int(rng.integers(len(pool[source])))]
            try:
                return self._prepare(load_pixels(path, self.settings), rng), source
            except InputError as error:
                logger.warning("left out: %s", error)
        raise SettingsError(f"too many {label} pictures can't be read")

    def _prepare(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """Random crop; a random scale, often or where the size demands it; a random flip."""
        height, width = pixels.shape[:2]
        low, high = self.short_side
        side = int(rng.integers(low, high + 1))
        if min(height, width) > high and rng.random() < 0.5:  # a native crop: its noise is untouched
            tall = min(height, int(side * rng.uniform(1, 1.5)))
            wide = min(width, int(side * rng.uniform(1, 1.5)))
        else:
            tall, wide = (int(extent * rng.uniform(0.7, 1)) for extent in (height, width))
        # Any phase of the 8 × 8 grid: who crops does not care, and a first save leaves its grid behind.
        top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
        pixels = pixels[top : top + tall, left : left + wide]
        short = min(pixels.shape[:2])
        if not low <= short <= high or rng.random() < 0.3:
            scale = side / short
            method = _METHODS[int(rng.integers(len(_METHODS)))]
            size = [max(low, min(3 * high, round(extent * scale))) for extent in pixels.shape[1::-1]]
            pixels = resize(pixels, size[0], size[1], resample=method)
        longest = 2 * high
        pixels = pixels[:longest, :longest]
        return np.ascontiguousarray(pixels[:, ::-1] if rng.random() < 0.5 else pixels)


def _by_source(pictures: Sequence[Picture], label: str) -> dict[str, list[Path]]:
    pool: dict[str, list[Path]] = {}
    for picture in pictures:
        if picture.label == label:
            pool.setdefault(picture.source, []).append(picture.path)
    return pool


class SampleCache:
    """Samples on disk: made on first use, written atomically, read ever after.

    Args:
        folder: one ``.npz`` file per sample.
        maker: of the missing ones.

    Raises:
        SettingsError: the folder holds samples of another series.
    """

    def __init__(self, folder: Path, maker: SampleMaker) -> None:
        self.folder = folder
        self.maker = maker
        claim_cache(folder, maker.facts, filled=any(folder.glob("*.npz")))

    def __getitem__(self, index: int) -> Sample:
        """Sample ``index``, from disk where it is there."""
        return read_sample(self.fill(index))

    def fill(self, index: int) -> Path:
        """Make sample ``index`` where it isn't there; returns its file."""
        path = self.folder / f"{index:06d}.npz"
        if not path.exists():
            write_sample(path, self.maker.make(index))
        return path


def write_sample(path: Path, sample: Sample) -> None:
    """Store a sample: lossless pixels (PNG), packed mask, tower features in half precision."""
    fields: dict[str, Any] = {
        "pixels": np.frombuffer(encode(sample.pixels, "PNG"), np.uint8),
        "mask": np.packbits(sample.mask),
        "text": np.array([sample.kind, sample.source]),
    }
    fields.update({f"patches.{layer}": patches for layer, patches in sample.patches.items()})
    if sample.traces is not None:
        fields["boundary"] = sample.traces.boundary.astype(np.float16)
        if sample.traces.region is not None:
            fields["region"] = sample.traces.region.astype(np.float16)
    write_arrays(path, **fields)


def read_sample(path: Path) -> Sample:
    """The opposite of :func:`write_sample`."""
    with np.load(path, allow_pickle=False) as stored:
        pixels = decode_trusted(stored["pixels"].tobytes())
        height, width = pixels.shape[:2]
        bits = np.unpackbits(stored["mask"], count=height * width)
        kind, source = stored["text"].tolist()
        patches = {
            int(name.removeprefix("patches.")): stored[name]
            for name in stored.files
            if name.startswith("patches.")
        }
        maps = {
            name: stored[name].astype(np.float32) for name in ("boundary", "region") if name in stored.files
        }
    traces = Traces(**maps) if maps else None
    return Sample(pixels, bits.reshape(height, width).astype(np.bool_), patches, kind, source, traces)
