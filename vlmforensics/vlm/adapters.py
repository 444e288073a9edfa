"""Put a peft adapter on a model, or refuse: peft itself only warns when keys don't fit, and goes on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from vlmforensics import weights
from vlmforensics.errors import AdapterMismatch, MissingExtra, WeightsCorrupt
from vlmforensics.settings import Settings
from vlmforensics.vlm.quiet import quiet_peft

log = logging.getLogger(__name__)

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
MANIFEST = "adapter.json"


def load_adapter(model: Any, folder: Path) -> Any:
    """Wrap ``model`` with the adapter in ``folder``; nothing missing, unexpected or of another shape.

    Args:
        model: the base model, float32 or bfloat16; its layers are wrapped in place.
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``, peft's standard layout.

    Raises:
        AdapterMismatch: the adapter belongs to another model.
        WeightsCorrupt: a file can't be read.
        MissingExtra: peft is not installed.
    """
    stored = read_tensors(folder / TENSORS)
    wrapped: Any = None
    with quiet_peft():
        try:
            from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
        except ImportError as error:
            message = 'adapters need peft: pip install "vlmforensics[model]"'
            raise MissingExtra(message, code="extra.model") from error
        try:
            config = PeftConfig.from_pretrained(str(folder))
            config.inference_mode = True
            config.init_lora_weights = True  # what the file lacks must start without effect, never at random
            config.base_model_name_or_path = getattr(model, "name_or_path", "")
            wrapped = get_peft_model(model, config)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AdapterMismatch(f"the adapter in {folder} does not fit the base model: {error}") from error
        # Whole embeddings are never part of an adapter here; "auto" would look the base model up on the hub.
        own = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
        try:
            _compare(own, stored, folder)
        except AdapterMismatch:
            wrapped.unload()  # the base is left as it was
            raise
        report: Any = set_peft_model_state_dict(wrapped, {key: stored[key].to(own[key].dtype) for key in own})
    if report.unexpected_keys:
        raise AdapterMismatch(f"peft did not take {', '.join(report.unexpected_keys[:3])} of {folder}")
    return wrapped.eval()


def base_of_adapter(folder: Path) -> str:
    """What a peft adapter folder names as its base model.

    Raises:
        AdapterMismatch: its configuration can't be read.
    """
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterMismatch(
            f"{folder} holds no readable adapter_config.json with its base model"
        ) from error
    return str(found)


def check_base(adapter: Path, base: Path, settings: Settings | None = None) -> None:
    """Refuse an adapter that was trained on another base, or whose files have changed since.

    Our training writes ``adapter.json`` beside peft's files: the base's digest and each file's. An adapter without it
    (of somebody else's making) is let through with a warning: its keys and shapes are still compared on loading.

    Raises:
        AdapterMismatch: a digest differs, or the manifest can't be read.
    """
    path = adapter / MANIFEST
    if not path.is_file():
        log.warning(
            "%s says by name only what it belongs to (%s), not by hash",
            adapter.name,
            base_of_adapter(adapter),
        )
        return
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        name, wanted = str(manifest["base"]["name"]), str(manifest["base"]["sha256"])
        files = {str(file): str(digest) for file, digest in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterMismatch(f"{path} is not a manifest of an adapter: {error!r}") from error
    found = weights.folder_digest(base, settings)
    if found != wanted:
        raise AdapterMismatch(
            f"the adapter in {adapter} was trained on {name} (digest {wanted[:12]}…); {base} is another base or "
            f"version ({found[:12]}…): give it its own with --model"
        )
    for file, digest in files.items():
        inside = adapter / file
        if not inside.is_file() or weights.sha256_of(inside) != digest:
            raise AdapterMismatch(
                f"{inside} is missing or not the one that {path.name} names: copy the adapter again"
            )


def _compare(own: dict[str, torch.Tensor], stored: dict[str, torch.Tensor], folder: Path) -> None:
    missing, unexpected = sorted(set(own) - set(stored)), sorted(set(stored) - set(own))
    if missing or unexpected:
        raise AdapterMismatch(
            f"the adapter in {folder} does not fit: {len(missing)} keys missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])})"
        )
    shapes = [key for key in own if own[key].shape != stored[key].shape]
    if shapes:
        raise AdapterMismatch(f"the adapter in {folder} has tensors of other shapes: {', '.join(shapes[:3])}")


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file.

    Raises:
        WeightsCorrupt: it is missing or broken.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise WeightsCorrupt(f"{path} can't be read: {error}") from error
