"""Train the blending detector: ``python -m vlmforensics.finetune.blending --data DIR --out DIR``.

One loop for CPU and GPU (accelerate). Every few minutes everything that the next step depends on is written:
weights, their moving average, the optimiser, the random state and the step; pairs depend on seed and index.
So a run that is killed and resumed logs the same losses as one that was not.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

from vlmforensics.blending.figures import auc
from vlmforensics.blending.model import BlendingNet
from vlmforensics.blending.published import initialise, published_state
from vlmforensics.errors import SettingsError, WeightsCorrupt
from vlmforensics.finetune.blending_data import PairDataset, Pictures, build_cache


@dataclass(frozen=True)
class BlendingConfig:
    """How to train.

    Attributes:
        data: folder with ``manifest.jsonl``.
        out: folder for the log, checkpoints and the result.
        steps: optimiser steps in all; the learning rate falls to zero over them.
        seed: of weights, pairs and their order.
        resume: continue from the last checkpoint in ``out``; without it ``out`` must hold none.
        size: side of a crop in px, a multiple of 16.
        pairs: pairs (authentic, tampered) per step and process.
        learning_rate: of new layers; the published trunk learns at a third of it.
        decay: weight decay.
        average: decay per step of the moving average of weights, which is what is used afterwards.
        device: ``auto`` (a GPU where there is one) or ``cpu``.
        threads: of torch on the CPU; 0 = as torch chooses.
        workers: processes that make pairs.
        validate_every: steps between validations.
        validation_pairs: pairs of held-out sources.
        checkpoint_seconds: between checkpoints.
        cache: folder of decoded pixels; None = ``out/cache``.
        limit: use only about this many pictures (for trials).
        curriculum: share of the run over which difficulty rises, see ``PairDataset``.
        start: folder of another run whose averaged weights to start from, instead of the published ones.
        published: start from the published ImageNet weights; without them from random ones.
    """

    data: Path
    out: Path
    steps: int = 2400
    seed: int = 0
    resume: bool = False
    size: int = 256
    pairs: int = 6
    learning_rate: float = 1.5e-3
    decay: float = 1e-4
    average: float = 0.995
    device: str = "auto"
    threads: int = 0
    workers: int = 1
    validate_every: int = 200
    validation_pairs: int = 64
    checkpoint_seconds: float = 180.0
    cache: Path | None = None
    limit: int | None = None
    curriculum: float = 0.0
    start: Path | None = None
    published: bool = True


def losses(net: BlendingNet, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The three parts of the loss: both maps by weighted cross-entropy, the score by cross-entropy.

    Traces cover a few per cent of the area; the weights keep "nowhere" from being a good answer.
    """
    output = net(batch["pixels"])
    boundary = F.binary_cross_entropy_with_logits(
        output.boundary, batch["boundary"], pos_weight=output.boundary.new_tensor(4.0)
    )
    region = F.binary_cross_entropy_with_logits(
        output.region, batch["region"], pos_weight=output.region.new_tensor(3.0)
    )
    score = F.binary_cross_entropy_with_logits(net.score(output), batch["label"])
    return {"boundary": boundary, "region": region, "score": score}


def total(parts: dict[str, Tensor]) -> Tensor:
    """Weighted sum of the parts; maps come first, the score follows from them."""
    return 2.0 * parts["boundary"] + parts["region"] + 0.5 * parts["score"]


