"""Build what a recipe trains: base model, adapter, heads, wording, and how a picture becomes pixel values."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmforensics import weights
from vlmforensics.compact.assembly import CompactParts, adapter_config, add_adapter, build_base
from vlmforensics.compact.forward import core_of
from vlmforensics.compact.heads import LabelHead
from vlmforensics.compact.tower import normalise, squash
from vlmforensics.errors import ModelError, SettingsError, WeightsCorrupt, WeightsUnavailable
from vlmforensics.finetune.recipe import Recipe
from vlmforensics.finetune.student import Student, tower_features
from vlmforensics.finetune.train_prompts import CLS, SEG, CompactTurns, LlavaTurns, Turns
from vlmforensics.imaging import resize
from vlmforensics.masks.network import MaskNetwork, NetworkConfig
from vlmforensics.settings import Settings
from vlmforensics.types import Pixels
from vlmforensics.vlm.devices import pick_device, use_threads
from vlmforensics.vlm.heads import extend_vocabulary
from vlmforensics.vlm.loader import BACKBONES, hub_folder
from vlmforensics.vlm.memory import GIB, free_bytes, leave_odd_layers_unpacked, parameter_count, plan
from vlmforensics.vlm.profiles import PROFILES
from vlmforensics.vlm.quiet import quiet_peft, quiet_transformers

log = logging.getLogger(__name__)
PLAIN = (r".*multi_modal_projector", r".*vision_tower", "lm_head")
"""Patterns of modules that stay in 16 bits under nf4: a quantised projector cannot learn, and the rest is small."""

MARGIN = 1.1
"""Fragmentation of the allocator."""
BESIDE = 4 * GIB
"""What LoRA, its optimiser, and activations of a small batch take beside the base; see ``train_memory``."""


@dataclass(eq=False)
class Built:
    """What a run needs.

    Attributes:
        student: the model in training.
        turns: words a sample.
        pixel_values: upright uint8 (H, W, 3) → float (3, S, S) for the tower.
        base: what an adapter names as its base.
        base_sha256: digest of the base's files.
        processor: of the base, with the marks; None for the compact model.
        compact: the compact model's parts, or None.
        dtype: of the base weights.
        four_bit: they are quantised.
    """

    student: Student
    turns: Turns
    pixel_values: Callable[[Pixels], Tensor]
    base: str
    base_sha256: str
    processor: Any
    compact: CompactParts | None
    dtype: torch.dtype
    four_bit: bool

    @property
    def core(self) -> Any:
        """The LLaVA itself, without peft's wrapper."""
        return core_of(self.student.llava)


def build(recipe: Recipe, settings: Settings, *, samples: int = 1) -> Built:
    """Load the base of a recipe and put its trainable parts on.

    Args:
        recipe: which.
        settings: device, threads, cache, offline.
        samples: of one optimiser step over all processes.

    Raises:
        WeightsUnavailable, WeightsCorrupt: the base isn't there or is broken.
        ModelError: it doesn't fit, or the recipe needs CUDA.
        SettingsError: the recipe doesn't fit the base.
    """
    torch.manual_seed(recipe.seed)
    if BACKBONES.get(recipe.base) is not None and BACKBONES[recipe.base].kind == "embedded":
        return _compact(recipe, settings, samples)
    return _llava(recipe, settings, samples)


def base_folder(name: str, settings: Settings) -> tuple[Path, str]:
    """Folder of a LLaVA-family base, and what an adapter calls it.

    Raises:
        WeightsUnavailable: no such name or folder.
    """
    entry = BACKBONES.get(name) or next((e for e in BACKBONES.values() if e.target == name), None)
    if entry is not None and entry.kind == "hub":
        return hub_folder(name, entry, settings), entry.target
    folder = Path(name).expanduser().resolve()
    if not (folder / "config.json").is_file():
        raise WeightsUnavailable(f"no base model {name!r}: use {', '.join(BACKBONES)} or a checkpoint folder")
    return folder, str(folder)


