"""Train the mask head's locator: ``python -m vlmforensics.finetune.locator --data DIR --out DIR``.

Patch tokens of made tampering and of untouched pictures are computed once and kept; the locator is small, so that it
learns in minutes from them. Then it joins the weights of a mask head, which is calibrated and validated anew.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch.nn import functional as F

from vlmforensics.blending import BlendingDetector
from vlmforensics.errors import SettingsError
from vlmforensics.finetune.checkpoint import claim_cache, load_state, save_state, write_arrays
from vlmforensics.finetune.mask_export import (
    CLASSICAL,
    COMPARISONS,
    assess,
    compare,
    export,
    found_forgeries,
    found_untouched,
    half_digest,
    round_trip_half,
)
from vlmforensics.finetune.mask_readings import ReadingCache, places_of, score
from vlmforensics.finetune.mask_samples import SampleMaker
from vlmforensics.finetune.masks import MaskTraining, base_tower, pictures_digest, training_cache
from vlmforensics.finetune.pictures import FORGERIES, held_back, load_manifest, share_of
from vlmforensics.masks import MaskHead
from vlmforensics.masks.head import MANIFEST, SHIPPED
from vlmforensics.masks.locator import LAYERS, SIDE, Locator, PatchReader
from vlmforensics.masks.network import MaskNetwork
from vlmforensics.settings import load_settings
from vlmforensics.types import BoolMask, Grey

logger = logging.getLogger(__name__)

DROPOUT = 0.3
MARKED = 0.3
"""Share of some patch that must be tampered for a picture to count in the overlap loss."""
SAVE_EVERY = 100
"""Steps between checkpoints."""


@dataclass(frozen=True)
class LocatorTraining:
    """A run.

    Attributes:
        samples: made for it, half of them untouched.
        steps, batch, rate, decay: of AdamW; the rate falls as a cosine.
        seed: of samples, first weights and order.
    """

    samples: int = 1600
    steps: int = 600
    batch: int = 16
    rate: float = 3e-4
    decay: float = 0.1
    seed: int = 0


def targets(mask: BoolMask, cells: int) -> Grey:
    """Share of each patch that is tampered: float32 (cells, cells) of bool (H, W)."""
    found = cv2.resize(mask.astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA)
    return np.asarray(found, dtype=np.float32)


def fill(folder: Path, maker: SampleMaker, reader: PatchReader, indices: Sequence[int]) -> None:
    """Compute the tokens of samples that the folder lacks, one file a sample, written atomically."""
    claim_cache(
        folder, maker.facts | {"side": SIDE, "locator_layers": list(LAYERS)}, filled=any(folder.glob("*.npz"))
    )
    for count, index in enumerate(indices, start=1):
        path = folder / f"{index:06d}.npz"
        if path.exists():
            continue
        sample = maker.make(index)
        tokens = reader.patch_tokens(sample.pixels, SIDE, LAYERS)
        write_arrays(path, tokens=tokens.astype(np.float16), target=targets(sample.mask, len(tokens)))
        if count % 100 == 0:
            logger.info("%d of %d samples", count, len(indices))


def read(folder: Path, count: int) -> tuple[NDArray[np.float16], Grey]:
    """Tokens float16 (n, patches, channels) and targets float32 (n, patches) of the first ``count`` samples.

    Raises:
        SettingsError: a sample is missing.
    """
    tokens, wanted = [], []
    for index in range(count):
        path = folder / f"{index:06d}.npz"
        if not path.exists():
            raise SettingsError(f"{path} is missing: compute all tokens first")
        with np.load(path, allow_pickle=False) as stored:
            tokens.append(stored["tokens"].reshape(-1, stored["tokens"].shape[-1]))
            wanted.append(stored["target"].ravel())
    return np.stack(tokens), np.stack(wanted)


def loss_of(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of all patches, and a share of the overlap loss (Dice) of tampered pictures; both (B, n)."""
    loss = F.binary_cross_entropy_with_logits(logits, target)
    marked = target.amax(1) > MARKED
    if not marked.any():
        return loss
    p, y = logits[marked].sigmoid(), target[marked]
    dice = 1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)
    return loss + 0.3 * dice.mean()


def fit(
    tokens: NDArray[np.float16], target: Grey, config: LocatorTraining, out: Path, *, resume: bool = False
) -> Locator:
    """Train (or go on training) a locator; a resumed run ends with the same weights.

    Raises:
        SettingsError: nothing to resume, or a checkpoint of another run.
    """
    torch.manual_seed(config.seed)
    locator = Locator(tokens.shape[-1])
    named = dict(locator.named_parameters())
    optimiser = torch.optim.AdamW(named.values(), lr=config.rate, weight_decay=config.decay)
    run: dict[str, Any] = asdict(config)
    first = 0
    if resume:
        facts = load_state(out, named, optimiser, run)
        if facts is None:
            raise SettingsError(f"nothing to resume: no saved state in {out}")
        first = int(facts["step"])
    locator.train()
    for step in range(first, config.steps):
        rng = np.random.default_rng([config.seed, 13, step])
        torch.manual_seed(int(rng.integers(2**31)))  # dropout: a resumed step draws what it would have drawn
        for group in optimiser.param_groups:
            group["lr"] = config.rate * 0.5 * (1 + np.cos(np.pi * step / config.steps))
        chosen = rng.choice(len(tokens), min(config.batch, len(tokens)), replace=False)
        logits = locator(torch.from_numpy(tokens[chosen].astype(np.float32)), DROPOUT)
        loss = loss_of(logits, torch.from_numpy(target[chosen]))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == config.steps:
            save_state(out, named, optimiser, {"step": step + 1, **run})
            logger.info("step %d of %d, loss %.4f", step + 1, config.steps, loss.item())
    return locator.eval()


