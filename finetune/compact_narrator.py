"""Train the compact model's narrator: LoRA of the layers above the label path, on texts that pass ``explain.verify``.

The base model is a small general one, which copies numbers and cites in some of its sentences. Here it learns from what
a good narrator could have written (``explain.narration.reference_texts``) of real examinations, after the very prompt
that it gets in use: picture, question, verdict, findings, forced first sentence. The loss is on what follows that
sentence. Layers below ``layout.CLS_LAYER`` stay as they are, and with them every label.

What the layers make of the picture and the question is taken as given in each step (no gradient): they are most of the
prompt, and what is to be learned follows them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from vlmforensics.assistant import Assistant
from vlmforensics.compact import layout
from vlmforensics.compact.assembly import CompactParts, adapter_config
from vlmforensics.compact.forward import core_of, embed
from vlmforensics.compact.shipped import ADAPTER, load_parts, merge
from vlmforensics.errors import Defect, InputError, SettingsError
from vlmforensics.explain.narration import instruction, prefix, reference_texts
from vlmforensics.explain.stream import NARRATED, narrated
from vlmforensics.explain.wording import wording
from vlmforensics.finetune.checkpoint import (
    claim_cache,
    load_state,
    save_state,
    tensors_digest,
    write_arrays,
)
from vlmforensics.finetune.compact_label import order_of, rate_at, thinned
from vlmforensics.finetune.features import prepare
from vlmforensics.finetune.pictures import Picture, rng_for
from vlmforensics.finetune.train_prompts import IGNORED
from vlmforensics.report.files import write_atomically
from vlmforensics.settings import Settings
from vlmforensics.types import LABELS, Report
from vlmforensics.vlm.adapters import TENSORS, read_tensors
from vlmforensics.vlm.quiet import quiet_peft

log = logging.getLogger(__name__)

SAVE_EVERY = 20
"""Optimiser steps between checkpoints."""


@dataclass(frozen=True)
class NarratorRecipe:
    """Hyper-parameters.

    Attributes:
        replies: reference texts made of each examination.
        epochs: passes over the examinations.
        texts: of an examination in a step, which is one of it.
        rate: peak learning rate.
        kept_tokens: image tokens kept in a step, of 256; a narrator that never saw all of them fails on all of them.
        rank: of LoRA; that of the label path, as both are one adapter.
        weight_decay: of AdamW.
        seed: of texts, order and weights.
    """

    replies: int = 8
    epochs: float = 1.5
    texts: int = 4
    rate: float = 5e-4
    kept_tokens: int = layout.GRID**2
    rank: int = 8
    weight_decay: float = 0.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Lesson:
    """One examination to tell of.

    Attributes:
        patches: float16 (256, 1536) of the tower.
        told: log-odds of the experts.
        hints: detector sentences of the question.
        instruction: of the narration.
        replies: pairs of a forced first sentence and what may follow it.
    """

    patches: NDArray[np.float16]
    told: tuple[float, ...]
    hints: tuple[str, ...]
    instruction: str
    replies: tuple[tuple[str, str], ...]


def drawn(pictures: Sequence[Picture], count: int) -> list[Picture]:
    """``count`` pictures: labels alike as far as they reach, then sources in turn, by hash."""
    queues = []
    for label in LABELS:
        by_source: dict[str, list[Picture]] = {}
        for picture in sorted((p for p in pictures if p.label == label), key=lambda p: p.sha256):
            by_source.setdefault(picture.source, []).append(picture)
        queues.append([p for p in chain(*zip_longest(*by_source.values())) if p is not None])
    return [p for p in chain(*zip_longest(*queues)) if p is not None][:count]


def variant_of(picture: Picture, seed: int) -> str:
    """The form in which a picture is examined: as found, through the random chain, or forged from a real one."""
    forms = ("raw", "raw", "augmented-1", "made-1" if picture.label == "real" else "augmented-1")
    return forms[int(rng_for(picture, "narrator", seed).integers(len(forms)))]


def fill(
    folder: Path,
    assistant: Assistant,
    pictures: Sequence[Picture],
    donors: dict[str, list[Picture]],
    recipe: NarratorRecipe,
) -> Iterator[str]:
    """Examine pictures and write their lessons, one file each, atomically; yields a progress line now and then.

    Raises:
        SettingsError: the folder was begun with another calibration or another recipe.
    """
    # the narrator's own weights don't matter here, so that it can go on with the lessons that it began with
    weighed = assistant.model.calibration_sha256
    made = {"replies": recipe.replies, "seed": recipe.seed, "calibration": weighed}
    claim_cache(folder, made, filled=any(folder.glob("*.npz")))
    for count, picture in enumerate(pictures, start=1):
        path = folder / f"{picture.sha256}.npz"
        if not path.exists():
            try:
                data = prepare(
                    picture, variant_of(picture, recipe.seed), donors[picture.sha256], assistant.settings
                )
                report = assistant.examine(data, file=picture.path.name, for_text=False)
            except InputError as error:
                yield f"left out {error}"
                continue
            lesson = lesson_of(assistant, report, recipe)
            text = {"hints": lesson.hints, "instruction": lesson.instruction, "replies": lesson.replies}
            arrays = {"told": np.array(lesson.told), "text": np.array(json.dumps(text))}
            write_arrays(path, patches=lesson.patches, **arrays)
        if count % 20 == 0 or count == len(pictures):
            yield f"{count} of {len(pictures)} examined"


def lesson_of(assistant: Assistant, report: Report, recipe: NarratorRecipe) -> Lesson:
    """What is to be learned from one report with its look."""
    if report.look is None:
        raise Defect("a lesson needs the look of the compact model")
    replies = []
    for number in range(recipe.replies):
        rng = random.Random(f"{report.case.sha256}/{recipe.seed}/{number}")  # noqa: S311 - no secret
        text = reference_texts(report, rng)
        if text:
            replies.append((wording(report, salt=f"/{number}" if number else "").summary().text, text))
    patches = [report.look.patches[layer] for layer in layout.FEATURE_LAYERS]
    flat = np.concatenate([p.reshape(layout.GRID**2, -1) for p in patches], axis=-1)
    told = assistant.backbone.parts.experts.believed(report.case.upright)  # type: ignore[attr-defined]
    return Lesson(
        flat.astype(np.float16), tuple(told), assistant.hints(report), instruction(report), tuple(replies)
    )


def read(folder: Path, pictures: Sequence[Picture]) -> list[Lesson]:
    """The lessons of those pictures that could be examined and that say anything."""
    lessons = []
    for picture in pictures:
        path = folder / f"{picture.sha256}.npz"
        if not path.exists():
            continue
        with np.load(path, allow_pickle=False) as stored:
            text = json.loads(str(stored["text"]))
            lesson = Lesson(
                stored["patches"],
                tuple(stored["told"].tolist()),
                tuple(text["hints"]),
                text["instruction"],
                tuple((first, rest) for first, rest in text["replies"]),
            )
        if lesson.replies:
            lessons.append(lesson)
    if not lessons:
        raise SettingsError(f"{folder} holds no lessons of these pictures")
    return lessons


def digest_of(lessons: Sequence[Lesson]) -> str:
    """SHA-256 over what is learned, in its order."""
    texts = [(lesson.hints, lesson.instruction, lesson.replies) for lesson in lessons]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def narrator_layers(parts: CompactParts) -> range:
    """The decoder layers that the label path does not run through."""
    return range(layout.CLS_LAYER, core_of(parts.model).config.text_config.num_hidden_layers)


def loss_of(
    parts: CompactParts, lesson: Lesson, first: str, replies: Sequence[str], kept: NDArray[np.int64]
) -> torch.Tensor:
    """Mean cross-entropy of the tokens of several replies to one prompt, their ends included.

    Args:
        parts: the model in training.
        lesson: the examination.
        first: the forced first sentence.
        replies: what may follow it.
        kept: image tokens that are shown, ascending.
    """
    from transformers import DynamicCache

    tokens, core = parts.tokens, core_of(parts.model)
    language = core.model.language_model
    look = thinned(tokens.look(lesson.hints), tokens.image, len(kept))
    cache = DynamicCache(config=language.config)
    with torch.no_grad():
        patches = torch.from_numpy(lesson.patches[kept])[None].float()
        added = parts.readings(torch.tensor([lesson.told]))
        seen = embed(parts.model, patches, torch.tensor([look]), (tokens.cls, added))
        language(inputs_embeds=seen, past_key_values=cache, use_cache=True)

    def states(ids: list[list[int]]) -> torch.Tensor:
        embeddings = core.get_input_embeddings()(torch.tensor(ids))
        found = language(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
        last: torch.Tensor = found.last_hidden_state
        return last

    asked = states([tokens.instruct(lesson.instruction, first)])[:, -1:]
    said = [[*tokens.text(" " + reply), tokens.turn_end] for reply in replies]
    longest = max(map(len, said))
    # Padding stands on the right, where a causal model can't see it.
    padded = [ids + [tokens.pad] * (longest - len(ids)) for ids in said]
    wanted = torch.tensor([ids + [IGNORED] * (longest - len(ids)) for ids in said])
    cache.batch_repeat_interleave(len(said))
    before = torch.cat([asked.expand(len(said), -1, -1), states(padded)[:, :-1]], dim=1)
    logits = core.lm_head(before[wanted != IGNORED])
    return F.cross_entropy(logits.float(), wanted[wanted != IGNORED])


def train(
    parts: CompactParts,
    lessons: Sequence[Lesson],
    recipe: NarratorRecipe,
    out: Path,
    *,
    resume: bool,
    start: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Train (or go on training) the narrator's adapter on the merged model; returns its tensors as peft names them.

    Args:
        parts: without a narrator, see :func:`untaught`; wrapped in place.
        lessons: what to learn.
        recipe: how.
        out: checkpoints, every ``SAVE_EVERY`` steps, and ``curve.json``.
        resume: go on from the checkpoint in ``out``, to the same weights.
        start: tensors of a narrator to begin with; without effect at first by default.

    Raises:
        SettingsError: the checkpoint is of another recipe or other lessons.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    torch.manual_seed(recipe.seed)
    config = adapter_config(
        parts.tokens, rank=recipe.rank, alpha=2 * recipe.rank, layers=(), narrator=narrator_layers(parts)
    )
    with quiet_peft():
        parts.model = get_peft_model(core_of(parts.model), config)
        if start:
            set_peft_model_state_dict(parts.model, dict(start))
    parameters = {name: p for name, p in parts.model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(parameters.values(), lr=recipe.rate, weight_decay=recipe.weight_decay)
    run = {"recipe": asdict(recipe), "lessons": digest_of(lessons), "start": tensors_digest(start or {})}
    state = load_state(out, parameters, optimiser, run) if resume else None
    facts: dict[str, Any] = state or {"step": 0, "curve": [], **run}
    order = order_of(len(lessons), recipe.epochs, recipe.seed)
    parts.model.train()
    losses: list[float] = []
    for step in range(facts["step"], len(order)):
        optimiser.param_groups[0]["lr"] = rate_at(step, len(order), recipe.rate)
        rng = np.random.default_rng((recipe.seed, 4, step))
        lesson = lessons[order[step]]
        chosen = [lesson.replies[int(i)] for i in rng.permutation(len(lesson.replies))[: recipe.texts]]
        kept = np.sort(rng.permutation(layout.GRID**2)[: recipe.kept_tokens])
        loss = loss_of(parts, lesson, chosen[0][0], [rest for _, rest in chosen], kept)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == len(order):
            facts["curve"].append({"step": step + 1, "loss": float(np.mean(losses[-SAVE_EVERY:]))})
            facts["step"] = step + 1
            save_state(out, parameters, optimiser, facts)
            log.info("narrator step %d of %d, loss %.3f", step + 1, len(order), facts["curve"][-1]["loss"])
    parts.model.eval().requires_grad_(False)
    (out / "curve.json").write_text(json.dumps(facts["curve"]) + "\n", encoding="utf-8")
    return dict(get_peft_model_state_dict(parts.model, save_embedding_layers=False))


def shipped_narrator(data: Path) -> dict[str, torch.Tensor]:
    """The narrator's tensors in a folder of shipped weights; empty where it was never taught."""
    return {k: v.float() for k, v in read_tensors(data / ADAPTER / TENSORS).items() if is_narrators(k)}


