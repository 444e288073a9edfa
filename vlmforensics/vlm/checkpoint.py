"""A checkpoint folder as model and processor: safetensors only, no code from the folder, no network."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from vlmforensics.errors import ModelError, WeightsCorrupt
from vlmforensics.vlm.memory import GIB, Plan, free_bytes, leave_odd_layers_unpacked
from vlmforensics.vlm.quiet import quiet_peft, quiet_transformers

log = logging.getLogger(__name__)


def attention(device: torch.device, dtype: torch.dtype) -> str:
    """The fastest attention that is there: flash attention on CUDA in 16 bits, else torch's own (SDPA)."""
    half = dtype in (torch.bfloat16, torch.float16)
    if device.type == "cuda" and half and find_spec("flash_attn") is not None:
        return "flash_attention_2"
    return "sdpa"


def load_checkpoint(folder: Path, device: torch.device, how: Plan) -> tuple[Any, Any]:
    """Model in eval mode without gradients, on its device, and processor padding on the left.

    Raises:
        WeightsCorrupt: files missing, broken, or not fitting the configuration.
        ModelError: memory ran out after all.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with quiet_transformers(), quiet_peft():
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                attn_implementation=attention(device, how.dtype),
                **how.arguments(device),
            )
    except torch.OutOfMemoryError as error:
        raise out_of_memory(device, how.bytes) from error
    except (OSError, ValueError, KeyError) as error:
        raise WeightsCorrupt(
            f"{folder} is no picture-and-text checkpoint that can be loaded: {error}"
        ) from error
    model, report = loaded
    for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
        if report[kind]:
            odd = ", ".join(sorted(map(str, report[kind]))[:3])
            raise WeightsCorrupt(f"{folder}: {kind.replace('_', ' ')}: {odd}; such weights would be random")
    if report["unexpected_keys"]:
        log.warning("%s holds %d tensors that the model does not use", folder, len(report["unexpected_keys"]))
    if how.four_bit:
        leave_odd_layers_unpacked(model)
    if not how.placed:
        model.to(device)
    processor.tokenizer.padding_side = "left"
    return model.eval().requires_grad_(False), processor


def out_of_memory(device: torch.device, needed: int | None = None) -> ModelError:
    """What to say when the memory ran out although the estimate fitted."""
    free = free_bytes(device)
    figures = [
        f"{count / GIB:.1f} GB {what}"
        for count, what in ((needed, "are needed"), (free, "are free"))
        if count is not None
    ]
    told = f" ({', '.join(figures)})" if figures else ""
    return ModelError(
        f"the memory of {device} ran out{told}: close what else uses it, or take --quantize nf4",
        code="model.memory",
    )


def end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a reply."""
    stated = model.generation_config.eos_token_id
    ends = stated if isinstance(stated, list) else [stated]
    return tuple({int(i) for i in [*ends, tokenizer.eos_token_id] if i is not None})
