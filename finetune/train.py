"""Train a recipe: ``vlmforensics finetune train --recipe sida-7b --data samples.jsonl --out DIR [--resume]``.

transformers' Trainer runs the loop (accelerate underneath, so ``accelerate launch`` spreads it over processes); what it
saves between steps is its own format, read back with ``weights_only``. A checkpoint counts once it is marked complete,
so a kill while one is written falls back to the one before. The finished adapter is safetensors with a manifest.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from vlmforensics.errors import SettingsError
from vlmforensics.finetune.adapters import data_digest, save_adapter
from vlmforensics.finetune.recipe import Recipe
from vlmforensics.finetune.samples import Sample, read_samples
from vlmforensics.finetune.student import PARTS, Student
from vlmforensics.finetune.train_batches import BalancedBuckets, FeatureStore, Samples, balance, collate
from vlmforensics.finetune.train_model import Built, build
from vlmforensics.settings import Settings
from vlmforensics.types import LABELS

log = logging.getLogger(__name__)
COMPLETE = "complete.json"
RUN = "run.json"
ADAPTER = "adapter"
CURVE = "curve.jsonl"


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        recipe: which.
        data: JSON-lines file of samples.
        out: folder for features, checkpoints, curve and adapter.
        validation: JSON-lines file to measure on after each pass, or None.
        resume: go on from the last complete checkpoint in ``out``.
        settings: device, threads, cache.
    """

    recipe: Recipe
    data: Path
    out: Path
    validation: Path | None = None
    resume: bool = False
    settings: Settings = field(default_factory=Settings)


