"""What the frozen parts say of a picture once and for all, kept on disk, so that a locator is tried in seconds.

Encoder, CLIP and signals don't change while a locator learns; only locator and decoder run again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlmforensics.assistant.marking import PLACES, named_places
from vlmforensics.errors import Defect
from vlmforensics.finetune.checkpoint import claim_cache, tensors_digest, write_arrays
from vlmforensics.finetune.mask_metrics import Scored
from vlmforensics.finetune.mask_samples import SampleCache, TowerFunction, TraceFunction, open_masked
from vlmforensics.finetune.pictures import Picture
from vlmforensics.masks.locator import LAYERS, SIDE
from vlmforensics.masks.network import MaskNetwork
from vlmforensics.settings import Settings
from vlmforensics.signals import load_sources
from vlmforensics.types import BoolMask, CaseImage, EvidenceSource, Grey, Pixels, Traces

logger = logging.getLogger(__name__)

PlaceFunction = Callable[[CaseImage], BoolMask | None]
"""A picture → bool (H, W), what signals name, or None."""


@dataclass(frozen=True, eq=False)
class Reading:
    """One picture.

    Attributes:
        embedding: float16 (channels, 64, 64), the encoder's.
        coarse: float32 (64, 64), the encoder's own map, logits.
        tokens: float16 (21, 21, channels), CLIP's patch tokens.
        truth: bool (H, W), what is tampered.
        places: bool (H, W), what signals name (see ``assistant.marking``), or None.
        kind: the manipulation, or ``untouched``.
        source: where the picture comes from.
    """

    embedding: NDArray[np.float16]
    coarse: Grey
    tokens: NDArray[np.float16]
    truth: BoolMask
    places: BoolMask | None
    kind: str
    source: str


class ReadingCache:
    """Readings on disk: computed on first use, read ever after.

    Args:
        folder: one ``.npz`` file a picture.
        network: of the mask head; its encoder reads the pictures.
        tower: the frozen tower.
        traces: the blending detector, or None.
        clip: CLIP's tower.
        places: what signals name.
        blending_weights: digest of the weights behind ``traces``.

    Raises:
        SettingsError: the folder holds readings by other weights.
    """

    def __init__(
        self,
        folder: Path,
        network: MaskNetwork,
        tower: TowerFunction,
        traces: TraceFunction | None,
        clip: Any,
        places: PlaceFunction,
        blending_weights: str | None = None,
    ) -> None:
        self.folder, self.network, self.tower, self.traces = folder, network, tower, traces
        self.clip, self.places = clip, places
        self.settings = Settings(sandbox=False)
        facts = {
            # not the whole network: readings stay good while only the locator changes
            "encoder": tensors_digest(network.encoder.state_dict()),
            "clip": clip.digest,
            "side": SIDE,
            "locator_layers": list(LAYERS),
            "blending_weights": blending_weights,
            "signals": {source.name: source.version for source in place_sources()},
        }
        claim_cache(folder, facts, filled=any(folder.glob("*.npz")))

    def samples(self, made: SampleCache, indices: Sequence[int]) -> Iterator[Reading]:
        """Readings of made samples; signals are not asked about them."""
        for index in indices:
            path = self.folder / f"{made.maker.facts['pictures'][:8]}-{made.maker.seed}-{index:06d}.npz"
            if not path.exists():
                sample = made[index]
                self._write(
                    path, self._read(sample.pixels, sample.patches, sample.traces), sample.mask, None,
                    sample.kind, sample.source,
                )  # fmt: skip
            yield read(path)

    def pictures(self, pictures: Sequence[Picture]) -> Iterator[Reading]:
        """Readings of found pictures as they are; those that can't be read are left out."""
        for picture in pictures:
            path = self.folder / f"{picture.sha256}.npz"
            if path.exists() or self._add(path, picture):
                yield read(path)

    def _add(self, path: Path, picture: Picture) -> bool:
        opened = open_masked(picture, self.settings)
        if opened is None:
            return False
        case, truth = opened
        pixels = case.upright
        drawn = self.traces(pixels) if self.traces is not None else None
        found = self._read(pixels, self.tower(pixels), drawn)
        kind = picture.kind if picture.mask else "untouched"
        self._write(path, found, truth, self.places(case), kind, picture.source)
        return True

    def _read(
        self, pixels: Pixels, patches: Mapping[int, NDArray[np.floating]], traces: Traces | None
    ) -> dict[str, NDArray[Any]]:
        layers = self.network.config.encoder.layers
        tensors = {layer: torch.from_numpy(patches[layer].astype(np.float32)) for layer in layers}
        with torch.inference_mode():
            embedding, coarse = self.network.encoder(pixels, tensors, traces)
        return {
            "embedding": embedding[0].numpy().astype(np.float16),
            "coarse": coarse[0, 0].numpy().astype(np.float32),
            "tokens": self.clip.patch_tokens(pixels, SIDE, LAYERS).astype(np.float16),
        }

    def _write(
        self,
        path: Path,
        found: Mapping[str, NDArray[Any]],
        truth: BoolMask,
        places: BoolMask | None,
        kind: str,
        source: str,
    ) -> None:
        write_arrays(
            path,
            **found,
            truth=np.packbits(truth),
            places=np.packbits(places) if places is not None else np.zeros(0, np.uint8),
            shape=np.array(truth.shape),
            text=np.array([kind, source]),
        )


def read(path: Path) -> Reading:
    """One reading from its file."""
    with np.load(path, allow_pickle=False) as stored:
        height, width = (int(extent) for extent in stored["shape"])
        count = height * width

        def plane(name: str) -> BoolMask:
            return np.unpackbits(stored[name], count=count).reshape(height, width).astype(np.bool_)

        kind, source = stored["text"].tolist()
        return Reading(
            stored["embedding"],
            stored["coarse"],
            stored["tokens"],
            plane("truth"),
            plane("places") if stored["places"].size else None,
            kind,
            source,
        )


def score(network: MaskNetwork, reading: Reading) -> Scored:
    """What a network with a locator says of a reading, without any user prompt.

    Raises:
        Defect: it has no locator.
    """
    if network.locator is None:
        raise Defect("readings are for a network with a locator")
    embedding = torch.from_numpy(reading.embedding.astype(np.float32))[None]
    with torch.inference_mode():
        own = torch.from_numpy(reading.coarse)[None, None]
        coarse = network.placed(own, network.locator.draw(reading.tokens))
        said = network.decode(embedding, coarse, None, None, (), None)
    logits = said.mask.float().numpy().astype(np.float16)
    return Scored(logits, float(said.presence), reading.truth, reading.kind, reading.source, reading.places)


@cache
def place_sources() -> tuple[EvidenceSource, ...]:
    """The signals of ``assistant.marking.PLACES``."""
    return tuple(source for source in load_sources(Settings(sandbox=False)) if source.name in PLACES)


def places_of(case: CaseImage) -> BoolMask | None:
    """What these signals name in a picture, or None."""
    named = named_places([item for source in place_sources() for item in source.examine(case)])
    return np.logical_or.reduce(named) if named else None
