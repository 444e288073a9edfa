"""Put the compact model together: base weights from the cache, seeded or shipped weights of ours on top."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlmforensics import weights
from vlmforensics.compact import layout
from vlmforensics.compact.heads import LabelHead, ReadingProjector
from vlmforensics.compact.tokens import Tokens
from vlmforensics.compact.tower import Tower
from vlmforensics.compact.whole import WholeExpert
from vlmforensics.errors import WeightsCorrupt
from vlmforensics.settings import Settings
from vlmforensics.vlm.devices import pick_device, use_threads
from vlmforensics.vlm.quiet import quiet_peft, quiet_transformers
from vlmforensics.weights import Progress

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
PERCEPTRON = ("gate_proj", "up_proj", "down_proj")


@dataclass(eq=False)
class CompactParts:
    """The assembled model.

    Attributes:
        model: ``LlavaForConditionalGeneration`` (or peft's wrapper around it), float32, eval mode.
        tokenizer: with ``<image>``, ``[CLS]``, ``[SEG]`` as single tokens.
        tokens: ids and prompt building.
        tower: the model's own vision tower.
        head: the label head.
        readings: what the experts' log-odds add to ``[CLS]``; zeros, so nothing, until trained.
        device: where everything lives.
        base_digest: identifies the base weights (see ``weights.ModelPin.digest``).
        experts: on the whole picture, whose readings the model is told; None where they are not loaded.
    """

    model: Any
    tokenizer: Any
    tokens: Tokens
    tower: Tower
    head: LabelHead
    readings: ReadingProjector
    device: torch.device
    base_digest: str
    experts: WholeExpert | None = None


def build_base(
    settings: Settings | None = None, *, seed: int = 0, progress: Progress | None = None
) -> CompactParts:
    """The model with base weights and a seeded projector and label head: where training starts.

    Fetches, checks and converts the base weights where the cache lacks them.

    Raises:
        WeightsUnavailable, WeightsCorrupt: see ``weights.pull``.
    """
    folder = weights.pull("compact", settings, progress)
    use_threads(settings)
    device = pick_device(settings)
    model, tokenizer = load_base_folder(folder)
    digest = weights.pin_of("compact").digest
    model.name_or_path = base_name(digest)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        seed_projector(model.model.multi_modal_projector)
        head = LabelHead().eval()
    readings = ReadingProjector().eval()
    model.to(device)
    head.to(device)
    readings.to(device)
    return CompactParts(
        model=model,
        tokenizer=tokenizer,
        tokens=Tokens.of(tokenizer, model.config.image_token_id),
        tower=Tower(model.model.vision_tower, device),
        head=head,
        readings=readings,
        device=device,
        base_digest=digest,
    )


def base_name(digest: str) -> str:
    """What an adapter's configuration calls the base model."""
    return f"compact-{digest[:16]}"


def seed_projector(projector: Any) -> None:
    """Initialise the stock projector from torch's current seed, so that training starts in range.

    The four tower layers differ forty-fold in scale, and the last would drown the middle ones, where the
    traces of generation are; each layer's columns are divided by its scale. The output starts at the scale of
    word embeddings.
    """
    first, second = projector.linear_1, projector.linear_2
    scales = torch.tensor(layout.FEATURE_SCALES).repeat_interleave(layout.TOWER_WIDTH)
    with torch.no_grad():
        first.weight.copy_(torch.randn_like(first.weight) / math.sqrt(first.in_features) / scales)
        first.bias.zero_()
        gelu_scale = 0.65  # root mean square of GELU of a standard normal number
        second.weight.copy_(torch.randn_like(second.weight) * layout.EMBEDDING_SCALE)
        second.weight.div_(gelu_scale * math.sqrt(second.in_features))
        second.bias.zero_()


def load_base_folder(folder: Path) -> tuple[Any, Any]:
    """Model (float32, eval) and tokenizer from a converted folder; every tensor must be accounted for.

    float32 on every device: the model is small, and half precision is hundreds of times slower on older CPUs.
    """
    from transformers import AutoTokenizer, LlavaForConditionalGeneration

    with quiet_transformers():
        loaded: Any = LlavaForConditionalGeneration.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    model, report = loaded
    odd = {name: sorted(map(str, found)) for name, found in report.items() if found}
    if odd:
        raise WeightsCorrupt(f"the converted base model does not fit its configuration: {odd}")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model.eval().requires_grad_(False), tokenizer


def adapter_config(
    tokens: Tokens,
    *,
    rank: int = 16,
    alpha: int = 32,
    dropout: float = 0.0,
    layers: Sequence[int] = range(layout.CLS_LAYER),
    projections: Sequence[str] = PROJECTIONS,
    narrator: Sequence[int] = (),
) -> Any:
    """A peft ``LoraConfig`` for the language model alone, with the rows of ``[CLS]`` and ``[SEG]`` trainable.

    Args:
        tokens: for the ids of the two rows.
        rank: of the two factors.
        alpha: numerator of the scale ``alpha / rank``.
        dropout: on the adapter's input, in training only.
        layers: decoder layers that get one; the label head sees those below ``CLS_LAYER``, the narrator all of them.
        projections: module names inside the attention (or ``gate_proj``, ``up_proj``, ``down_proj``).
        narrator: further layers, which get one on attention and perceptron; where there are no ``layers``, the two
            rows stay as they are.

    References:
        Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models.
    """
    with quiet_peft():
        from peft import LoraConfig

    groups = ((layers, projections), (narrator, (*PROJECTIONS, *PERCEPTRON)))
    chosen = "|".join(
        rf"({'|'.join(map(str, sorted(numbers)))})\.(self_attn|mlp)\.({'|'.join(names)})"
        for numbers, names in groups
        if len(numbers)
    )
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        bias="none",
        # A full match: the bare suffix would also hit the vision tower's projections.
        target_modules=rf"model\.language_model\.layers\.({chosen})",
        trainable_token_indices={"embed_tokens": [tokens.cls, tokens.seg]} if len(layers) else None,
    )


def add_adapter(parts: CompactParts, config: Any = None) -> Any:
    """Wrap ``parts.model`` with a fresh adapter (no effect until trained); returns, stores peft's model."""
    with quiet_peft():
        from peft import get_peft_model

        parts.model = get_peft_model(parts.model, config or adapter_config(parts.tokens))
    return parts.model