class Tutor(Trainer):
    """Trainer with our sampler, a learning rate for each part, and the parts of the loss in its log."""

    recipe: Recipe
    sampler: BalancedBuckets
    told = 0
    """Step of the last line of the log, or the one that this run goes on from."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.sampler

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with one group a part; see ``recipe.Optimiser``."""
        if self.optimizer is None:
            student: Any = self.model if model is None else model
            groups = parameter_groups(student, self.recipe)
            kind, arguments = self.get_optimizer_cls_and_kwargs(self.args, student)
            self.optimizer = kind(groups, **arguments)
        return self.optimizer

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """In validation each batch is measured by itself: the number of a whole step's samples is training's."""
        items = num_items_in_batch if model.training else None
        return super().compute_loss(model, inputs, return_outputs, items)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss (means since the last line, over all processes)."""
        student = self.accelerator.unwrap_model(self.model)
        if "loss" in logs:
            steps = self.state.global_step - self.told
            self.told = self.state.global_step
            tallies = torch.stack([student.tally[part] for part in PARTS]).to(self.args.device)
            tallies = self.accelerator.reduce(tallies, "sum") / max(1, steps)
            logs |= {part: float(t) for part, t in zip(PARTS, tallies, strict=True) if float(t)}
            student.tally = {part: torch.zeros(()) for part in PARTS}
        if "eval_loss" in logs and student.head is not None:
            counts = self.accelerator.reduce(student.confusion.to(self.args.device), "sum").cpu()
            present = counts.sum(1) > 0
            recall = counts.diagonal()[present] / counts.sum(1)[present]
            logs["eval_balanced_accuracy"] = float(recall.mean())
            student.confusion = torch.zeros(len(LABELS), len(LABELS), dtype=torch.long)
        super().log(logs, start_time)


class _Marker(TrainerCallback):
    """Marks a checkpoint as complete, and keeps the curve on disk as it grows."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.is_world_process_zero:
            folder = self.out / f"checkpoint-{state.global_step}"
            (folder / COMPLETE).write_text(json.dumps({"step": state.global_step}) + "\n", encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.is_world_process_zero:
            write_curve(self.out / CURVE, state.log_history)
            numbers = ", ".join(
                f"{key} {value:.4g}" for key, value in state.log_history[-1].items() if key != "step"
            )
            log.info("step %d of %d: %s", state.global_step, state.max_steps, numbers)


def write_curve(file: Path, history: Sequence[dict[str, float]]) -> None:
    """All lines of the log so far, whole or not at all; a resumed run takes up the checkpoint's."""
    part = file.with_suffix(".part")
    part.write_text("".join(json.dumps(line) + "\n" for line in history), encoding="utf-8")
    part.replace(file)


def train(job: Job) -> Path:
    """Run a job; returns the adapter's folder.

    Raises:
        SettingsError: no samples, nothing to resume, another run in ``out``, a recipe that doesn't fit.
        WeightsUnavailable, WeightsCorrupt, ModelError: the base can't be had or doesn't fit.
    """
    recipe = job.recipe
    samples = load(job.data)
    arguments = training_arguments(job)
    last = claim(job, samples) if arguments.process_index == 0 else None
    if arguments.world_size > 1:
        torch.distributed.barrier()
        last = last_complete(job.out) if job.resume else None
    built = build(
        recipe, replace(job.settings, device=str(arguments.device)), samples=step_size(recipe, arguments)
    )
    dataset = prepare(samples, built, recipe, job.out, arguments)
    valid = prepare(load(job.validation), built, recipe, job.out, arguments) if job.validation else None
    tutor = Tutor(
        model=built.student,
        args=arguments,
        train_dataset=dataset,
        eval_dataset=valid,
        data_collator=partial(collate, turns=built.turns),
        callbacks=[_Marker(job.out)],
    )
    tutor.remove_callback(PrinterCallback)  # prints to standard output
    tutor.recipe = recipe
    tutor.sampler = sampler_of(samples, dataset, recipe, step_size(recipe, arguments))
    tutor.told = step_of(last) if last else 0
    tutor.train(resume_from_checkpoint=str(last) if last else None)
    folder = job.out / ADAPTER
    if tutor.is_world_process_zero():
        write_curve(job.out / CURVE, tutor.state.log_history)
        save_adapter(folder, built, recipe, data=job.data, samples=samples, steps=tutor.state.global_step)
    tutor.accelerator.wait_for_everyone()
    return folder


def load(file: Path) -> list[Sample]:
    """All samples of a file.

    Raises:
        SettingsError: none, or not readable.
    """
    samples = list(read_samples(file))
    if not samples:
        raise SettingsError(f"{file} holds no samples; make some with `vlmforensics finetune annotate`")
    return samples


def step_size(recipe: Recipe, arguments: TrainingArguments) -> int:
    """Samples of one optimiser step over all processes."""
    return recipe.optimiser.batch * recipe.optimiser.accumulate * max(1, arguments.world_size)


def prepare(
    samples: Sequence[Sample], built: Built, recipe: Recipe, out: Path, arguments: TrainingArguments
) -> Samples:
    """The dataset; where the tower is frozen, its features first (each process computes its share)."""
    if recipe.learn.tower:
        return Samples(samples, built, recipe, None)
    store = FeatureStore(out / "features", built, masks=recipe.heads.mask)
    built.student.eval()
    store.fill(samples, (arguments.process_index, max(1, arguments.world_size)))
    if arguments.world_size > 1:
        torch.distributed.barrier()
    return Samples(samples, built, recipe, store)


def sampler_of(samples: Sequence[Sample], dataset: Samples, recipe: Recipe, step: int) -> BalancedBuckets:
    """Draws for a recipe; says how many answers the length limit cuts."""
    lengths = [dataset.length(index) for index in range(len(dataset))]
    cut = sum(length >= recipe.prompt.max_length for length in lengths)
    if cut:
        log.warning("%d of %d answers are cut at %d tokens", cut, len(lengths), recipe.prompt.max_length)
    even = recipe.sampling.balance == "none"
    shares = np.ones(len(samples)) if even else balance(samples)
    return BalancedBuckets(shares, lengths, step=step, window=recipe.sampling.bucket, seed=recipe.seed)


def claim(job: Job, samples: Sequence[Sample]) -> Path | None:
    """Check that ``out`` is this run's, and find the checkpoint to go on from.

    Raises:
        SettingsError: ``out`` holds another run, or nothing to resume.
    """
    facts = {"recipe": job.recipe.model_dump(mode="json"), "data_sha256": data_digest(samples)}
    file = job.out / RUN
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
        if not job.resume:
            raise SettingsError(f"{job.out} holds a run already: use --resume to go on, or another folder")
        if known != facts:
            odd = [key for key in facts if known.get(key) != facts[key]]
            raise SettingsError(
                f"{job.out} holds a run with another {' and '.join(odd).replace('data_sha256', 'data set')}; "
                "resume with what it was started with, or use another folder"
            )
    elif job.resume:
        raise SettingsError(f"nothing to resume: {job.out} holds no run")
    else:
        job.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return last_complete(job.out) if job.resume else None


def last_complete(out: Path) -> Path | None:
    """The newest checkpoint that was written to its end; torn ones are removed."""
    found: list[tuple[int, Path]] = []
    for folder in out.glob("checkpoint-*"):
        if (folder / COMPLETE).is_file():
            found.append((step_of(folder), folder))
        else:
            log.warning("%s was not written to its end and is removed", folder.name)
            shutil.rmtree(folder, ignore_errors=True)
    return max(found)[1] if found else None


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint's folder was written."""
    return int(checkpoint.name.split("-")[1])


def parameter_groups(student: Student, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters by part, with the part's rate; biases, norms and vectors don't decay."""
    chosen = recipe.optimiser
    rates = {
        "vision_tower": chosen.tower_rate,
        "multi_modal_projector": chosen.projector_rate,
        "heads": chosen.heads_rate,
    }
    groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            own = "heads" if name.startswith(("head.", "masks.")) else ""
            part = own or next((part for part in rates if part in name), "language")
            groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rates.get(part) or chosen.rate,
            "weight_decay": chosen.decay if decays else 0.0,
        }
        for (part, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def training_arguments(job: Job) -> TrainingArguments:
    """What the Trainer is told; the number format follows the device."""
    recipe, chosen = job.recipe, job.recipe.optimiser
    wanted = job.settings.device
    cuda = wanted.startswith("cuda") or (wanted == "auto" and torch.cuda.is_available())
    name = chosen.name
    if not cuda and ("8bit" in name or "paged" in name):
        log.info("%s is for CUDA; adamw_torch is used here", name)
        name = "adamw_torch"
    bf16 = cuda and torch.cuda.is_bf16_supported()
    return TrainingArguments(
        output_dir=str(job.out),
        per_device_train_batch_size=chosen.batch,
        per_device_eval_batch_size=chosen.batch,
        gradient_accumulation_steps=chosen.accumulate,
        num_train_epochs=chosen.epochs,
        max_steps=chosen.steps or -1,
        learning_rate=chosen.rate,
        optim=name,
        adam_beta1=chosen.betas[0],
        adam_beta2=chosen.betas[1],
        weight_decay=chosen.decay,
        max_grad_norm=chosen.clip,
        lr_scheduler_type=chosen.schedule,
        warmup_steps=min(chosen.warm_up, 0.999),  # below 1 it is a share
        logging_steps=recipe.saving.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=recipe.saving.every,
        save_total_limit=recipe.saving.keep,
        eval_strategy="epoch" if job.validation else "no",
        prediction_loss_only=True,
        remove_unused_columns=False,
        dataloader_pin_memory=cuda,
        ddp_find_unused_parameters=False,
        use_cpu=not cuda,
        bf16=bf16,
        fp16=cuda and not bf16,
        seed=recipe.seed,
        disable_tqdm=True,
        report_to=[],
    )
