"""Samples as batches: features of the frozen networks computed once, balanced drawing, buckets of like length."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from vlmforensics.errors import InputError, SettingsError
from vlmforensics.finetune.mask_objective import target_map
from vlmforensics.finetune.recipe import Recipe
from vlmforensics.finetune.samples import Sample
from vlmforensics.finetune.student import tower_features
from vlmforensics.finetune.train_model import Built
from vlmforensics.finetune.train_prompts import IGNORED, Turns, encode
from vlmforensics.imaging import open_case
from vlmforensics.masks.sam import SIDE
from vlmforensics.settings import Settings
from vlmforensics.types import LABELS, Pixels

log = logging.getLogger(__name__)
READING = Settings(sandbox=False)
"""The user's own training data is decoded in this process."""


class FeatureStore:
    """What frozen networks say of each picture: one small safetensors file a picture, written once.

    Args:
        folder: of all stores.
        built: the model; its tower's features are kept in half precision.
        masks: also keep the mask encoder's embedding, its coarse map and the target.
    """

    def __init__(self, folder: Path, built: Built, *, masks: bool) -> None:
        # Pixels that differ make features that differ: the picture's preparation is part of the name.
        ramp = np.broadcast_to(np.arange(100, 160)[None, :, None], (40, 60, 3)).astype(np.uint8)
        grey = built.pixel_values(ramp)
        name = hashlib.sha256(f"{built.base_sha256}/{masks}/".encode() + grey.numpy().tobytes()).hexdigest()
        self.folder = folder / name[:16]
        self.built, self.masks = built, masks

    def file(self, sample: Sample) -> Path:
        """Where the features of a sample lie; samples of one picture with other masks differ."""
        mask = hashlib.sha256(f"{sample.mask}{sample.boxes}".encode()).hexdigest()[:8]
        return self.folder / f"{sample.sha256[:24]}{'-' + mask if self.masks else ''}.safetensors"

    def fill(self, samples: Sequence[Sample], part: tuple[int, int] = (0, 1)) -> None:
        """Compute what is missing of every ``part[1]``-th picture.

        Raises:
            SettingsError: a picture can't be read, or is not the one that the sample names.
        """
        wanted = {self.file(sample): sample for sample in samples}
        # Shared out before looking at what is there, which changes while other processes write.
        share = sorted(wanted.items())[part[0] :: part[1]]
        todo = [sample for file, sample in share if not file.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        for done, sample in enumerate(todo, start=1):
            self._write(self.file(sample), self._look(sample))
            if done % 100 == 0 or done == len(todo):
                log.info("features of %d of %d pictures", done, len(todo))

    def read(self, sample: Sample) -> dict[str, Tensor]:
        """All tensors of a sample."""
        from safetensors.torch import load_file

        return dict(load_file(self.file(sample)))

    @torch.inference_mode()
    def _look(self, sample: Sample) -> dict[str, Tensor]:
        pixels = pixels_of(sample)
        core = self.built.core
        tower = core.model.vision_tower
        first = next(tower.parameters())
        values = self.built.pixel_values(pixels)[None].to(first.device, first.dtype)
        found = {"features": tower_features(core, values)[0].half()}
        network = self.built.student.masks
        if self.masks and network is not None:
            network.eval()
            embedding, coarse = network.embed(pixels, None, None)
            target, known = target_of(sample, pixels)
            found |= {"embedding": embedding[0].half(), "coarse": coarse[0].half(), "target": target.half()}
            found["has_target"] = torch.tensor(known)
        return found

    @staticmethod
    def _write(file: Path, tensors: Mapping[str, Tensor]) -> None:
        from safetensors.torch import save_file

        part = file.with_suffix(f".{os.getpid()}.part")
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, part)
        part.replace(file)


def pixels_of(sample: Sample) -> Pixels:
    """The upright picture of a sample.

    Raises:
        SettingsError: it can't be read, or its digest is another than the sample's.
    """
    try:
        case = open_case(sample.image, settings=READING)
    except InputError as error:
        raise SettingsError(f"the training picture {sample.image} can't be used: {error}") from error
    if case.sha256 != sample.sha256:
        raise SettingsError(
            f"{sample.image} is not the picture that the samples were made from: its digest differs"
        )
    return case.upright


def target_of(sample: Sample, pixels: Pixels) -> tuple[Tensor, bool]:
    """Share of each cell that is tampered, (SIDE, SIDE), and whether it is known.

    Nothing is tampered in a real picture, and nothing in particular in a synthetic one; a tampered picture without mask
    and boxes teaches no mask.
    """
    height, width = pixels.shape[:2]
    mask = np.zeros((height, width), bool)
    if sample.label != "tampered":
        return target_map(mask, SIDE), True
    if sample.mask is not None:
        drawn = open_case(sample.mask, settings=READING).upright[..., 0] > 127
        if drawn.shape != mask.shape:
            raise SettingsError(
                f"the mask {sample.mask} has {drawn.shape[1]}×{drawn.shape[0]} pixels, its picture {width}×{height}"
            )
        return target_map(drawn, SIDE), True
    for x0, y0, x1, y1 in sample.boxes:
        mask[y0:y1, x0:x1] = True
    return target_map(mask, SIDE), bool(sample.boxes)


