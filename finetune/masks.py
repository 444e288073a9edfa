"""Train the mask head: ``python -m vlmforensics.finetune.masks --data DIR --out DIR``.

Two phases share one run. First the encoder learns alone from its own coarse map, which costs half a full
step; then encoder, prompts and decoder learn together, with simulated clicks and boxes for a part of the
samples. The frozen tower's features are computed once per sample and cached with it.

The ``[SEG]`` prompt is trained through its learned default only: real hidden states need a finished language
model. The manifest says so, and the head then ignores hidden states that it was not trained with.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shlex
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.special import expit, logit
from torch import Tensor

from vlmforensics.blending import BlendingDetector
from vlmforensics.errors import SettingsError
from vlmforensics.finetune.checkpoint import load_state, save_state
from vlmforensics.finetune.mask_export import (
    CLASSICAL,
    MapFunction,
    export,
    round_trip_half,
    validate,
)
from vlmforensics.finetune.mask_objective import LossWeights, coarse_loss, full_loss
from vlmforensics.finetune.mask_samples import (
    Sample,
    SampleCache,
    SampleMaker,
    TowerFunction,
    TraceFunction,
)
from vlmforensics.finetune.pictures import FORGERIES, Picture, held_back, load_manifest, share_of
from vlmforensics.masks.network import MaskNetwork, NetworkConfig
from vlmforensics.masks.sam import to_frame
from vlmforensics.settings import Settings
from vlmforensics.types import Box, Pixels, Traces
from vlmforensics.vlm.devices import pick_device

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaskTraining:
    """A training run.

    Attributes:
        data: folder with ``manifest.jsonl`` and the pictures that it lists.
        out: folder for cache, checkpoint, log and the exported head.
        steps: optimiser steps of both phases together.
        encoder_share: share of the steps in which only the encoder learns.
        samples: size of the cached training set.
        batch: samples per step.
        rate: peak learning rate; linear warm-up over 3 % of the steps, then cosine to 2 % of it.
        decay: weight decay (AdamW).
        seed: of samples, initial weights and order.
        encoder_tower_dropout: share of samples of the first phase whose tower features are withheld: the tower
            knows what catches the eye and where the middle is, and a network that gets it from the start learns
            that instead of traces.
        tower_dropout: the same in the second phase, for backbones without a tower.
        trace_dropout: share of samples whose blending maps are withheld, for external detectors that draw none. The
            rest are weakened at random: the detector learnt on these very pictures, and is surer of them.
        prompt_share: share of samples of the second phase that come with a click or a box.
        save_every: steps between checkpoints.
        threads: torch threads; 0 = as torch chooses.
        start: weights (safetensors, all tensors) to begin with instead of random ones.
        frozen: beginnings of parameter names that don't learn, e.g. ``encoder.forensic``.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
    """

    data: Path
    out: Path
    steps: int = 2000
    encoder_share: float = 0.5
    samples: int = 5000
    batch: int = 4
    rate: float = 1e-3
    decay: float = 0.02
    seed: int = 0
    encoder_tower_dropout: float = 0.7
    tower_dropout: float = 0.15
    trace_dropout: float = 0.1
    prompt_share: float = 0.25
    save_every: int = 100
    threads: int = 0
    start: Path | None = None
    frozen: tuple[str, ...] = ()
    device: str = "auto"
    weights: LossWeights = field(default_factory=LossWeights)
    network: NetworkConfig = field(default_factory=NetworkConfig)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.samples < self.batch:
            raise SettingsError("steps and batch must be at least 1, and samples at least one batch")
        if not 0 <= self.encoder_share <= 1:
            raise SettingsError(f"encoder_share must lie in 0..1, not {self.encoder_share}")


def learning_rate(step: int, config: MaskTraining) -> float:
    """Learning rate of ``step`` (0-based): linear warm-up, then cosine."""
    warm = max(1, round(0.03 * config.steps))
    if step < warm:
        return config.rate * (step + 1) / warm
    progress = (step - warm) / max(1, config.steps - warm)
    return config.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def order_of(config: MaskTraining, epoch: int) -> NDArray[np.int64]:
    """Sample indices of an epoch; the first goes in order, so that the cache may be filled ahead of it."""
    if epoch == 0:
        return np.arange(config.samples)
    return np.random.default_rng([config.seed, 7, epoch]).permutation(config.samples)


def batch_indices(config: MaskTraining, step: int) -> list[int]:
    """Sample indices of ``step``: a function of the configuration alone, so a resumed run sees the same."""
    indices = []
    for position in range(step * config.batch, (step + 1) * config.batch):
        epoch, place = divmod(position, config.samples)
        indices.append(int(order_of(config, epoch)[place]))
    return indices


def simulated_prompts(
    sample: Sample, rng: np.random.Generator
) -> tuple[list[tuple[float, float, bool]], tuple[float, float, float, float] | None]:
    """A click or a box as a user may give it: in the tampered region where there is one, else anywhere.

    A click means "look here", not "here is something": untouched pictures get them as well, with an empty
    target.
    """
    height, width = sample.mask.shape
    if not sample.tampered:
        x, y = float(rng.integers(width)), float(rng.integers(height))
        size_x, size_y = (max(2, int(extent * rng.uniform(0.1, 0.4))) for extent in (width, height))
        x0, y0 = (int(rng.integers(extent - size)) for extent, size in ((width, size_x), (height, size_y)))
        box = Box(x0, y0, x0 + size_x, y0 + size_y)
    else:
        rows, columns = np.nonzero(sample.mask)
        chosen = int(rng.integers(len(rows)))
        x, y = float(columns[chosen]), float(rows[chosen])
        jitter = rng.normal(0, 0.05, 4)
        wide, tall = columns.max() - columns.min() + 1, rows.max() - rows.min() + 1
        x0 = int(np.clip(columns.min() + jitter[0] * wide, 0, width - 2))
        y0 = int(np.clip(rows.min() + jitter[1] * tall, 0, height - 2))
        x1 = int(np.clip(columns.max() + 1 + jitter[2] * wide, x0 + 1, width))
        y1 = int(np.clip(rows.max() + 1 + jitter[3] * tall, y0 + 1, height))
        box = Box(x0, y0, x1, y1)
    if rng.random() < 0.4:
        return to_frame((), box, height, width)
    points = [(x, y, True)]
    if sample.tampered and rng.random() < 0.3:  # and one click outside
        rows, columns = np.nonzero(~sample.mask)
        chosen = int(rng.integers(len(rows)))
        points.append((float(columns[chosen]), float(rows[chosen]), False))
    return to_frame(points, None, height, width)


def sample_loss(
    network: MaskNetwork, sample: Sample, config: MaskTraining, rng: np.random.Generator, *, whole: bool
) -> Tensor:
    """Loss of one sample: of the encoder alone, or of the whole network."""
    patches = None
    if rng.random() >= (config.tower_dropout if whole else config.encoder_tower_dropout):
        patches = {layer: values.astype(np.float32) for layer, values in sample.patches.items()}
    traces = weakened(sample.traces, rng) if rng.random() >= config.trace_dropout else None
    embedding, coarse = network.embed(sample.pixels, patches, traces)
    if not whole:
        return coarse_loss(coarse[0, 0], sample.mask, config.weights)
    prompts = simulated_prompts(sample, rng) if rng.random() < config.prompt_share else ([], None)
    return full_loss(network.decode(embedding, coarse, None, None, *prompts), sample.mask, config.weights)


def weakened(traces: Traces | None, rng: np.random.Generator) -> Traces | None:
    """The maps with the region's logits scaled by 0.5 to 1.1 and shifted by half a logit or so."""
    if traces is None or traces.region is None:
        return traces
    logits = logit(np.clip(traces.region, 1e-6, 1 - 1e-6)) * rng.uniform(0.5, 1.1) + rng.normal(0, 0.5)
    return Traces(traces.boundary, expit(logits).astype(np.float32))