def loading(recipe: Recipe, folder: Path, device: torch.device, *, anywhere: bool = False) -> dict[str, Any]:
    """Keyword arguments for ``from_pretrained``: number format and quantisation.

    Args:
        recipe: its ``memory.quantisation`` and ``learn.language`` decide.
        folder: the base.
        device: where it will be.
        anywhere: nf4 without CUDA, as far as bitsandbytes goes there (slow; for tests).

    Raises:
        ModelError: nf4 without CUDA or bitsandbytes, or too little memory.
    """
    wanted = recipe.memory.quantisation
    if wanted == "nf4" and device.type != "cuda" and not anywhere:
        raise ModelError(
            f"the recipe {recipe.name} asks for nf4, which trains on a CUDA GPU; here is a {device.type}: use "
            "memory.quantisation=none with a base that fits in 32 bits, or --recipe compact-cpu"
        )
    if device.type != "cuda" and wanted != "nf4":
        return plan(parameter_count(folder), device, free_bytes(device)).arguments(device)
    half = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    dtype = half if device.type == "cuda" else torch.float32
    if wanted == "auto" and fits_whole(parameter_count(folder), free_bytes(device)):
        wanted = "none"
    if wanted == "none":
        # What learns in full is kept in 32 bits; autocast does the arithmetic in 16.
        full = recipe.learn.language == "full"
        return {"dtype": torch.float32 if full else dtype}
    try:
        import bitsandbytes  # noqa: F401 - only whether it is there
        from transformers import BitsAndBytesConfig
    except ImportError as error:
        raise ModelError(
            'nf4 needs bitsandbytes: pip install "vlmforensics[train]"', code="extra.train"
        ) from error
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(PLAIN),
    )
    return {"dtype": dtype, "quantization_config": config, "device_map": {"": str(device)}}


def fits_whole(parameters: int, free: int | None) -> bool:
    """Whether a base in 16 bits leaves room for training on it; if not, ``auto`` means nf4."""
    return free is None or parameters * 2 * MARGIN + BESIDE <= free


def load_base(folder: Path, arguments: dict[str, Any]) -> tuple[Any, Any]:
    """A LLaVA checkpoint and its processor; every tensor must be there.

    Raises:
        WeightsCorrupt: it is no such checkpoint, or tensors are missing.
    """
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        with quiet_transformers():
            loaded: Any = LlavaForConditionalGeneration.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **arguments
            )
    except (OSError, ValueError, KeyError) as error:
        raise WeightsCorrupt(f"{folder} is no LLaVA checkpoint that can be loaded: {error}") from error
    model, report = loaded
    odd = sorted(
        str(key) for kind in ("missing_keys", "mismatched_keys", "error_msgs") for key in report[kind]
    )
    if odd:
        raise WeightsCorrupt(
            f"{folder} lacks tensors or has others: {', '.join(odd[:3])}; they would be random"
        )
    return model, processor


def _llava(recipe: Recipe, settings: Settings, samples: int) -> Built:
    device = pick_device(settings)
    use_threads(settings)
    folder, base = base_folder(recipe.base, settings)
    arguments = loading(recipe, folder, device)
    model, processor = load_base(folder, arguments)
    four_bit = "quantization_config" in arguments
    model.requires_grad_(False)
    if four_bit:
        leave_odd_layers_unpacked(model)
    else:
        model.to(device)
    image = str(processor.tokenizer.convert_ids_to_tokens(model.config.image_token_id))
    marks: tuple[int, ...] = ()
    if recipe.heads.label:
        marks = extend_vocabulary(model, processor.tokenizer, (CLS, SEG))
    profile = PROFILES[recipe.prompt.profile]
    pixel_values = pixels_for(processor, model.config, whole=profile.whole)
    student = _student(recipe, model, marks, samples)
    with torch.inference_mode():
        tried = pixel_values(_grey())[None].to(device, next(model.model.vision_tower.parameters()).dtype)
        places = tower_features(model, tried).shape[1]
    turns = LlavaTurns(processor, profile, image, places, CLS + SEG if marks else "")
    return Built(
        student=student.to(device) if not four_bit else student,
        turns=turns,
        pixel_values=pixel_values,
        base=base,
        base_sha256=weights.folder_digest(folder, settings),
        processor=processor,
        compact=None,
        dtype=arguments["dtype"],
        four_bit=four_bit,
    )


def _compact(recipe: Recipe, settings: Settings, samples: int) -> Built:
    if not recipe.heads.label or recipe.learn.language == "full" or recipe.learn.tower or recipe.heads.mask:
        raise SettingsError(
            "the compact model trains LoRA, projector and label head (heads.label = true); its tower stays, and its "
            "mask head has a trainer of its own (python -m vlmforensics.finetune.masks)"
        )
    from vlmforensics.compact import layout

    if recipe.heads.layer != layout.CLS_LAYER:
        raise SettingsError(f"the compact model's head reads layer {layout.CLS_LAYER}: set heads.layer to it")
    parts = build_base(settings, seed=recipe.seed)
    learn = recipe.learn
    if learn.language == "lora":
        config = adapter_config(
            parts.tokens,
            rank=learn.rank,
            alpha=learn.alpha,
            dropout=learn.dropout,
            layers=range(core_of(parts.model).config.text_config.num_hidden_layers),
            projections=learn.modules,
        )
        add_adapter(parts, config)
    core_of(parts.model).model.multi_modal_projector.requires_grad_(learn.projector)
    parts.head.requires_grad_(True)
    if recipe.memory.gradient_checkpointing:
        checkpoint_gradients(core_of(parts.model))
    student = Student(
        parts.model,
        recipe.loss,
        head=parts.head,
        marks=(parts.tokens.cls, parts.tokens.seg),
        layer=recipe.heads.layer,
        samples=samples,
    )
    return Built(
        student=student,
        turns=CompactTurns(parts.tokens),
        pixel_values=lambda pixels: normalise([squash(pixels)], torch.device("cpu"))[0],
        base=f"compact-{parts.base_digest[:16]}",
        base_sha256=parts.base_digest,
        processor=None,
        compact=parts,
        dtype=torch.float32,
        four_bit=False,
    )