class Samples(Dataset[dict[str, Any]]):
    """Samples by ``(epoch, index)``: the epoch decides which detector sentences are left out."""

    def __init__(
        self, samples: Sequence[Sample], built: Built, recipe: Recipe, store: FeatureStore | None
    ) -> None:
        self.samples, self.recipe, self.store = samples, recipe, store
        self.turns, self.pixel_values = built.turns, built.pixel_values

    def __len__(self) -> int:
        return len(self.samples)

    def length(self, index: int) -> int:
        """Tokens of a sample in the first pass: which sentences are left out later changes little."""
        return len(self._encoded(index, 0).ids)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        sample = self.samples[index]
        encoded = self._encoded(index, epoch)
        item: dict[str, Any] = {
            "ids": encoded.ids,
            "labels": encoded.labels,
            "label": LABELS.index(sample.label),
        }
        if self.store is not None:
            return item | self.store.read(sample)
        return item | {"pixel_values": self.pixel_values(pixels_of(sample))}

    def _encoded(self, index: int, epoch: int) -> Any:
        return encode(self.samples[index], self.turns, self.recipe.prompt, seed=self.recipe.seed, epoch=epoch)


def collate(items: Sequence[Mapping[str, Any]], turns: Turns) -> dict[str, Tensor]:
    """One batch: ids padded on the right, labels padded with ``IGNORED``, tensors stacked."""
    longest = max(len(item["ids"]) for item in items)
    ids = torch.full((len(items), longest), turns.pad, dtype=torch.long)
    labels = torch.full((len(items), longest), IGNORED, dtype=torch.long)
    mask = torch.zeros((len(items), longest), dtype=torch.long)
    for row, item in enumerate(items):
        count = len(item["ids"])
        ids[row, :count] = torch.tensor(item["ids"])
        labels[row, :count] = torch.tensor(item["labels"])
        mask[row, :count] = 1
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    batch["label"] = torch.tensor([item["label"] for item in items])
    for name in ("features", "pixel_values", "embedding", "coarse", "target", "has_target"):
        if name in items[0]:
            batch[name] = torch.stack([item[name] for item in items])
            if name == "target":
                batch[name] = batch[name].float()
    return batch


def balance(samples: Sequence[Sample]) -> np.ndarray:
    """Expected draws of each sample a pass, float64 (n,), mean 1: labels alike, sources by the root of their size."""
    sizes = Counter((s.label, s.source) for s in samples)
    share = np.array([1 / np.sqrt(sizes[s.label, s.source]) for s in samples])
    labels = np.array([s.label for s in samples])
    for label in set(labels.tolist()):
        share[labels == label] /= share[labels == label].sum()
    return np.asarray(share * (len(samples) / share.sum()), np.float64)


class BalancedBuckets(Sampler[tuple[int, int]]):
    """``(epoch, index)`` pairs: balanced draws, windows sorted by length, whole optimiser steps only.

    A function of the seed and the epoch alone, so that every process and every resumed run draws the same. Sorting
    brings samples of like length into one batch; the batches of a window are then shuffled, with those of an optimiser
    step and of all processes counted as one.

    Args:
        shares: expected draws of each sample a pass, mean 1.
        lengths: tokens of each sample.
        step: samples of one optimiser step over all processes.
        window: steps that are sorted together.
        seed: of the run.
    """

    def __init__(
        self, shares: np.ndarray, lengths: Sequence[int], *, step: int, window: int, seed: int
    ) -> None:
        self.shares, self.lengths = shares, np.asarray(lengths)
        self.step, self.window, self.seed = step, window, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Which pass comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, len(self.shares) // self.step) * self.step

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in self.order(self.epoch):
            yield self.epoch, int(index)

    def order(self, epoch: int) -> np.ndarray:
        """Indices of a pass, int64 (len,)."""
        rng = np.random.default_rng((self.seed, 17, epoch))
        # Systematic draws: a sample with share 1.3 comes once or twice, never four times.
        order = rng.permutation(len(self.shares))
        edges = np.cumsum(self.shares[order]) / self.shares.sum() * len(self)
        drawn = np.searchsorted(edges, np.arange(len(self)) + rng.random(), side="right")
        drawn = order[np.minimum(drawn, len(order) - 1)]
        rng.shuffle(drawn)
        steps: list[np.ndarray] = []
        wide = self.step * self.window
        for start in range(0, len(drawn), wide):
            part = drawn[start : start + wide]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            rows = part.reshape(-1, self.step)
            steps.extend(rows[rng.permutation(len(rows))])
        return np.concatenate(steps)
