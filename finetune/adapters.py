"""A trained adapter on disk: peft's standard layout, heads beside it, a manifest; and its merge into a checkpoint."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from vlmforensics import weights
from vlmforensics.compact.forward import core_of
from vlmforensics.errors import AdapterMismatch, SettingsError
from vlmforensics.finetune.recipe import Recipe, recipe_of
from vlmforensics.finetune.samples import Sample
from vlmforensics.finetune.train_model import Built, base_folder, load_base
from vlmforensics.finetune.train_prompts import CLS, SEG
from vlmforensics.settings import Settings
from vlmforensics.vlm.adapters import CONFIG, load_adapter
from vlmforensics.vlm.heads import extend_vocabulary
from vlmforensics.vlm.profiles import NOTE
from vlmforensics.vlm.quiet import quiet_transformers

FORMAT = "vlmforensics.adapter/1"
MANIFEST = "adapter.json"
HEADS = "heads.safetensors"
MASKS = "masks"
COMPACT = "compact"
TOLERANCE = 0.02
"""Largest difference of a fingerprint's log-probabilities between machines in float32."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def data_digest(samples: Sequence[Sample]) -> str:
    """SHA-256 over what the samples teach, whatever folder they lie in and whatever their order."""
    rows = sorted(s.model_copy(update={"image": Path(), "mask": None}).model_dump_json() for s in samples)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def save_adapter(
    folder: Path, built: Built, recipe: Recipe, *, data: Path, samples: Sequence[Sample], steps: int
) -> dict[str, Any]:
    """Write what was trained; returns the manifest, which is written last.

    LoRA goes into peft's two files, a fully trained model into a checkpoint folder. The compact model's weights go into
    the layout it ships with.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    student = built.student.eval()
    training = {
        "recipe": recipe.model_dump(mode="json"),
        "data": {"file": data.name, "sha256": data_digest(samples), "samples": len(samples)},
        "steps": steps,
    }
    if built.compact is not None:
        from vlmforensics.compact.shipped import save_shipped

        return save_shipped(folder, built.compact, version="trained", training=training)
    if recipe.learn.language == "lora":
        student.llava.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's template; the manifest says more
        _rewrite(folder / CONFIG, {"base_model_name_or_path": built.base, "inference_mode": True})
    else:
        _save_checkpoint(folder, built.core, built.processor)
    marks = write_heads(folder, built)
    (folder / NOTE).write_text(
        json.dumps({"profile": recipe.prompt.profile, **marks}, indent=1) + "\n", encoding="utf-8"
    )
    manifest = {
        "format": FORMAT,
        "base": {"name": built.base, "sha256": built.base_sha256},
        **training,
        "fingerprint": None if built.four_bit else fingerprint(student.llava, built.turns.pad),
        "dtype": str(built.dtype).removeprefix("torch."),
        "quantised": built.four_bit,
        "versions": versions(),
        "files": digests(folder),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def write_heads(folder: Path, built: Built) -> dict[str, Any]:
    """Label head and mask head; returns what the note says of them."""
    from safetensors.torch import save_file

    student = built.student
    if student.head is None:
        return {}
    head = {
        f"label.{name}": value.detach().float().cpu() for name, value in student.head.state_dict().items()
    }
    save_file(head, folder / HEADS)
    if student.masks is not None:
        write_masks(folder / MASKS, student)
    return {"cls": CLS, "seg": SEG, "layer": student.layer, "label_head": HEADS}


def write_masks(folder: Path, student: Any) -> None:
    """The mask network in the layout that ``masks.MaskHead.load(folder=…)`` reads; calibration is the shipped one's."""
    from vlmforensics.finetune.mask_export import export
    from vlmforensics.masks import MaskHead
    from vlmforensics.masks.head import MANIFEST as MASK_MANIFEST

    note = "trained with an adapter; pixels and pictures are calibrated as the shipped head's, not afresh"
    export(student.masks, MaskHead.load().calibration, folder, training={"note": note}, validation={})
    inputs = {"tower": False, "traces": False, "seg": True}
    _rewrite(
        folder / MASK_MANIFEST,
        {"inputs": inputs, "inputs_note": "Prompted by [SEG] and the label; no tower."},
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an adapter, its files checked.

    Raises:
        AdapterMismatch: no manifest, another format, a file missing or changed.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files: Mapping[str, str] = manifest["files"]
        known = manifest["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterMismatch(
            f"{folder} holds no readable {MANIFEST}: is it the adapter of a finished run?"
        ) from error
    if not known:
        raise AdapterMismatch(f"{path} has format {manifest['format']!r}; this version reads {FORMAT}")
    found = digests(folder)
    odd = sorted(name for name, digest in files.items() if found.get(name) != digest)
    if odd:
        raise AdapterMismatch(f"{folder}: {', '.join(odd[:3])} is missing or not what the manifest says")
    return manifest


def open_adapter(
    folder: Path, settings: Settings, dtype: torch.dtype = torch.float32
) -> tuple[Any, Any, Recipe]:
    """Base with the adapter over it (not merged), its processor, and the recipe.

    Raises:
        AdapterMismatch: the manifest, the base's digest, keys, shapes or the fingerprint don't fit.
        WeightsUnavailable: the base isn't here.
    """
    manifest = read_manifest(folder)
    recipe = recipe_of(manifest["recipe"], str(folder / MANIFEST))
    base, _ = base_folder(manifest["base"]["name"], settings)
    digest = weights.folder_digest(base, settings)
    if digest != manifest["base"]["sha256"]:
        raise AdapterMismatch(
            f"the adapter in {folder} was trained over another version of {manifest['base']['name']} "
            f"({manifest['base']['sha256'][:12]}…, here {digest[:12]}…)"
        )
    if recipe.learn.language != "lora":
        model, processor = load_base(folder, {"dtype": dtype})
        wrapped = model.eval()
    else:
        model, processor = load_base(base, {"dtype": dtype})
        if recipe.heads.label:
            extend_vocabulary(model, processor.tokenizer, (CLS, SEG))
        wrapped = load_adapter(model, folder)
    stored = manifest["fingerprint"]
    if stored is not None and dtype == DTYPES[manifest["dtype"]] == torch.float32:
        found = fingerprint(wrapped, stored["ids"][0])
        known = dict(zip(found["words"], found["log_probs"], strict=True))
        pairs = [
            (p, known[w]) for w, p in zip(stored["words"], stored["log_probs"], strict=True) if w in known
        ]
        if len(pairs) < len(stored["words"]) - 2 or any(abs(a - b) > TOLERANCE for a, b in pairs):
            raise AdapterMismatch(
                f"the adapter in {folder} does not act as it did when it was trained; another version of a library?"
            )
    return wrapped, processor, recipe


def export(folder: Path, out: Path, settings: Settings, *, dtype: str = "bfloat16") -> Path:
    """Merge an adapter into a standard checkpoint folder that ``from_pretrained`` opens; returns ``out``.

    Never merged into a quantised base: the base is loaded anew, in ``dtype``.

    Raises:
        SettingsError: ``out`` exists, or an unknown ``dtype``.
        AdapterMismatch: see ``open_adapter``.
    """
    if dtype not in DTYPES:
        raise SettingsError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    if out.exists() and any(out.iterdir()):
        raise SettingsError(f"{out} is not empty; export into a new folder")
    settings = replace(settings, device="cpu")
    if (folder / "compact.json").is_file():
        from vlmforensics.finetune.compact_export import export_compact

        return export_compact(folder, out, settings, DTYPES[dtype])
    wrapped, processor, _ = open_adapter(folder, settings, DTYPES[dtype])
    merged = wrapped.merge_and_unload() if hasattr(wrapped, "merge_and_unload") else wrapped
    _save_checkpoint(out, core_of(merged), processor)
    for name in (NOTE, HEADS):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    if (folder / MASKS).is_dir():
        shutil.copytree(folder / MASKS, out / MASKS)
    shutil.copyfile(folder / MANIFEST, out / "trained_from.json")
    return out


@torch.inference_mode()
def fingerprint(llava: Any, first: int) -> dict[str, Any]:
    """Log-probabilities of the five most probable next words after a fixed row of ids, without a picture."""
    core = core_of(llava)
    embeddings = core.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    image = core.config.image_token_id
    ids = [first, *[i for i in ((7 * n * n + 3 * n + 5) % rows for n in range(12)) if i != image]]
    fed = torch.tensor([ids], device=embeddings.weight.device)
    states = core.model.language_model(inputs_embeds=embeddings(fed), use_cache=False).last_hidden_state
    best = torch.log_softmax(core.lm_head(states[:, -1]).float(), -1)[0].topk(5)
    return {
        "ids": ids,
        "words": best.indices.tolist(),
        "log_probs": [round(float(value), 5) for value in best.values],
    }


def versions() -> dict[str, str]:
    """Of Python and the libraries that parameter names follow."""
    return {
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in ("torch", "transformers", "peft", "accelerate")},
    }


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of an adapter but its manifest, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): weights.sha256_of(path) for path in files}


def _save_checkpoint(folder: Path, core: Any, processor: Any) -> None:
    with quiet_transformers():
        core.save_pretrained(folder)
    processor.save_pretrained(folder)


def _rewrite(path: Path, changes: Mapping[str, Any]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, **changes}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