def with_narrator(data: Path, narrator: Mapping[str, torch.Tensor], settings: Settings) -> CompactParts:
    """The model of a folder of shipped weights with another narrator, one adapter in all; without tensors, with none.

    Raises:
        Defect: the tensors are not those of a narrator.
    """
    from peft import get_peft_model, set_peft_model_state_dict

    parts = load_parts(settings, data, folded=False)
    label = {k: v for k, v in read_tensors(data / ADAPTER / TENSORS).items() if not is_narrators(k)}
    own = parts.model.peft_config["default"]
    layers = narrator_layers(parts) if narrator else ()
    config = adapter_config(parts.tokens, rank=own.r, alpha=own.lora_alpha, narrator=layers)
    with quiet_peft():
        parts.model = get_peft_model(parts.model.unload(), config)
        found: Any = set_peft_model_state_dict(parts.model, label | dict(narrator))
    if found.unexpected_keys or not all(map(is_narrators, narrator)):
        raise Defect(f"no tensors of a narrator: {[*found.unexpected_keys, *narrator][:3]}")
    parts.model.eval().requires_grad_(False)
    return parts


def untaught(data: Path, settings: Settings) -> CompactParts:
    """The model of a folder of shipped weights without its narrator, the label path's adapter folded in."""
    parts = with_narrator(data, {}, settings)
    merge(parts)
    return parts


