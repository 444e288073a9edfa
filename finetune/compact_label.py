"""Train the compact model's label path: projector, ``[CLS]``/``[SEG]`` rows, LoRA of the lower layers, label head.

The tower is frozen, so its patch features come from the cache that ``finetune prepare`` filled. Two stages:

1. *Projector*: mean-pooled projections feed a linear probe, which teaches the projector to put what tells labels
   apart into the language model's embedding space. No language model runs, so this is fast.
2. *Label*: picture and question run through the first ``CLS_LAYER`` decoder layers; the head on ``[CLS]`` is trained
   with the adapter. A random share of the image tokens is dropped in each step: fewer tokens, and a regulariser.

Detector sentences in the prompt are drawn at random here, and left out half of the time, so that the head neither
depends on them nor breaks with them. Sources of one label weigh alike (by the root of their size), labels alike.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vlmforensics.compact import layout
from vlmforensics.compact.assembly import CompactParts, adapter_config, add_adapter
from vlmforensics.compact.forward import core_of, label_logits, pad_prompts
from vlmforensics.finetune.checkpoint import load_state, save_state
from vlmforensics.finetune.features import load_features
from vlmforensics.finetune.pictures import Picture
from vlmforensics.types import LABELS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelRecipe:
    """Hyper-parameters of the label path.

    Attributes:
        projector_epochs, label_epochs: passes over the samples in each stage.
        projector_batch, label_batch: samples a step.
        projector_rate, rate, projector_rate_label: peak learning rates: stage 1; adapter, rows and head in stage 2;
            projector in stage 2.
        kept_tokens: image tokens kept in each training step of stage 2, of 256.
        rank: of LoRA.
        weight_decay: of AdamW.
        seed: of everything.
    """

    projector_epochs: int = 2
    label_epochs: float = 1.0
    projector_batch: int = 32
    label_batch: int = 8
    projector_rate: float = 1e-3
    rate: float = 5e-4
    projector_rate_label: float = 5e-5
    kept_tokens: int = 64
    rank: int = 8
    weight_decay: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """One picture in one variant, with its label as an index into ``LABELS``."""

    picture: Picture
    variant: str
    label: int


def samples_of(pictures: Sequence[Picture], cache: Path, variants: Sequence[str]) -> list[Sample]:
    """Samples whose features are cached; pictures of ``made-N`` variants count as tampered."""
    from vlmforensics.finetune.features import feature_file

    found = []
    for variant in variants:
        for picture in pictures:
            if feature_file(cache, variant, picture).exists():
                label = "tampered" if variant.startswith("made") else picture.label
                found.append(Sample(picture, variant, LABELS.index(label)))
    return found


def digest_of(samples: Sequence[Sample]) -> str:
    """SHA-256 over the samples in their order, which the order of training builds on."""
    lines = (f"{sample.variant}/{sample.picture.sha256}" for sample in samples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sample_weights(samples: Sequence[Sample]) -> np.ndarray:
    """float64 (n,), mean 1: labels weigh alike, sources of a label by the root of their size."""
    sizes = Counter((s.label, s.picture.source) for s in samples)
    raw = np.array([1 / math.sqrt(sizes[s.label, s.picture.source]) for s in samples])
    labels = np.array([s.label for s in samples])
    for label in set(labels.tolist()):
        raw[labels == label] /= raw[labels == label].sum()
    return raw * (len(samples) / raw.sum())


class Memory:
    """Patch features in memory: float16 (n, 256, 1536), read once."""

    def __init__(self, samples: Sequence[Sample], cache: Path) -> None:
        self.patches = np.empty(
            (len(samples), layout.GRID**2, len(layout.FEATURE_LAYERS) * layout.TOWER_WIDTH), np.float16
        )
        for i, sample in enumerate(samples):
            found = load_features(cache, sample.variant, sample.picture, ["patches"])
            if found is None:
                raise FileNotFoundError(sample.picture.path)
            self.patches[i] = found["patches"]

    def batch(
        self, rows: Sequence[int] | np.ndarray[Any, Any], kept: np.ndarray | None = None
    ) -> torch.Tensor:
        """float32 (B, tokens, 1536); ``kept`` holds indices of the tokens to keep, ascending."""
        part = self.patches[list(rows)]
        return torch.from_numpy(part if kept is None else part[:, kept]).float()


def rate_at(step: int, steps: int, peak: float, warm_up: float = 0.05) -> float:
    """Linear warm-up, then cosine to 2 % of the peak."""
    warm = max(1, round(steps * warm_up))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))


def random_hint(rng: np.random.Generator) -> tuple[str, ...]:
    """A detector sentence with a meaningless number, or none."""
    if rng.random() < 0.5:
        return ()
    text = f"An external blending detector scores this picture {rng.random():.2f} on a scale from 0 to 1"
    if rng.random() < 0.5:
        x, y, w, h = (int(v) for v in rng.integers(1, 900, 4))
        text += f"; its strongest trace lies between ({x}, {y}) and ({x + w}, {y + h})"
    return (text + ".",)


def order_of(count: int, epochs: float, seed: int) -> np.ndarray:
    """Sample order over all epochs, each a fresh permutation."""
    whole = [np.random.default_rng((seed, epoch)).permutation(count) for epoch in range(math.ceil(epochs))]
    return np.concatenate(whole)[: round(count * epochs)]


def train_projector(
    parts: CompactParts, memory: Memory, samples: Sequence[Sample], recipe: LabelRecipe
) -> float:
    """Stage 1; returns the mean loss of the last tenth of the steps."""
    projector = core_of(parts.model).model.multi_modal_projector
    torch.manual_seed(recipe.seed)
    probe = nn.Sequential(
        nn.LayerNorm(layout.LANGUAGE_WIDTH), nn.Dropout(0.2), nn.Linear(layout.LANGUAGE_WIDTH, len(LABELS))
    )
    projector.requires_grad_(True)
    parameters = [*projector.parameters(), *probe.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.projector_rate, weight_decay=recipe.weight_decay)
    weights = torch.from_numpy(sample_weights(samples)).float()
    labels = torch.tensor([s.label for s in samples])
    order = order_of(len(samples), recipe.projector_epochs, recipe.seed + 1)
    steps = len(order) // recipe.projector_batch
    losses = []
    for step in range(steps):
        rows = order[step * recipe.projector_batch :][: recipe.projector_batch]
        rng = np.random.default_rng((recipe.seed, 1, step))
        kept = np.sort(rng.permutation(layout.GRID**2)[: recipe.kept_tokens])
        optimiser.param_groups[0]["lr"] = rate_at(step, steps, recipe.projector_rate)
        logits = probe(projector(memory.batch(rows, kept)).mean(1) / layout.EMBEDDING_SCALE)
        loss = (
            nn.functional.cross_entropy(logits, labels[rows], reduction="none", label_smoothing=0.05)
            * weights[rows]
        ).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(float(loss))
        if step % 50 == 0:
            log.info("projector step %d of %d, loss %.3f", step, steps, np.mean(losses[-50:]))
    projector.requires_grad_(False)
    return float(np.mean(losses[-max(1, steps // 10) :]))


def train_label(
    parts: CompactParts,
    memory: Memory,
    samples: Sequence[Sample],
    recipe: LabelRecipe,
    out: Path,
    *,
    resume: bool,
) -> list[dict[str, float]]:
    """Both stages; checkpoints in ``out`` every 40 steps of stage 2; returns and writes the loss curve.

    Raises:
        SettingsError: with ``resume``, and the checkpoint in ``out`` is of another recipe or other samples.
    """
    torch.manual_seed(recipe.seed)
    core = core_of(parts.model)
    model = add_adapter(parts, adapter_config(parts.tokens, rank=recipe.rank, alpha=2 * recipe.rank))
    projector = core.model.multi_modal_projector
    head = parts.head
    for module in (projector, head):
        module.requires_grad_(True)
    trained = {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad and "multi_modal_projector" not in name
    }
    trained |= {f"head.{name}": p for name, p in head.named_parameters()}
    slow = {f"projector.{name}": p for name, p in projector.named_parameters()}
    optimiser = torch.optim.AdamW(
        [{"params": list(trained.values())}, {"params": list(slow.values())}],
        lr=recipe.rate,
        weight_decay=recipe.weight_decay,
    )
    everything = trained | slow
    run = {"recipe": asdict(recipe), "samples": digest_of(samples)}
    facts: dict[str, Any] | None = load_state(out, everything, optimiser, run) if resume else None
    if facts is None:
        train_projector(parts, memory, samples, recipe)
        projector.requires_grad_(True)
        facts = {"step": 0, "curve": [], **run}
    weights = torch.from_numpy(sample_weights(samples)).float()
    labels = torch.tensor([s.label for s in samples])
    order = order_of(len(samples), recipe.label_epochs, recipe.seed)
    steps = len(order) // recipe.label_batch
    losses: list[float] = []
    head.train()
    for step in range(facts["step"], steps):
        rows = order[step * recipe.label_batch :][: recipe.label_batch]
        loss = _label_step(parts, memory, rows, labels, weights, recipe, step)
        for group, peak in zip(
            optimiser.param_groups, (recipe.rate, recipe.projector_rate_label), strict=True
        ):
            group["lr"] = rate_at(step, steps, peak)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(list(everything.values()), 1.0)
        optimiser.step()
        losses.append(float(loss))
        if (step + 1) % 20 == 0 or step + 1 == steps:
            facts["curve"].append({"step": step + 1, "loss": float(np.mean(losses[-20:]))})
            log.info("label step %d of %d, loss %.3f", step + 1, steps, facts["curve"][-1]["loss"])
        if (step + 1) % 40 == 0 or step + 1 == steps:
            facts["step"] = step + 1
            save_state(out, everything, optimiser, facts)
    head.eval()
    model.eval().requires_grad_(False)
    (out / "curve.json").write_text(json.dumps(facts["curve"]) + "\n", encoding="utf-8")
    curve: list[dict[str, float]] = facts["curve"]
    return curve


def _label_step(
    parts: CompactParts,
    memory: Memory,
    rows: np.ndarray,
    labels: torch.Tensor,
    weights: torch.Tensor,
    recipe: LabelRecipe,
    step: int,
) -> torch.Tensor:
    rng = np.random.default_rng((recipe.seed, 2, step))
    kept = np.sort(rng.permutation(layout.GRID**2)[: recipe.kept_tokens])
    prompts = [
        _thin(parts.tokens.look(random_hint(rng)), parts.tokens.image, recipe.kept_tokens) for _ in rows
    ]
    ids, _ = pad_prompts(prompts, parts.tokens)
    logits = label_logits(
        parts.model, parts.head, memory.batch(rows, kept), ids, None, cls_id=parts.tokens.cls
    )
    losses = nn.functional.cross_entropy(logits, labels[rows], reduction="none", label_smoothing=0.05)
    return (losses * weights[rows]).mean()


def _thin(prompt: list[int], image: int, kept: int) -> list[int]:
    """The prompt with only ``kept`` of its image tokens."""
    first = prompt.index(image)
    count = prompt.count(image)
    return prompt[: first + kept] + prompt[first + count :]


@torch.inference_mode()
def score(
    parts: CompactParts, cache: Path, samples: Sequence[Sample], batch: int = 16
) -> dict[tuple[str, str], list[float]]:
    """Label log-probabilities without hints: (variant, sha256) → three natural logarithms."""
    prompt = parts.tokens.look(())
    found: dict[tuple[str, str], list[float]] = {}
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        patches = Memory(part, cache).batch(range(len(part)))
        ids = torch.tensor([prompt] * len(part))
        logits = label_logits(parts.model, parts.head, patches, ids, None, cls_id=parts.tokens.cls)
        for sample, row in zip(part, torch.log_softmax(logits.float(), -1).tolist(), strict=True):
            found[sample.variant, sample.picture.sha256] = row
    return found


def write_scores(file: Path, scores: Mapping[tuple[str, str], Sequence[float]]) -> None:
    """One JSON object: ``variant/sha256`` → log-probabilities rounded to 5 digits."""
    flat = {f"{variant}/{sha}": [round(v, 5) for v in row] for (variant, sha), row in sorted(scores.items())}
    part = file.with_suffix(".part")
    part.write_text(json.dumps(flat) + "\n", encoding="utf-8")
    part.replace(file)
