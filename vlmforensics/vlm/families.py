"""The model families that a checkpoint may belong to, told apart by its configuration and never by its name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmforensics.errors import ModelError, WeightsCorrupt, WeightsUnavailable


@dataclass(frozen=True)
class Family:
    """What differs between families.

    Attributes:
        title: for people.
        square: the tower sees one square, and the processor may crop to it; other families show the whole picture
            in tiles or in its own shape.
    """

    title: str
    square: bool = False


FAMILIES: Mapping[str, Family] = {
    "llava": Family("LLaVA-1.5", square=True),
    "llava_next": Family("LLaVA-NeXT (1.6)"),
    "llava_onevision": Family("LLaVA-OneVision"),
    "qwen2_5_vl": Family("Qwen2.5-VL"),
    "qwen3_vl": Family("Qwen3-VL"),
}
"""``model_type`` of ``config.json`` → family. Each passes ``tests/vlm/test_vlm_conformance.py``."""


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a checkpoint folder.

    Raises:
        WeightsUnavailable: there is none.
        WeightsCorrupt: it can't be read.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsUnavailable(f"{folder} holds no config.json, so it is no checkpoint folder")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsCorrupt(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise WeightsCorrupt(f"{path} is not a JSON object")
    return found


def family_of(folder: Path) -> Family:
    """The family of a checkpoint folder.

    Raises:
        ModelError: a layout that must be converted first, or a family without a loader.
    """
    config = read_config(folder)
    if "mm_vision_tower" in config:
        made_by = config.get("architectures") or "no architecture named"
        raise ModelError(
            f"{folder} is in the layout of the original LLaVA code ({made_by}): use the Hugging Face "
            "form of the model, or for SIDA `vlmforensics models convert-sida`",
            code="model.layout",
        )
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise ModelError(
            f"{folder} has model_type {kind!r}; a picture-and-text model must be one of {', '.join(FAMILIES)}",
            code="model.family",
        )
    return family