def everything_of(network: MaskNetwork) -> dict[str, torch.nn.Parameter]:
    """All tensors of the network by name, buffers (the prompt encoder's drawn frequencies) included."""
    return cast("dict[str, torch.nn.Parameter]", network.state_dict(keep_vars=True))


def training_cache(
    config: MaskTraining,
    tower: TowerFunction,
    traces: TraceFunction | None = None,
    *,
    blending_weights: str | None = None,
    validation: bool = False,
) -> SampleCache:
    """The cached sample series of a run: from the training sources, or from those that are held back.

    Raises:
        SettingsError: no pictures, or the cache holds the samples of other pictures, weights or seeds.
    """
    pictures = [
        picture
        for picture in load_manifest(config.data)
        if picture.part != FORGERIES and held_back(picture.source) == validation
    ]
    layers = config.network.encoder.layers
    seed = config.seed + int(validation)
    maker = SampleMaker(pictures, tower, layers, seed, traces=traces, blending_weights=blending_weights)
    return SampleCache(config.out / "cache" / ("val" if validation else "train"), maker)


ANY_TIME = ("data", "out", "save_every", "threads", "device")
"""Settings that may change where a run goes on; the pictures are compared by their digest."""


def train(
    config: MaskTraining,
    tower: TowerFunction,
    traces: TraceFunction | None = None,
    *,
    blending_weights: str | None = None,
    resume: bool = False,
) -> MaskNetwork:
    """Train (or go on training) and return the network; the checkpoint is in ``config.out``.

    Args:
        config: the run.
        tower: the frozen tower, e.g. ``vlmforensics.compact``'s.
        traces: the blending detector, or None.
        blending_weights: digest of the weights behind ``traces``.
        resume: continue from the checkpoint in ``config.out``.

    Raises:
        SettingsError: no pictures, nothing to resume, or a checkpoint or cached samples of another run.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    network = MaskNetwork(config.network)
    if config.start is not None:
        network.load_state_dict(load_file(config.start), strict=True)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(config.frozen))
    network = network.to(pick_device(Settings(device=config.device)))
    optimizer = torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad], lr=config.rate, weight_decay=config.decay
    )
    cache = training_cache(config, tower, traces, blending_weights=blending_weights)
    settings = json.loads(json.dumps(asdict(config), default=str))
    run = {key: value for key, value in settings.items() if key not in ANY_TIME} | cache.maker.facts
    first = 0
    if resume:
        facts = load_state(config.out, everything_of(network), optimizer, run)
        if facts is None:
            raise SettingsError(f"nothing to resume: no saved state in {config.out}")
        first = int(facts["step"])
    (config.out / "config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    switch = round(config.encoder_share * config.steps)
    started = time.monotonic()
    with (config.out / "log.jsonl").open("a" if resume else "w", encoding="utf-8") as log:
        for step, samples in read_ahead(cache, config, first):
            loss = train_step(network, optimizer, samples, config, step, whole=step >= switch)
            seconds = round(time.monotonic() - started, 1)
            log.write(
                json.dumps({"step": step, "loss": loss, "whole": step >= switch, "seconds": seconds}) + "\n"
            )
            log.flush()
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                save_state(config.out, everything_of(network), optimizer, {"step": step + 1, **run})
                logger.info("step %d of %d, loss %.4f, %.0f s", step + 1, config.steps, loss, seconds)
    return network


def read_ahead(
    cache: SampleCache, config: MaskTraining, first: int, ahead: int = 8
) -> Iterator[tuple[int, list[tuple[int, Sample]]]]:
    """Each step from ``first`` with its (index, sample) pairs, read by one thread up to ``ahead`` steps before."""
    reader = ThreadPoolExecutor(1)
    coming: deque[list[tuple[int, Future[Sample]]]] = deque()
    try:
        for reading in range(first, config.steps + ahead):
            if reading < config.steps:
                indices = batch_indices(config, reading)
                coming.append([(index, reader.submit(cache.__getitem__, index)) for index in indices])
            if reading >= first + ahead:
                yield reading - ahead, [(index, sample.result()) for index, sample in coming.popleft()]
    finally:
        reader.shutdown(cancel_futures=True)


def fill(cache: SampleCache, config: MaskTraining, part: tuple[int, int]) -> None:
    """Make every ``part[1]``-th sample of the cache, from number ``part[0]``: to share the work among processes."""
    for index in range(part[0], config.samples, part[1]):
        cache.fill(index)


def train_step(
    network: MaskNetwork,
    optimizer: torch.optim.AdamW,
    samples: Sequence[tuple[int, Sample]],
    config: MaskTraining,
    step: int,
    *,
    whole: bool,
) -> float:
    """One optimiser step; gradients are accumulated picture by picture, for pictures differ in size."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    optimizer.zero_grad(set_to_none=True)
    network.train()
    total = 0.0
    for index, sample in samples:
        rng = np.random.default_rng([config.seed, 11, step, index])
        loss = sample_loss(network, sample, config, rng, whole=whole) / config.batch
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return total


