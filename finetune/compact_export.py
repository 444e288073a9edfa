"""A trained compact model as a standard LLaVA checkpoint folder, for tools that know nothing of ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from vlmforensics.compact import layout
from vlmforensics.compact.forward import core_of
from vlmforensics.compact.shipped import MANIFEST, load, merge
from vlmforensics.settings import Settings
from vlmforensics.vlm.profiles import NOTE
from vlmforensics.vlm.quiet import quiet_transformers


def export_compact(folder: Path, out: Path, settings: Settings, dtype: torch.dtype) -> Path:
    """Merge the adapter of ``folder`` (the layout the compact model ships in) and write a checkpoint with processor.

    The label head has no place in that format; asked through the standard folder, the model answers by its words.

    Raises:
        AdapterMismatch, WeightsCorrupt: see ``compact.shipped.load``.
    """
    parts = load(settings, folder).parts
    merge(parts)
    core = core_of(parts.model).to(dtype)
    with quiet_transformers():
        core.save_pretrained(out)
    processor_of(parts.tokenizer).save_pretrained(out)
    (out / NOTE).write_text(json.dumps({"profile": "explained"}) + "\n", encoding="utf-8")
    shutil.copyfile(folder / MANIFEST, out / "trained_from.json")
    return out


def processor_of(tokenizer: Any) -> Any:
    """A stock processor that prepares pictures as ``compact.tower`` does: squashed to the square, then normalised."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    side = {"height": layout.SIDE, "width": layout.SIDE}
    images = CLIPImageProcessor(
        size=side, do_center_crop=False, image_mean=list(layout.MEAN), image_std=list(layout.STD)
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=layout.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=layout.CHAT_TEMPLATE,
    )