def pixels_for(processor: Any, config: Any, *, whole: bool) -> Callable[[Pixels], Tensor]:
    """How a picture becomes pixel values: squashed to the tower's square (``whole``), or as the processor has it."""
    side = getattr(config.vision_config, "image_size", None)

    def prepare(pixels: Pixels) -> Tensor:
        if whole and isinstance(side, int):
            pixels = resize(pixels, side, side, resample="bicubic")
        values: Tensor = processor.image_processor(images=[pixels], return_tensors="pt")["pixel_values"][0]
        return values

    return prepare


def lora_config(recipe: Recipe, marks: tuple[int, ...]) -> Any:
    """Configuration of peft: LoRA in the language model alone, the projector whole, the marks' rows."""
    with quiet_peft():
        from peft import LoraConfig

    learn = recipe.learn
    return LoraConfig(
        r=learn.rank,
        lora_alpha=learn.alpha,
        lora_dropout=learn.dropout,
        bias="none",
        # A full match: the bare suffix would also hit the vision tower's projections.
        target_modules=rf".*language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(learn.modules)})",
        modules_to_save=["multi_modal_projector"] if learn.projector else None,
        trainable_token_indices={"embed_tokens": list(marks)} if marks else None,
    )


def checkpoint_gradients(core: Any) -> None:
    """Recompute activations in the backward pass; not re-entrant, so that DDP and frozen inputs work."""
    core.activation_checkpointing_enable({"use_reentrant": False})


def _student(recipe: Recipe, model: Any, marks: tuple[int, ...], samples: int) -> Student:
    learn, text = recipe.learn, model.config.get_text_config()
    if recipe.heads.layer > text.num_hidden_layers:
        raise SettingsError(
            f"heads.layer is {recipe.heads.layer}, and the language model of {recipe.base} has "
            f"{text.num_hidden_layers} layers"
        )
    if recipe.memory.gradient_checkpointing:
        checkpoint_gradients(model)
    llava = model
    if learn.language == "lora":
        with quiet_peft():
            from peft import get_peft_model

            llava = get_peft_model(model, lora_config(recipe, marks))
    else:
        model.model.language_model.requires_grad_(learn.language == "full")
        model.lm_head.requires_grad_(learn.language == "full")
        model.model.multi_modal_projector.requires_grad_(learn.projector)
    model.model.vision_tower.requires_grad_(learn.tower)
    student = Student(
        llava,
        recipe.loss,
        head=LabelHead(text.hidden_size) if recipe.heads.label else None,
        masks=mask_network(text.hidden_size) if recipe.heads.mask else None,
        marks=(marks[0], marks[1]) if marks else None,
        layer=recipe.heads.layer,
        frozen_tower=not learn.tower,
        samples=samples,
    )
    for (
        parameter
    ) in student.trained().values():  # small steps vanish in 16 bits; autocast does the arithmetic
        parameter.data = parameter.data.float()
    return student


def mask_network(width: int) -> MaskNetwork:
    """The shipped mask network with a fresh ``[SEG]`` prompt of ``width``; decoder and prompt learn, the rest stays.

    Its encoder reads the pixels alone: it was trained with the tower's features withheld for a share of the samples.
    The locator, which reads another tower, is left out.
    """
    from vlmforensics.masks import MaskHead

    shipped = MaskHead.load().network
    config = NetworkConfig(shipped.config.encoder, shipped.config.decoder, width)
    network = MaskNetwork(config)
    wanted = network.state_dict()
    kept = {
        name: value
        for name, value in shipped.state_dict().items()
        if name in wanted and not name.startswith("seg.")
    }
    fresh = {f"seg.{name}": value for name, value in network.seg.state_dict().items()}
    network.load_state_dict({**kept, **fresh}, strict=True)
    with torch.no_grad():
        network.seg.default.copy_(shipped.seg.default)  # the decoder was trained with it
    network.requires_grad_(False)
    network.seg.requires_grad_(True)
    network.decoder.decoder.requires_grad_(True)
    network.refinement.requires_grad_(True)
    return network


def _grey() -> Pixels:
    import numpy as np

    return np.full((64, 64, 3), 128, np.uint8)