def _flatten(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """(pairs, 2, …) → (2·pairs, …) on the device; pixels to float, channels last."""
    flat = {name: value.flatten(0, 1).to(device) for name, value in batch.items()}
    flat["pixels"] = flat["pixels"].float().contiguous(memory_format=torch.channels_last)
    return flat


def rate(step: int, steps: int) -> float:
    """Learning-rate factor: linear warm-up over at most 100 steps, then a cosine down to 1 %."""
    warm = min(100, max(1, steps // 10))
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))


class _Steps(torch.utils.data.Sampler[int]):
    """Pair indices from a step onwards, disjoint between processes."""

    def __init__(self, first: int, last: int, pairs: int, process: int, processes: int) -> None:
        self.first, self.last, self.pairs, self.process, self.processes = (
            first,
            last,
            pairs,
            process,
            processes,
        )

    def __iter__(self) -> Iterator[int]:
        for step in range(self.first, self.last):
            start = (step * self.processes + self.process) * self.pairs
            yield from range(start, start + self.pairs)

    def __len__(self) -> int:
        return (self.last - self.first) * self.pairs


class Trainer:
    """One training run; ``run`` does it all."""

    def __init__(self, config: BlendingConfig, pictures: Pictures) -> None:
        if config.size % 16:
            raise SettingsError(f"size must be a multiple of 16, not {config.size}")
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config, self.pictures = config, pictures
        self.accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision="no")
        torch.manual_seed(config.seed)
        net = BlendingNet()
        if config.start is not None:
            record = json.loads((config.start / "latest.json").read_text(encoding="utf-8"))
            net.load_state_dict(
                load_file(config.start / record["folder"] / "average.safetensors"), strict=True
            )
        elif config.published:
            initialise(net, published_state())
        trunk = [p for name, p in net.named_parameters() if name.startswith("backbone.")]
        rest = [p for name, p in net.named_parameters() if not name.startswith("backbone.")]
        optimizer = torch.optim.AdamW(
            [{"params": trunk, "lr": config.learning_rate / 3}, {"params": rest, "lr": config.learning_rate}],
            weight_decay=config.decay,
        )
        self.bases = [group["lr"] for group in optimizer.param_groups]
        net = net.to(memory_format=torch.channels_last)
        self.net, self.optimizer = self.accelerator.prepare(net, optimizer)
        self.average = {name: value.clone() for name, value in self._bare().state_dict().items()}
        self.step = 0

    def _bare(self) -> BlendingNet:
        net: BlendingNet = self.accelerator.unwrap_model(self.net)
        return net

    def run(self) -> None:
        """Train to the last step, validating and checkpointing on the way."""
        config = self.config
        config.out.mkdir(parents=True, exist_ok=True)
        if config.resume:
            self._load()
        elif (config.out / "latest.json").exists():
            raise SettingsError(f"{config.out} holds a run already: pass resume, or give another folder")
        loader = DataLoader(
            PairDataset(
                self.pictures,
                "train",
                seed=config.seed,
                size=config.size,
                length=config.steps * config.pairs * self.accelerator.num_processes,
                curriculum=config.curriculum,
            ),
            batch_size=config.pairs,
            sampler=_Steps(
                self.step,
                config.steps,
                config.pairs,
                self.accelerator.process_index,
                self.accelerator.num_processes,
            ),
            num_workers=config.workers,
            prefetch_factor=4 if config.workers else None,
        )
        saved = time.monotonic()
        for batch in loader:
            self._advance(batch)
            last = self.step == config.steps
            if last or self.step % config.validate_every == 0:
                self._write("validation", self.validate())
            if last or time.monotonic() - saved > config.checkpoint_seconds:
                self._save()
                saved = time.monotonic()

    def _advance(self, batch: dict[str, Tensor]) -> None:
        """One optimiser step."""
        begun = time.monotonic()
        factor = rate(self.step, self.config.steps)
        for group, base in zip(self.optimizer.param_groups, self.bases, strict=True):
            group["lr"] = base * factor
        self.net.train()
        parts = losses(self._bare(), _flatten(batch, self.accelerator.device))
        loss = total(parts)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.net.parameters(), 2.0)
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            decay = min(self.config.average, (1 + self.step) / (10 + self.step))
            for name, value in self._bare().state_dict().items():
                if value.dtype.is_floating_point:
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)
        numbers = {name: float(part.detach()) for name, part in parts.items()}
        self._write(
            "train",
            {"loss": float(loss.detach()), **numbers, "seconds": round(time.monotonic() - begun, 3)},
        )

    def averaged(self) -> BlendingNet:
        """A copy of the network with the moving average of the weights, in evaluation mode."""
        net = BlendingNet().to(self.accelerator.device)
        net.load_state_dict(self.average, strict=True)
        return net.to(memory_format=torch.channels_last).eval()

    def validate(self) -> dict[str, float]:
        """Measure on held-out sources: picture-level AUC, boundary AUC, false alarms on authentic crops."""
        net = self.averaged()
        pairs = PairDataset(
            self.pictures, "val", seed=7, size=self.config.size, length=self.config.validation_pairs
        )
        scores, labels, cells, truths = [], [], [], []
        for index in range(len(pairs)):
            batch = _flatten({k: v[None] for k, v in pairs[index].items()}, self.accelerator.device)
            with torch.inference_mode():
                output = net(batch["pixels"])
                scores.append(net.score(output).cpu().numpy())
            labels.append(batch["label"].cpu().numpy())
            cells.append(output.boundary[1].cpu().numpy().ravel()[::4])
            truths.append(batch["boundary"][1].cpu().numpy().ravel()[::4] > 0.5)
        score, label = np.concatenate(scores), np.concatenate(labels) > 0.5
        return {
            "auc": auc(score, label),
            "boundary_auc": auc(np.concatenate(cells), np.concatenate(truths)),
            "false_alarms_at_half": float((score[~label] > 0).mean()),
            "recall_at_half": float((score[label] > 0).mean()),
            "pictures": float(len(label)),
        }

    def _write(self, kind: str, numbers: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            with (self.config.out / "log.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"kind": kind, "step": self.step, **numbers}) + "\n")

    def _save(self) -> None:
        """Write a checkpoint into a new folder, then point ``latest.json`` at it in one atomic rename."""
        if not self.accelerator.is_main_process:
            return
        out = self.config.out
        folder = out / f"checkpoint-{self.step:07d}"
        folder.mkdir(exist_ok=True)
        _store(self._bare().state_dict(), folder / "model.safetensors")
        _store(self.average, folder / "average.safetensors")
        state = self.optimizer.state_dict()["state"]
        flat = {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}
        flat["rng"] = torch.get_rng_state()
        _store(flat, folder / "optimizer.safetensors")
        partial = out / "latest.json.partial"
        record = {
            "step": self.step,
            "folder": folder.name,
            "data": self.pictures.sha256,
            "config": self._config(),
        }
        partial.write_text(json.dumps(record), encoding="utf-8")
        partial.replace(out / "latest.json")
        for old in out.glob("checkpoint-*"):
            if old != folder:
                shutil.rmtree(old)

    def _config(self) -> dict[str, Any]:
        return {key: str(v) if isinstance(v, Path) else v for key, v in asdict(self.config).items()}

    def _load(self) -> None:
        """Continue from ``latest.json``; log lines of steps that will be repeated are dropped."""
        out = self.config.out
        if not (out / "latest.json").exists():
            (out / "log.jsonl").unlink(missing_ok=True)  # killed before the first checkpoint: start anew
            return
        record = json.loads((out / "latest.json").read_text(encoding="utf-8"))
        if record["data"] != self.pictures.sha256:
            raise SettingsError("the pictures are not those that the checkpoint was trained on")
        # `steps` may change: a run can be lengthened or cut short; learning rate and curriculum follow.
        same = ("seed", "size", "pairs", "learning_rate", "decay", "average", "curriculum")
        differs = [key for key in same if record["config"][key] != self._config()[key]]
        if differs:
            raise SettingsError(f"can't resume with other settings: {', '.join(differs)}")
        folder = out / record["folder"]
        self.step = int(record["step"])
        self._bare().load_state_dict(load_file(folder / "model.safetensors"), strict=True)
        average = load_file(folder / "average.safetensors")
        if set(average) != set(self.average):
            raise WeightsCorrupt(f"{folder} holds the average of another network")
        self.average = {name: value.to(self.accelerator.device) for name, value in average.items()}
        flat = load_file(folder / "optimizer.safetensors")
        torch.set_rng_state(flat.pop("rng"))
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in flat.items():
            index, _, name = key.partition(".")
            entries.setdefault(int(index), {})[name] = value
        state = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": entries, "param_groups": state["param_groups"]})
        log = out / "log.jsonl"
        kept = [x for x in log.read_text(encoding="utf-8").splitlines() if _step_of(x) <= self.step]
        log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _store(tensors: dict[str, Tensor], file: Path) -> None:
    save_file({name: value.contiguous() for name, value in tensors.items()}, file)


def _step_of(line: str) -> int:
    """Step of a log line; a line cut short by a kill counts as later than any."""
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        return 1 << 62


def train(config: BlendingConfig) -> None:
    """Train (or continue) and leave ``checkpoint-*/average.safetensors`` and ``log.jsonl`` in ``config.out``.

    Raises:
        SettingsError: a wrong or contradictory setting.
        WeightsUnavailable: the published weights can't be had.
    """
    pictures = build_cache(config.data, config.cache or config.out / "cache", limit=config.limit)
    Trainer(config, pictures).run()


def parser() -> argparse.ArgumentParser:
    """Options of the command line; names and defaults are those of ``BlendingConfig``."""
    options = argparse.ArgumentParser(prog="vlmforensics.finetune.blending", description=__doc__)
    options.add_argument("--data", type=Path, required=True, help="folder with manifest.jsonl")
    options.add_argument("--out", type=Path, required=True, help="folder for log, checkpoints and result")
    options.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    options.add_argument("--cache", type=Path, help="folder of decoded pixels (default: OUT/cache)")
    options.add_argument("--device", default="auto", choices=["auto", "cpu"])
    for name in (
        "steps",
        "seed",
        "size",
        "pairs",
        "threads",
        "workers",
        "validate-every",
        "validation-pairs",
    ):
        options.add_argument(f"--{name}", type=int, default=getattr(BlendingConfig, name.replace("-", "_")))
    options.add_argument("--limit", type=int, help="use only about this many pictures")
    options.add_argument("--start", type=Path, help="another run's folder, whose weights to start from")
    for name in ("learning-rate", "decay", "average", "checkpoint-seconds", "curriculum"):
        options.add_argument(f"--{name}", type=float, default=getattr(BlendingConfig, name.replace("-", "_")))
    return options


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command line."""
    logging.basicConfig(level=logging.INFO)
    train(BlendingConfig(**vars(parser().parse_args(arguments))))


if __name__ == "__main__":
    main()
