"""Recipes: everything that decides a fine-tuning run besides the data, as a checked TOML file.

Shipped ones lie in ``finetune/recipes`` and are named by their file name; a path to a TOML file works as well, and
single values can be replaced (``optimiser.rate=1e-4``). Unknown keys are errors.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vlmforensics.errors import SettingsError
from vlmforensics.vlm.profiles import PROFILES

FOLDER = Path(__file__).parent / "recipes"
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prompt(_Part):
    """How a sample is worded.

    Attributes:
        profile: prompt profile (``vlm.profiles.PROFILES``) that the trained model will be asked with.
        question: ``sample`` asks what the sample says, ``profile`` the profile's own question.
        verdict_first: begin an answer that doesn't with the profile's verdict sentence, whose label word is scored.
        hint_dropout: probability with which each detector sentence is left out, anew in each epoch.
        max_length: tokens, the picture's included; a longer answer is cut, a longer prompt is an error.
    """

    profile: str = "explained"
    question: Literal["sample", "profile"] = "sample"
    verdict_first: bool = True
    hint_dropout: Share = 0.5
    max_length: Annotated[int, Field(ge=16)] = 1024

    @model_validator(mode="after")
    def _known(self) -> Prompt:
        if self.profile not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, not {self.profile!r}")
        return self


class Learn(_Part):
    """What is trained.

    Attributes:
        language: ``lora``, ``full`` or ``frozen``.
        projector: train the projector wholly.
        tower: train the vision tower wholly; otherwise it is frozen and its features are computed once.
        rank, alpha, dropout: of LoRA.
        modules: projections of the language model that get LoRA.
    """

    language: Literal["lora", "full", "frozen"] = "lora"
    projector: bool = True
    tower: bool = False
    rank: Count = 16
    alpha: Count = 32
    dropout: Share = 0.0
    modules: tuple[Projection, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    @model_validator(mode="after")
    def _something(self) -> Learn:
        if self.language == "frozen" and not (self.projector or self.tower):
            raise ValueError("nothing would learn: language is frozen, projector and tower are false")
        if self.language == "lora" and not self.modules:
            raise ValueError("LoRA needs modules, e.g. ['q_proj', 'v_proj']")
        return self


class Heads(_Part):
    """Heads on ``[CLS]`` and ``[SEG]``, which stand at the end of the user's turn.

    Attributes:
        label: a label head on ``[CLS]``.
        mask: Segment Anything's decoder prompted by ``[SEG]``.
        layer: language-model layer whose output the heads read; -1 = the last.
    """

    label: bool = False
    mask: bool = False
    layer: Annotated[int, Field(ge=-1)] = -1

    @model_validator(mode="after")
    def _ordered(self) -> Heads:
        if self.mask and not self.label:
            raise ValueError("the mask prompt is conditioned on the label head: mask needs label")
        if self.layer == 0:
            raise ValueError("layer 0 is the embedding, where [CLS] has seen nothing; use 1 or more, or -1")
        return self


class Loss(_Part):
    """Weights of the losses: cross-entropy of answer tokens, of labels, and BCE + Dice of masks."""

    language: Weight = 1.0
    label: Weight = 0.0
    mask: Weight = 0.0

    @model_validator(mode="after")
    def _some(self) -> Loss:
        if not (self.language or self.label or self.mask):
            raise ValueError("all loss weights are zero")
        return self


class Optimiser(_Part):
    """AdamW with linear warm-up and a cosine or linear fall.

    Attributes:
        name: transformers' ``optim``: ``adamw_torch``, ``paged_adamw_8bit`` (bitsandbytes) …
        rate: peak learning rate of LoRA or the language model.
        projector_rate, tower_rate, heads_rate: of those parts; ``rate`` where not given.
        epochs: passes over as many samples as the data holds.
        steps: stop after this many steps instead of ``epochs``; 0 = by epochs.
        batch: samples per device and step.
        accumulate: batches per optimiser step.
        warm_up: share of the steps.
    """

    name: str = "adamw_torch"
    rate: Rate
    projector_rate: Rate | None = None
    tower_rate: Rate | None = None
    heads_rate: Rate | None = None
    decay: Share = 0.0
    betas: tuple[Share, Share] = (0.9, 0.999)
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warm_up: Share = 0.03
    clip: Weight = 1.0
    epochs: Annotated[float, Field(gt=0)] = 1.0
    steps: Annotated[int, Field(ge=0)] = 0
    batch: Count = 2
    accumulate: Count = 1


class Memory(_Part):
    """What saves memory.

    Attributes:
        quantisation: ``nf4`` needs CUDA; ``auto`` is nf4 on CUDA where the base in 16 bits leaves too little room.
        gradient_checkpointing: recompute activations in the backward pass.
    """

    quantisation: Literal["auto", "nf4", "none"] = "none"
    gradient_checkpointing: bool = False


class Sampling(_Part):
    """Which samples are drawn, and how they are put together.

    Attributes:
        balance: ``label-and-source``: labels alike, sources of a label by the root of their size; ``none``: as found.
        bucket: batches a window that is sorted by length before it is cut into batches; 1 = no sorting.
    """

    balance: Literal["label-and-source", "none"] = "label-and-source"
    bucket: Count = 32


class Saving(_Part):
    """Steps between checkpoints and between lines of the log, and how many checkpoints are kept (at least 2)."""

    every: Count = 200
    log_every: Count = 10
    keep: Annotated[int, Field(ge=2)] = 2


class Recipe(_Part):
    """A whole recipe; see its parts.

    Attributes:
        name: of the recipe.
        about: one line for people.
        base: backbone name (``vlm.BACKBONES``) or checkpoint folder.
        seed: of everything drawn.
    """

    name: str
    about: str = ""
    base: str
    seed: Annotated[int, Field(ge=0)] = 0
    prompt: Prompt = Prompt()
    learn: Learn = Learn()
    heads: Heads = Heads()
    loss: Loss = Loss()
    optimiser: Optimiser
    memory: Memory = Memory()
    sampling: Sampling = Sampling()
    saving: Saving = Saving()

    @model_validator(mode="after")
    def _fitting(self) -> Recipe:
        for part in ("label", "mask"):
            if bool(getattr(self.loss, part)) != bool(getattr(self.heads, part)):
                raise ValueError(f"heads.{part} and loss.{part} must be given together, or neither")
        if self.learn.language == "full" and self.memory.quantisation != "none":
            raise ValueError(
                "a quantised language model can't be trained in full; use LoRA or quantisation none"
            )
        return self


def shipped() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name: str, changes: Sequence[str] = ()) -> Recipe:
    """A shipped recipe by name, or a TOML file by path.

    Args:
        name: e.g. ``sida-7b`` or ``mine.toml``.
        changes: ``KEY=VALUE`` with a dotted key and a TOML value, e.g. ``optimiser.rate=1e-4``; a value that is no
            TOML is taken as text.

    Raises:
        SettingsError: no such recipe, not TOML, or a key or value that doesn't fit; names it.
    """
    path = FOLDER / f"{name}.toml" if name in shipped() else Path(name).expanduser()
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"no recipe {name!r}: use {', '.join(shipped())} or the path of a TOML file"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    for change in changes:
        _apply(values, change)
    return recipe_of(values, str(path))


def recipe_of(values: dict[str, Any], where: str) -> Recipe:
    """Check plain values.

    Raises:
        SettingsError: names ``where``, the key and the fault.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the recipe"
        raise SettingsError(f"{where}: {key}: {first['msg']}") from error


def _apply(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise SettingsError(f"{change!r} is not KEY=VALUE, e.g. optimiser.rate=1e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    place = values
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise SettingsError(f"{change!r}: {parent} is a value, not a table")
    place[last] = value