def base_tower(layers: tuple[int, ...], threads: int) -> TowerFunction:
    """The compact model's frozen tower as a function of pixels; its base weights are fetched where missing."""
    from vlmforensics.compact.assembly import build_base
    from vlmforensics.compact.tower import squash
    from vlmforensics.settings import load_settings

    tower = build_base(load_settings(threads=threads)).tower

    def look(pixels: Pixels) -> dict[int, NDArray[np.float32]]:
        seen = tower.features([squash(pixels)], layers)
        return {layer: values[0] for layer, values in seen.patches.items()}

    return look


def finish(
    network: MaskNetwork,
    config: MaskTraining,
    tower: TowerFunction,
    traces: TraceFunction | None = None,
    *,
    blending_weights: str | None = None,
    made: int,
    untouched: int,
    command: str,
    maps: Mapping[str, MapFunction] | None = None,
) -> Path:
    """Round to half precision, calibrate, validate, export to ``out/export``; returns the manifest's path.

    ``blending_weights`` is the digest of the weights that drew ``traces``, for the manifest.
    """
    network = round_trip_half(network.cpu()).eval()
    pictures = load_manifest(config.data)
    cache = training_cache(config, tower, traces, blending_weights=blending_weights, validation=True)
    calibration, report = validate(
        network,
        tower,
        traces,
        cache,
        pictures,
        made=made,
        untouched=untouched,
        seed=config.seed,
        maps=CLASSICAL if maps is None else maps,
    )
    used = [p for p in pictures if p.part != FORGERIES and p.label in ("real", "synthetic")]
    training: dict[str, Any] = {
        "command": command,
        "seed": config.seed,
        "steps": config.steps,
        "encoder_steps": round(config.encoder_share * config.steps),
        "batch": config.batch,
        "samples": config.samples,
        "rate": config.rate,
        "photographs": sum(p.label == "real" and not held_back(p.source) for p in used),
        "generated_pictures": sum(p.label == "synthetic" and not held_back(p.source) for p in used),
        "held_back_sources": sorted({p.source for p in used if held_back(p.source)}),
        "pictures_sha256": pictures_digest(used),
        "blending_weights": blending_weights,
    }
    return export(
        network,
        calibration,
        config.out / "export",
        training=training,
        validation=report,
        traces=traces is not None,
    )