def joined(head: MaskHead, locator: Locator, balance: float) -> MaskNetwork:
    """The head's network with the locator in it."""
    network = MaskNetwork(replace(head.network.config, locator=True))
    kept = {k: v for k, v in head.network.state_dict().items() if not k.startswith("locator.")}
    added = {f"locator.{name}": value for name, value in locator.state_dict().items()}
    network.load_state_dict(kept | added | {"balance": torch.tensor(balance)}, strict=True)
    return network


def kept_comparisons(start: Path | None) -> dict[str, Any]:
    """What an exported head's manifest (the shipped one's by default) tells of comparisons."""
    file = (start or SHIPPED) / MANIFEST
    told = json.loads(file.read_text(encoding="utf-8")).get("validation", {})
    return {name: told[name] for name in COMPARISONS if name in told}


def main(
    data: Annotated[Path, typer.Option(help="Folder with manifest.jsonl and the pictures.")],
    out: Annotated[Path, typer.Option(help="Folder for tokens, readings, checkpoint and export.")],
    samples: Annotated[int, typer.Option(help="Made samples.")] = LocatorTraining.samples,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = LocatorTraining.steps,
    seed: Annotated[int, typer.Option(help="Of samples, weights and order.")] = 0,
    balance: Annotated[float, typer.Option(help="Weight of the encoder's map beside the locator's.")] = 0.5,
    start: Annotated[
        Path | None, typer.Option(help="Exported mask head to join; the shipped one by default.")
    ] = None,
    made: Annotated[int, typer.Option(help="Made validation samples, half of them for calibration.")] = 200,
    untouched: Annotated[int, typer.Option(help="Found untouched photographs to validate on.")] = 120,
    comparisons: Annotated[
        bool,
        typer.Option(
            help="Ablate inputs and score classical maps, which takes longer than the rest; without it, those of the "
            "head that is joined are kept, where the new one has the same weights."
        ),
    ] = True,
    threads: Annotated[int, typer.Option(help="Torch threads; 0 = all.")] = 0,
    fill_only: Annotated[str, typer.Option(help="Only compute tokens, share I/N of them.")] = "",
    resume: Annotated[bool, typer.Option(help="Continue from the saved state.")] = False,
) -> None:
    """Train the locator, join it to a mask head, calibrate and validate that on held-back sources, export it."""
    from vlmforensics.compact import clip

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if threads:
        torch.set_num_threads(threads)
    config = LocatorTraining(samples=samples, steps=steps, seed=seed)
    reader = clip.load(load_settings())
    pictures = load_manifest(data)
    known = [p for p in pictures if p.part != FORGERIES and not held_back(p.source)]
    maker = SampleMaker(known, lambda _: {}, (), seed)
    index, count = share_of(fill_only or "0/1")
    fill(out / "tokens", maker, reader, range(index, samples, count))
    if fill_only:
        return
    locator = fit(*read(out / "tokens", samples), config, out, resume=resume)
    head = MaskHead.load(folder=start)
    network = round_trip_half(joined(head, locator, balance)).eval()
    detector = BlendingDetector.load()
    tower = base_tower(network.config.encoder.layers, threads)
    series = MaskTraining(data=data, out=out, seed=seed, network=network.config)
    cache = training_cache(
        series, tower, detector.traces, blending_weights=detector.weights_sha256, validation=True
    )
    readings = ReadingCache(
        out / "readings", network, tower, detector.traces, reader, places_of, detector.weights_sha256
    )
    calibration, report = assess(
        [score(network, reading) for reading in readings.samples(cache, range(made))],
        [score(network, reading) for reading in readings.pictures(found_forgeries(pictures))],
        [
            score(network, reading)
            for reading in readings.pictures(found_untouched(pictures, untouched, seed))
        ],
        seed,
    )
    if comparisons:
        network.reader = reader
        report |= compare(network, cache, pictures, made, CLASSICAL)
    training = {
        "command": shlex.join(["python", "-m", "vlmforensics.finetune.locator", *sys.argv[1:]]),
        **asdict(config),
        "balance": balance,
        "tower": clip.NAME,
        "photographs": sum(p.label == "real" for p in known),
        "generated_pictures": sum(p.label == "synthetic" for p in known),
        "held_back_sources": sorted({p.source for p in pictures if held_back(p.source)}),
        "pictures_sha256": pictures_digest(known),
        # a head that has a locator already is joined anew: what it was joined to before counts
        "joined": head.training.get("joined")
        or {"weights_sha256": head.weights_sha256, "training": head.training},
    }
    if not comparisons and half_digest(network) == head.weights_sha256:
        report |= kept_comparisons(start)
    path = export(network, calibration, out / "export", training=training, validation=report, traces=True)
    typer.echo(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    typer.run(main)
