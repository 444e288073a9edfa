"""Our weights of the compact model: written by training, read strictly, proven to have an effect.

The folder holds ``projector.safetensors``, ``heads.safetensors``, ``adapter/`` (peft's standard layout) and
``compact.json``, the manifest with the digest of each file, the base they belong to, the versions that wrote
them and a fingerprint: label log-probabilities of a fixed picture, and next-word log-probabilities of a fixed
text. peft only warns about an adapter whose keys don't fit, and the model then runs on as if nothing had been
loaded; so keys and shapes are compared here, and the fingerprint shows that the weights act.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlmforensics import weights
from vlmforensics.compact import clip, layout, whole
from vlmforensics.compact.assembly import CompactParts, base_name, build_base
from vlmforensics.compact.backbone import CompactBackbone
from vlmforensics.compact.forward import core_of
from vlmforensics.compact.whole import WholeExpert
from vlmforensics.errors import AdapterMismatch, WeightsCorrupt, WeightsUnavailable
from vlmforensics.settings import Settings
from vlmforensics.types import Pixels
from vlmforensics.vlm.adapters import CONFIG, TENSORS, load_adapter, read_tensors

DATA = Path(__file__).parent / "data"
MANIFEST = "compact.json"
PROJECTOR = "projector.safetensors"
HEADS = "heads.safetensors"
ADAPTER = "adapter"
FORMAT = 2
TOLERANCE = 0.01
"""Largest difference of a fingerprint's log-probabilities between machines; an inert adapter differs more."""
FINGERPRINT_HINTS = ("The blending detector gives 0.50 out of 1.",)
FINGERPRINT_READINGS = (2.0, -2.0)
FINGERPRINT_TEXT = "The evidence in this picture shows that"
TOP_WORDS = 5


def load(settings: Settings | None = None, data: Path | None = None) -> CompactBackbone:
    """The compact model with its shipped weights.

    Args:
        settings: cache, device, threads, offline.
        data: folder with the shipped files; the package's own by default.

    Raises:
        WeightsUnavailable: the folder holds no trained weights.
        WeightsCorrupt: a file has another digest than the manifest says.
        AdapterMismatch: keys, shapes, base model or fingerprint don't fit.
    """
    folder = data or DATA
    manifest = read_manifest(folder)
    parts = _parts(settings, folder, manifest, folded=True)
    return CompactBackbone(parts, str(manifest["version"]), weights_digest(manifest))


def load_parts(
    settings: Settings | None = None, data: Path | None = None, *, folded: bool = True
) -> CompactParts:
    """The parts of the compact model with its shipped weights; raises as :func:`load`.

    Args:
        settings: cache, device, threads, offline.
        data: folder with the shipped files; the package's own by default.
        folded: the adapter is folded into the base weights, see :func:`merge`.
    """
    folder = data or DATA
    return _parts(settings, folder, read_manifest(folder), folded=folded)


def _parts(
    settings: Settings | None, folder: Path, manifest: Mapping[str, Any], *, folded: bool
) -> CompactParts:
    parts = build_base(settings)
    load_into(parts, folder, manifest)
    if folded:
        merge(parts)
    parts.experts = whole_expert(settings, parts.device)
    return parts