def pictures_digest(pictures: Sequence[Picture]) -> str:
    """SHA-256 over the sorted digests of all pictures: identifies the data without naming them."""
    return hashlib.sha256("\n".join(sorted(p.sha256 for p in pictures)).encode()).hexdigest()


def main(
    data: Annotated[Path, typer.Option(help="Folder with manifest.jsonl and the pictures.")],
    out: Annotated[Path, typer.Option(help="Folder for cache, checkpoint, log and export.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps of both phases.")] = 2000,
    encoder_share: Annotated[float, typer.Option(help="Share of the steps for the encoder alone.")] = 0.5,
    samples: Annotated[int, typer.Option(help="Size of the cached training set.")] = 5000,
    batch: Annotated[int, typer.Option(help="Samples a step.")] = 4,
    seed: Annotated[int, typer.Option(help="Of samples, weights and order.")] = 0,
    threads: Annotated[int, typer.Option(help="Torch threads; 0 = all.")] = 0,
    made: Annotated[int, typer.Option(help="Made validation samples, half of them for calibration.")] = 300,
    untouched: Annotated[int, typer.Option(help="Found untouched photographs to validate on.")] = 250,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    start: Annotated[Path | None, typer.Option(help="Weights (safetensors) to begin with.")] = None,
    frozen: Annotated[
        list[str] | None, typer.Option(help="Beginning of names of parameters that don't learn; repeatable.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = MaskTraining.rate,
    fill_only: Annotated[
        str, typer.Option(help="Only make samples, share I/N of them: for N processes side by side.")
    ] = "",
    resume: Annotated[bool, typer.Option(help="Continue from the saved state.")] = False,
) -> None:
    """Train the mask head, validate it on held-back sources, and export it with its manifest."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = MaskTraining(
        data=data,
        out=out,
        steps=steps,
        encoder_share=encoder_share,
        samples=samples,
        batch=batch,
        seed=seed,
        threads=threads,
        device=device,
        start=start,
        frozen=tuple(frozen or ()),
        rate=rate,
    )
    tower = base_tower(config.network.encoder.layers, threads)
    detector = BlendingDetector.load()
    digest = detector.weights_sha256
    if fill_only:
        cache = training_cache(config, tower, detector.traces, blending_weights=digest)
        fill(cache, config, share_of(fill_only))
        return
    network = train(config, tower, detector.traces, blending_weights=digest, resume=resume)
    command = shlex.join(["python", "-m", "vlmforensics.finetune.masks", *sys.argv[1:]])
    path = finish(
        network,
        config,
        tower,
        detector.traces,
        blending_weights=digest,
        made=made,
        untouched=untouched,
        command=command,
    )
    typer.echo(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    typer.run(main)