def is_narrators(key: str) -> bool:
    """Whether a tensor of an adapter belongs to a layer above the label path."""
    _, found, rest = key.partition(".layers.")
    return bool(found) and int(rest.split(".")[0]) >= layout.CLS_LAYER


@dataclass
class Told:
    """What came of narrations before any sentence was replaced.

    Attributes:
        pictures: examined.
        sentences, passed: generated ones, and those that passed ``verify``.
        texts: distinct texts.
        problems: why others did not pass, by the first words of the reason.
    """

    pictures: int
    sentences: int
    passed: int
    texts: int
    problems: dict[str, int]


def validate(assistant: Assistant, pictures: Sequence[Picture], out: Path) -> Told:
    """Let the assistant tell of pictures as they were found, and count the sentences that pass.

    Args:
        assistant: whose backbone narrates.
        pictures: none that it learned from.
        out: folder for ``sentences.jsonl`` (every generated sentence with its problem) and ``check.json``.
    """
    problems: Counter[str] = Counter()
    texts, lines, seen = set(), [], 0
    for picture in pictures:
        try:
            report = assistant.examine(picture.path)
        except InputError as error:
            log.warning("left out: %s", error)
            continue
        seen += 1
        checks = list(
            narrated(
                report,
                assistant.backbone,
                report.look,
                instruction(report),
                prefix(report),
                max_new_tokens=assistant.settings.max_new_tokens,
                stop=None,
                most=NARRATED,
            )
        )
        texts.add(" ".join(check.text for check in checks))
        lines += [{"picture": picture.sha256, "text": c.text, "problem": c.problem} for c in checks]
        problems.update(check.problem.partition(" (")[0] for check in checks)
        log.info("%d of %d told", seen, len(pictures))
    passed = problems.pop("", 0)
    told = Told(seen, passed + problems.total(), passed, len(texts), dict(problems.most_common()))
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "sentences.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_atomically(out / "check.json", json.dumps(asdict(told), indent=1) + "\n")
    return told