def whole_expert(settings: Settings | None = None, device: torch.device | str = "cpu") -> WholeExpert:
    """The experts on the whole picture with their shipped weights.

    Raises:
        WeightsUnavailable, WeightsCorrupt: see ``clip.load`` and ``whole.load_experts``.
    """
    file = DATA / whole.FILE
    if not file.is_file():
        raise WeightsUnavailable(f"the weights {file} are missing: reinstall vlmforensics")
    return whole.load_experts(clip.load(settings, device), file)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of a folder of shipped weights; every file's digest is compared."""
    path = folder / MANIFEST
    if not path.is_file():
        raise WeightsUnavailable(
            f"the compact model has no trained weights in {folder}; train them with "
            "`vlmforensics finetune label`"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files: Mapping[str, str] = dict(manifest["files"])
        known = manifest["format"] == FORMAT
        if not known:
            raise WeightsCorrupt(f"{path} has format {manifest['format']}; this version reads {FORMAT}")
        if not {"version", "base", "fingerprint", "cls_layer", "feature_layers"} <= set(manifest):
            raise WeightsCorrupt(f"{path} lacks entries")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsCorrupt(f"{path} can't be read ({type(error).__name__})") from error
    for name, digest in files.items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
            raise WeightsCorrupt(f"{name} of the compact model's weights is missing")
        if weights.sha256_of(file) != digest:
            raise WeightsCorrupt(
                f"{name} of the compact model's weights has another digest than its manifest says"
            )
    return dict(manifest)


def weights_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over the base's digest and the digests of the shipped files: names the whole model."""
    kept = {"base": manifest["base"], "files": manifest["files"]}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def load_into(parts: CompactParts, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Put shipped weights over ``parts`` (in place) and prove their effect."""
    expected = {
        "base": parts.base_digest,
        "cls_layer": layout.CLS_LAYER,
        "feature_layers": list(layout.FEATURE_LAYERS),
    }
    for key, value in expected.items():
        if manifest[key] != value:
            raise AdapterMismatch(
                f"the weights in {folder} were trained with {key} {manifest[key]}, not {value}"
            )
    projector = core_of(parts.model).model.multi_modal_projector
    _load_strictly(projector, read_tensors(folder / PROJECTOR), "the projector")
    _load_heads(parts, folder)
    if f"{ADAPTER}/{TENSORS}" in manifest["files"]:
        parts.model = load_adapter(core_of(parts.model), folder / ADAPTER)
    parts.model.eval().requires_grad_(False)
    check_fingerprint(parts, manifest["fingerprint"])


def merge(parts: CompactParts) -> None:
    """Fold the adapter into the base weights, for inference only.

    An adapter's trained token rows are laid over a copy of the whole vocabulary (113 MB) at every call, so at every
    word that is written; folded in, they cost nothing.
    """
    fold = getattr(parts.model, "merge_and_unload", None)
    if fold is not None:
        parts.model = fold().eval().requires_grad_(False)


def save_shipped(
    folder: Path,
    parts: CompactParts,
    *,
    version: str,
    training: Mapping[str, Any],
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Write trained weights as they are shipped: float16 safetensors, adapter, manifest with fingerprint.

    The files are read back over a fresh base model, so the fingerprint is that of what users will load.

    Args:
        folder: created where absent; files of an earlier training are replaced.
        parts: trained; ``parts.model`` is peft's model, or the bare LLaVA where no adapter was trained.
        version: of the weights, e.g. ``1``.
        training: goes into the manifest as it is: commands, data digests, seeds (JSON-serialisable).
        settings: where the base weights are cached.

    Returns:
        The manifest.

    Raises:
        AdapterMismatch: the weights read back don't reproduce the trained model, or the adapter has no
            effect.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(
        missing_ok=True
    )  # a folder without a manifest is no model: the last file makes it one
    core = core_of(parts.model)
    _write(folder / PROJECTOR, core.model.multi_modal_projector.state_dict())
    heads = {"label": parts.head, "readings": parts.readings}
    _write(
        folder / HEADS,
        {f"{part}.{key}": value for part, head in heads.items() for key, value in head.state_dict().items()},
    )
    adapted = core is not parts.model
    if adapted:
        _save_adapter(parts, folder / ADAPTER)
    names = [PROJECTOR, HEADS]
    names += [f"{ADAPTER}/{CONFIG}", f"{ADAPTER}/{TENSORS}"] if adapted else []
    fresh = build_base(settings)
    _load_strictly(
        core_of(fresh.model).model.multi_modal_projector, read_tensors(folder / PROJECTOR), "the projector"
    )
    _load_heads(fresh, folder)
    if adapted:
        bare = fingerprint(fresh)
        fresh.model = load_adapter(fresh.model, folder / ADAPTER)
    fresh.model.eval()
    found = fingerprint(fresh)
    _compare(
        fingerprint(parts), found, tolerance=3 * TOLERANCE, what="the trained model"
    )  # float16 moved it a little
    if (
        adapted
        and max(abs(a - b) for a, b in zip(found["label"], bare["label"], strict=True)) < 2 * TOLERANCE
    ):
        raise AdapterMismatch("the adapter has no measurable effect on the label; was it trained?")
    manifest = {
        "format": FORMAT,
        "name": "compact",
        "version": version,
        "cls_layer": layout.CLS_LAYER,
        "feature_layers": list(layout.FEATURE_LAYERS),
        "base": parts.base_digest,
        "files": {name: weights.sha256_of(folder / name) for name in names},
        "fingerprint": found,
        "written_with": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in ("torch", "transformers", "peft")},
        },
        "training": dict(training),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def fixed_picture() -> Pixels:
    """A picture made by integer arithmetic alone, the same on every machine: uint8 (224, 224, 3)."""
    y, x = np.mgrid[0 : layout.SIDE, 0 : layout.SIDE]
    planes = [(x * 5 + y * 3) % 256, (x * y) // 97 % 256, ((x // 14 + y // 14) % 2) * 120 + (x + 2 * y) % 100]
    return np.stack(planes, axis=-1).astype(np.uint8)


def fingerprint(parts: CompactParts) -> dict[str, Any]:
    """What the model says to the fixed picture (label log-probabilities) and text (most probable words)."""
    alone = replace(parts, experts=None)
    backbone = CompactBackbone(alone, "", "", FINGERPRINT_READINGS)
    look = backbone.look(fixed_picture(), FINGERPRINT_HINTS, for_text=False)
    ids = torch.tensor([parts.tokens.text(FINGERPRINT_TEXT)], device=parts.device)
    with torch.inference_mode():
        logits = core_of(parts.model)(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]
        best = torch.log_softmax(logits.float(), -1).topk(TOP_WORDS)
    return {
        "label": [round(value, 5) for value in look.log_probs or ()],
        "words": [int(i) for i in best.indices],
        "word_log_probs": [round(float(value), 5) for value in best.values],
    }


def check_fingerprint(parts: CompactParts, stored: Mapping[str, Any]) -> None:
    """Compare with the manifest.

    Raises:
        AdapterMismatch: the loaded model does not say what the trained one said.
    """
    _compare(stored, fingerprint(parts), tolerance=TOLERANCE, what="the manifest's fingerprint")


def _compare(one: Mapping[str, Any], other: Mapping[str, Any], *, tolerance: float, what: str) -> None:
    pairs = [*zip(one["label"], other["label"], strict=True)]
    words = dict(zip(other["words"], other["word_log_probs"], strict=True))
    # The order of near-equal words may differ between machines, so only words in both lists are compared.
    known = [(p, words[w]) for w, p in zip(one["words"], one["word_log_probs"], strict=True) if w in words]
    if len(known) < TOP_WORDS - 2 or any(abs(a - b) > tolerance for a, b in [*pairs, *known]):
        raise AdapterMismatch(
            f"the loaded weights do not reproduce {what}: label log-probabilities {list(other['label'])} "
            f"instead of {list(one['label'])}; an adapter without effect, or another version of a library?"
        )


def _save_adapter(parts: CompactParts, folder: Path) -> None:
    parts.model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    _write(folder / TENSORS, read_tensors(folder / TENSORS))
    (folder / "README.md").unlink(missing_ok=True)  # peft's template; the model card says more
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name(parts.base_digest)  # not a folder of the training machine
    config["inference_mode"] = True
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _load_heads(parts: CompactParts, folder: Path) -> None:
    """Label head, and the projector of the experts' readings."""
    tensors = read_tensors(folder / HEADS)
    for part, head in (("label", parts.head), ("readings", parts.readings)):
        own = [key for key in tensors if key.startswith(f"{part}.")]
        _load_strictly(
            head, {key.removeprefix(f"{part}."): tensors.pop(key) for key in own}, f"the {part} head"
        )
    if tensors:
        raise AdapterMismatch(f"{HEADS} holds unknown tensors: {', '.join(sorted(tensors)[:3])}")


def _load_strictly(module: Any, tensors: Mapping[str, torch.Tensor], what: str) -> None:
    own = module.state_dict()
    wrong = sorted(set(own) ^ set(tensors)) or [k for k in own if own[k].shape != tensors[k].shape]
    if wrong:
        raise AdapterMismatch(f"the stored weights do not fit {what}: {', '.join(wrong[:3])}")
    module.load_state_dict({key: value.to(own[key].dtype) for key, value in tensors.items()})


def _write(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({k: v.detach().to("cpu", torch.float16).contiguous() for k, v in tensors.items()}, path)
    path.chmod(0o644)
