"""Train the compact model's label path: projector, ``[CLS]``/``[SEG]`` rows, LoRA of the lower layers, label head.

The tower is frozen, so its patch features come from the cache that ``finetune prepare`` filled. Three stages:

1. *Projector*: mean-pooled projections feed a linear probe, which teaches the projector to put what tells labels
   apart into the language model's embedding space. No language model runs, so this is fast.
2. *Readings*: the head learns to read the experts' log-odds, on top of the state that ``[CLS]`` has beside a mean
   picture; as fast.
3. *Label*: picture and question run through the first ``CLS_LAYER`` decoder layers; the head on ``[CLS]`` is trained
   with the adapter. A random share of the image tokens is dropped in each step: fewer tokens, and a regulariser.

The experts' readings are those of experts that left the picture's family out, as they will be of new pictures; a share
of them is left out, so that the model can do without. Detector sentences in the prompt are drawn at random, and left
out half of the time, so that the head neither depends on them nor breaks with them. Sources of one label weigh alike
(by the root of their size), labels alike.
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
from vlmforensics.compact.forward import core_of, embed, label_logits, pad_prompts, state_at, trunk_states
from vlmforensics.errors import SettingsError
from vlmforensics.finetune.checkpoint import load_state, save_state
from vlmforensics.finetune.features import load_features
from vlmforensics.finetune.pictures import Picture
from vlmforensics.types import LABELS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelRecipe:
    """Hyper-parameters of the label path.

    Attributes:
        projector_epochs, reading_epochs, label_epochs: passes over the samples in each stage.
        projector_batch, reading_batch, label_batch: samples a step.
        projector_rate, reading_rate, rate: peak learning rates of the stages.
        silent: share of samples whose readings are left out.
        noise: deviation of what is added to readings in training, in units of ``layout.READING_SCALE``.
        kept_tokens: image tokens kept in each training step of stage 3, of 256.
        rank: of LoRA.
        weight_decay: of AdamW.
        seed: of everything.
    """

    projector_epochs: int = 2
    reading_epochs: int = 6
    label_epochs: float = 1.0
    projector_batch: int = 32
    reading_batch: int = 64
    label_batch: int = 8
    projector_rate: float = 1e-3
    reading_rate: float = 1e-3
    rate: float = 1e-4
    silent: float = 0.15
    noise: float = 0.3
    kept_tokens: int = 24
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
    """Patch features in memory, float16 (n, 256, 1536), read once; and readings, float32 (n, 2).

    Args:
        samples: whose.
        cache: of features.
        readings: float (n, 2), log-odds of each of ``whole.EXPERTS``; zeros by default.

    Raises:
        SettingsError: the cache lacks a sample's patches.
    """

    def __init__(self, samples: Sequence[Sample], cache: Path, readings: np.ndarray | None = None) -> None:
        shape = (len(samples), layout.READINGS)
        self.readings = np.zeros(shape, np.float32) if readings is None else readings.astype(np.float32)
        self.patches = np.empty(
            (len(samples), layout.GRID**2, len(layout.FEATURE_LAYERS) * layout.TOWER_WIDTH), np.float16
        )
        for i, sample in enumerate(samples):
            found = load_features(cache, sample.variant, sample.picture, ["patches"])
            if found is None:
                raise SettingsError(
                    f"{cache} lacks the patches of {sample.picture.path} in {sample.variant}: run `finetune prepare`"
                )
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


def heard(readings: torch.Tensor, recipe: LabelRecipe, rng: np.random.Generator) -> torch.Tensor:
    """Readings (B, 2) as one step hears them: with noise, and none of some samples'."""
    noise = rng.standard_normal(readings.shape) * recipe.noise * layout.READING_SCALE
    kept = (rng.random((len(readings), 1)) >= recipe.silent).astype(np.float32)
    return (readings + torch.from_numpy(noise).float()) * torch.from_numpy(kept)


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
        losses.append(_take_step(optimiser, logits, labels[rows], weights[rows]))
        if step % 50 == 0:
            log.info("projector step %d of %d, loss %.3f", step, steps, np.mean(losses[-50:]))
    projector.requires_grad_(False)
    return float(np.mean(losses[-max(1, steps // 10) :]))


def train_readings(
    parts: CompactParts, memory: Memory, samples: Sequence[Sample], recipe: LabelRecipe
) -> float:
    """Stage 2; returns the mean loss of the last tenth of the steps."""
    first = memory.batch(range(min(32, len(samples)))).mean(0, keepdim=True)
    ids = torch.tensor([parts.tokens.look(())])
    with torch.no_grad():
        states = trunk_states(parts.model, embed(parts.model, first, ids), None)
        alone = state_at(states, ids, parts.tokens.cls)
        # as loud as the state: it is added below the layers that make it
        torch.nn.init.normal_(parts.readings.weight, std=1.5 * float(alone.abs().median()))
    parameters = [*parts.readings.parameters(), *parts.head.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, lr=recipe.reading_rate, weight_decay=recipe.weight_decay)
    weights = torch.from_numpy(sample_weights(samples)).float()
    labels = torch.tensor([s.label for s in samples])
    order = order_of(len(samples), recipe.reading_epochs, recipe.seed + 2)
    steps = len(order) // recipe.reading_batch
    losses = []
    for step in range(steps):
        rows = order[step * recipe.reading_batch :][: recipe.reading_batch]
        rng = np.random.default_rng((recipe.seed, 3, step))
        optimiser.param_groups[0]["lr"] = rate_at(step, steps, recipe.reading_rate)
        said = heard(torch.from_numpy(memory.readings[rows]), recipe, rng)
        losses.append(
            _take_step(optimiser, parts.head(alone + parts.readings(said)), labels[rows], weights[rows])
        )
    log.info("readings: %d steps, loss %.3f", steps, np.mean(losses[-50:]))
    return float(np.mean(losses[-max(1, steps // 10) :]))


def _take_step(
    optimiser: torch.optim.Optimizer, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> float:
    """Lower the weighted loss by one step; returns it."""
    each = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.05)
    loss = (each * weights).mean()
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
    optimiser.step()
    return float(loss.detach())


def train_label(
    parts: CompactParts,
    memory: Memory,
    samples: Sequence[Sample],
    recipe: LabelRecipe,
    out: Path,
    *,
    resume: bool,
) -> list[dict[str, float]]:
    """All stages; checkpoints in ``out`` every 40 steps of stage 3; returns and writes the loss curve.

    Raises:
        SettingsError: with ``resume``, and the checkpoint in ``out`` is of another recipe or other samples.
    """
    torch.manual_seed(recipe.seed)
    core = core_of(parts.model)
    model = add_adapter(parts, adapter_config(parts.tokens, rank=recipe.rank, alpha=2 * recipe.rank))
    projector = core.model.multi_modal_projector
    head = parts.head
    own = {"projector": projector, "head": head, "readings": parts.readings}
    for module in own.values():
        module.requires_grad_(True)
    everything = {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad and "multi_modal_projector" not in name
    }
    for part, module in own.items():
        everything |= {f"{part}.{name}": p for name, p in module.named_parameters()}
    optimiser = torch.optim.AdamW(everything.values(), lr=recipe.rate, weight_decay=recipe.weight_decay)
    run = {"recipe": asdict(recipe), "samples": digest_of(samples)}
    facts: dict[str, Any] | None = load_state(out, everything, optimiser, run) if resume else None
    if facts is None:
        train_projector(parts, memory, samples, recipe)
        train_readings(parts, memory, samples, recipe)
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
        optimiser.param_groups[0]["lr"] = rate_at(step, steps, recipe.rate)
        logits = _label_step(parts, memory, rows, recipe, step)
        losses.append(_take_step(optimiser, logits, labels[rows], weights[rows]))
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
    recipe: LabelRecipe,
    step: int,
) -> torch.Tensor:
    """Logits (B, 3) of one training step."""
    rng = np.random.default_rng((recipe.seed, 2, step))
    kept = np.sort(rng.permutation(layout.GRID**2)[: recipe.kept_tokens])
    prompts = [
        thinned(parts.tokens.look(random_hint(rng)), parts.tokens.image, recipe.kept_tokens) for _ in rows
    ]
    ids, _ = pad_prompts(prompts, parts.tokens)
    said = heard(torch.from_numpy(memory.readings[rows]), recipe, rng)
    return label_logits(
        parts.model,
        parts.head,
        memory.batch(rows, kept),
        ids,
        cls_id=parts.tokens.cls,
        supplement=parts.readings(said),
    )


def thinned(prompt: list[int], image: int, kept: int) -> list[int]:
    """The prompt with only ``kept`` of its image tokens."""
    first = prompt.index(image)
    count = prompt.count(image)
    return prompt[: first + kept] + prompt[first + count :]


@torch.inference_mode()
def score(
    parts: CompactParts,
    cache: Path,
    samples: Sequence[Sample],
    readings: np.ndarray | None = None,
    batch: int = 16,
) -> dict[tuple[str, str], list[float]]:
    """Label log-probabilities without hints: (variant, sha256) → three natural logarithms.

    Args:
        parts: trained.
        cache: of features.
        samples: to be scored.
        readings: float (n, 2), see ``Memory``; none by default.
        batch: samples that go through the network together.
    """
    prompt = parts.tokens.look(())
    found: dict[tuple[str, str], list[float]] = {}
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        memory = Memory(part, cache, None if readings is None else readings[start : start + batch])
        logits = label_logits(
            parts.model,
            parts.head,
            memory.batch(range(len(part))),
            torch.tensor([prompt] * len(part)),
            cls_id=parts.tokens.cls,
            supplement=parts.readings(torch.from_numpy(memory.readings)),
        )
        for sample, row in zip(part, torch.log_softmax(logits.float(), -1).tolist(), strict=True):
            found[sample.variant, sample.picture.sha256] = row
    return found


def write_scores(file: Path, scores: Mapping[tuple[str, str], Sequence[float]]) -> None:
    """One JSON object: ``variant/sha256`` → log-probabilities rounded to 5 digits."""
    flat = {f"{variant}/{sha}": [round(v, 5) for v in row] for (variant, sha), row in sorted(scores.items())}
    part = file.with_suffix(".part")
    part.write_text(json.dumps(flat) + "\n", encoding="utf-8")
    part.replace(file)
