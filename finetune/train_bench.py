"""How much the training loop costs over a bare PyTorch loop that is fed the same tensors: prints the ratio.

Both loops take the same batches through the same model, clip and step; the loop of ``finetune train`` adds sampling,
collation, reading of cached features, accelerate, the learning-rate schedule and logging. They take turns, and the
ratio is that of medians, so that other work on the machine weighs on both alike.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, TrainerCallback

from vlmforensics.finetune.recipe import Recipe, load_recipe
from vlmforensics.finetune.samples import Sample
from vlmforensics.finetune.train import (
    Job,
    Tutor,
    parameter_groups,
    prepare,
    sampler_of,
    step_size,
    training_arguments,
)
from vlmforensics.finetune.train_batches import BalancedBuckets, Samples, collate
from vlmforensics.finetune.train_model import Built, build
from vlmforensics.imaging import encode
from vlmforensics.settings import Settings
from vlmforensics.types import LABELS

TARGET = 1.3
"""The loop may cost this many times the bare one."""
ANSWER = "The light falls from one side, the edges are clean and the texture repeats without seams. " * 3


def compare(base: str, settings: Settings, *, steps: int, rounds: int) -> str:
    """Time both loops and word the result.

    Args:
        base: ``compact`` or a LLaVA-layout checkpoint.
        settings: threads, cache.
        steps: optimiser steps of each loop and round.
        rounds: rounds.
    """
    recipe = bench_recipe(base)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = made(folder, steps * recipe.optimiser.batch)
        job = Job(recipe, folder / "samples.jsonl", folder / "out", settings=settings)
        arguments = training_arguments(job)
        built = build(recipe, settings, samples=step_size(recipe, arguments))
        dataset = prepare(samples, built, recipe, job.out, arguments)
        sampler = sampler_of(samples, dataset, recipe, recipe.optimiser.batch)
        ours, bare = [], []
        bare_steps(built, dataset, sampler, recipe, 1)  # the first step allocates
        for _ in range(rounds):
            ours += trainer_steps(built, dataset, sampler, job)
            bare += bare_steps(built, dataset, sampler, recipe, steps)
    one, other = statistics.median(ours), statistics.median(bare)
    return (
        f"training step {one:.3f} s, bare loop {other:.3f} s, ratio {one / other:.2f} (target ≤ {TARGET}); "
        f"{base}, batch {recipe.optimiser.batch}, medians of {len(ours)} and {len(bare)} steps"
    )


def bench_recipe(base: str) -> Recipe:
    """The CPU recipe on ``base``; a checkpoint may have fewer layers, so its head then reads the last."""
    changes = ["saving.every=1000000", "saving.log_every=1", "optimiser.accumulate=1"]
    if base != "compact":
        changes += [f'base="{base}"', "heads.layer=-1"]
    return load_recipe("compact-cpu", changes)


def made(folder: Path, count: int) -> list[Sample]:
    """Pictures of noise with one answer."""
    samples = []
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        file, payload = folder / f"{index}.png", encode(pixels, "PNG")
        file.write_bytes(payload)
        label = LABELS[index % len(LABELS)]
        digest = hashlib.sha256(payload).hexdigest()
        samples.append(Sample(image=file, sha256=digest, label=label, answer=ANSWER))
    return samples


class _Clock(TrainerCallback):
    """Seconds from the end of one step to the end of the next: everything between counts."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last: float | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


def trainer_steps(built: Built, dataset: Samples, sampler: BalancedBuckets, job: Job) -> list[float]:
    """Seconds of each step but the first, in the loop of ``finetune train``."""
    clock = _Clock()
    tutor = Tutor(
        model=built.student,
        args=training_arguments(job),
        train_dataset=dataset,
        data_collator=partial(collate, turns=built.turns),
        callbacks=[clock],
    )
    tutor.remove_callback(PrinterCallback)
    tutor.recipe, tutor.sampler = job.recipe, sampler
    tutor.train()
    return clock.seconds


def bare_steps(
    built: Built, dataset: Samples, sampler: BalancedBuckets, recipe: Recipe, steps: int
) -> list[float]:
    """Seconds of each step of a plain loop over ready tensors."""
    size, student = recipe.optimiser.batch, built.student.train()
    keys = list(sampler)
    device = next(student.parameters()).device
    batches = [
        collate([dataset[key] for key in keys[start : start + size]], built.turns)
        for start in range(0, size * steps, size)
    ]
    batches = [{name: value.to(device) for name, value in batch.items()} for batch in batches]
    optimiser = torch.optim.AdamW(parameter_groups(student, recipe))
    learned = list(student.trained().values())
    seconds = []
    for batch in batches:
        start = time.perf_counter()
        loss = student(**batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, recipe.optimiser.clip)
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.perf_counter() - start)
    return seconds
