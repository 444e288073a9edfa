"""SIDA's checkpoints from the layout of the original LLaVA and LISA code to the one that transformers reads.

Nothing of the weights changes. The language model and the tower get the names of the published LLaVA-1.5 layout; the
projector of LLaVA 1.0, one linear layer, becomes LLaVA-1.5's two with no bend between them and an identity behind; the
picture's token, which the original code keeps outside the vocabulary, gets a row of zeros. Beside the checkpoint, in
``heads/``, stand the label head, what makes the mask prompt (``prompt.safetensors``) and Segment Anything
(``sam.safetensors``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vlmforensics.errors import ModelError, SettingsError, WeightsCorrupt, WeightsUnavailable
from vlmforensics.vlm.families import read_config
from vlmforensics.vlm.profiles import NOTE
from vlmforensics.vlm.sida import HEADS, LABEL_FILE

SHARD_BYTES = 4 << 30
PROMPT_FILE = "prompt.safetensors"
SAM_FILE = "sam.safetensors"
IMAGE = "<image>"
RULES: tuple[tuple[str, str, str], ...] = (
    # target part, pattern of the original name, name in the part
    ("model", r"model\.(embed_tokens\.weight|norm\.weight|layers\.\d+\..+)", r"language_model.model.\1"),
    ("model", r"lm_head\.weight", r"language_model.lm_head.weight"),
    ("model", r"model\.mm_projector(?:\.0)?\.(weight|bias)", r"multi_modal_projector.linear_1.\1"),
    ("model", r"model\.mm_projector\.2\.(weight|bias)", r"multi_modal_projector.linear_2.\1"),
    ("model", r"model\.vision_tower\.vision_tower\.(vision_model\..+)", r"vision_tower.\1"),
    ("label", r"model\.cls_head\.0\.0\.(weight|bias)", r"inner.\1"),
    ("label", r"model\.cls_head\.0\.3\.(weight|bias)", r"outer.\1"),
    ("prompt", r"model\.text_hidden_fcs\.0\.0\.(weight|bias)", r"project.0.\1"),
    ("prompt", r"model\.text_hidden_fcs\.0\.2\.(weight|bias)", r"project.2.\1"),
    ("prompt", r"model\.sida_fc1\.(weight|bias)", r"query.\1"),
    ("prompt", r"model\.attention_layer\.(.+)", r"attention.\1"),
    ("sam", r"model\.visual_model\.(.+)", r"\1"),
)
"""How each tensor of the original layout is named in ours, as read from SIDA's code."""
DROPPED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq|.*\.position_ids")
"""Constants that older versions of transformers saved with the weights."""


def new_name(old: str) -> tuple[str, str] | None:
    """Part and name of a tensor in our layout; None for a constant that is not kept.

    Raises:
        WeightsCorrupt: SIDA has no such tensor.
    """
    for part, pattern, replacement in RULES:
        if re.fullmatch(pattern, old) and not DROPPED.fullmatch(old):
            return part, re.sub(pattern, replacement, old)
    if DROPPED.fullmatch(old):
        return None
    raise WeightsCorrupt(f"the tensor {old} does not belong to a SIDA checkpoint")


@dataclass
class _Shards:
    """Writes the model's tensors in files of a few gigabytes, so that memory stays flat."""

    folder: Path
    written: dict[str, str] = field(default_factory=dict)
    total: int = 0
    _waiting: dict[str, torch.Tensor] = field(default_factory=dict)
    _bytes: int = 0
    _files: int = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        if name in self.written or name in self._waiting:
            raise WeightsCorrupt(f"the checkpoint holds {name} twice")
        self._waiting[name] = tensor.contiguous()
        self._bytes += tensor.nbytes
        if self._bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        self._files += 1
        file = f"model-{self._files:05d}.safetensors"
        save_file(self._waiting, self.folder / file, metadata={"format": "pt"})
        self.written |= dict.fromkeys(self._waiting, file)
        self.total += self._bytes
        self._waiting, self._bytes = {}, 0

    def finish(self) -> None:
        self.flush()
        index = {"metadata": {"total_size": self.total}, "weight_map": self.written}
        (self.folder / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=1), encoding="utf-8"
        )


def convert_sida(
    source: Path, out: Path, *, vision: Path | None = None, say: Callable[[str], None] | None = None
) -> None:
    """Write ``source`` in our layout to ``out``.

    Args:
        source: a folder of SIDA's (``saberzl/SIDA-7B`` …) with safetensors weights.
        out: a folder that does not exist yet.
        vision: the CLIP tower (a folder of ``openai/clip-vit-large-patch14``), which the published checkpoints leave
            out.
        say: told what is being done.

    Raises:
        SettingsError: ``out`` exists.
        WeightsUnavailable: no safetensors weights, or no tower.
        WeightsCorrupt: tensors are missing, unknown or twice there.
        ModelError: the folder is not of the original layout.
    """
    say = say or (lambda line: None)
    if out.exists():
        raise SettingsError(f"{out} exists already; name a new folder")
    config = read_config(source)
    if "mm_vision_tower" not in config and "vision_tower" not in config:
        raise ModelError(f"{source} is not in the layout of the original LLaVA code")
    files = _files(source)
    if vision is None:
        raise WeightsUnavailable(
            "the vision tower is needed beside the checkpoint: give the folder of openai/clip-vit-large-patch14 "
            "(`hf download openai/clip-vit-large-patch14`) as --vision"
        )
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.absolute().parent) as scratch:
        building = Path(scratch) / out.name
        (building / HEADS).mkdir(parents=True)
        say(f"reading {len(files)} files of {source}")
        tokenizer, image = _tokenizer(source, _rows(files))
        parts = _sort_out(files, _Shards(building), image)
        tower = _add_tower(parts, vision)
        _check_parts(parts, source)
        _finish_model(parts)
        for part, file in (("label", LABEL_FILE), ("prompt", PROMPT_FILE), ("sam", SAM_FILE)):
            save_file(parts.small[part], building / HEADS / file, metadata={"format": "pt"})
        say("writing configuration and tokenizer")
        _configure(building, config, tower, rows=parts.rows, image=image, straight=parts.straight)
        _processor(tokenizer, tower).save_pretrained(building)
        (building / NOTE).write_text(json.dumps({"profile": "sida"}) + "\n", encoding="utf-8")
        building.rename(out)
    say(f"written to {out}")


@dataclass
class _Parts:
    shards: _Shards
    small: dict[str, dict[str, torch.Tensor]]
    straight: bool = True
    width: int = 0
    rows: int = 0
    dtype: torch.dtype = torch.float16


def _files(source: Path) -> list[Path]:
    files = sorted(source.glob("*.safetensors"))
    if not files:
        pickled = next(iter(sorted(source.glob("pytorch_model*.bin"))), None)
        what = (
            f"its weights are pickles ({pickled.name} …), which can carry code; see docs/backbones/sida.md"
            if pickled
            else "it has none"
        )
        raise WeightsUnavailable(f"{source} holds no safetensors weights: {what}")
    return files


def _tensors(files: list[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    for path in files:
        try:
            with safe_open(path, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - safe_open is no mapping
                    yield name, opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise WeightsCorrupt(f"{path} can't be read: {error}") from error


def _rows(files: list[Path]) -> int:
    for path in files:
        try:
            with safe_open(path, "pt") as opened:
                if "model.embed_tokens.weight" in opened.keys():  # noqa: SIM118
                    return int(opened.get_slice("model.embed_tokens.weight").get_shape()[0])
        except (OSError, SafetensorError) as error:
            raise WeightsCorrupt(f"{path} can't be read: {error}") from error
    raise WeightsCorrupt(f"{files[0].parent} has no embeddings")


def _tokenizer(source: Path, rows: int) -> tuple[Any, int]:
    """The tokenizer with a token for the picture, and its id, behind all rows of the embedding."""
    from transformers import AddedToken, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise WeightsCorrupt(f"the tokenizer in {source} can't be read: {error}") from error
    missing = [
        token for token in ("[CLS]", "[SEG]", "<im_start>", "<im_end>") if token not in tokenizer.get_vocab()
    ]
    if missing:
        raise WeightsCorrupt(f"the tokenizer in {source} lacks {', '.join(missing)}, so it is not SIDA's")
    fillers = [f"<unused_{i}>" for i in range(len(tokenizer), rows)]
    marks = [
        AddedToken(token, special=True, normalized=False)
        for token in ("[CLS]", "[SEG]", "<im_start>", "<im_end>")
    ]
    tokenizer.add_tokens(fillers)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [*marks, AddedToken(IMAGE, special=True, normalized=False)]}
    )
    image: Any = tokenizer.convert_tokens_to_ids(IMAGE)
    return tokenizer, int(image)


def _sort_out(files: list[Path], shards: _Shards, image: int) -> _Parts:
    parts = _Parts(shards, {"label": {}, "prompt": {}, "sam": {}})
    for old, tensor in _tensors(files):
        found = new_name(old)
        if found is None:
            continue
        part, name = found
        if part != "model":
            parts.small[part][name] = tensor.contiguous()
            continue
        if name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
            parts.rows, parts.width, parts.dtype = (
                max(len(tensor), image + 1),
                int(tensor.shape[1]),
                tensor.dtype,
            )
            tensor = torch.cat([tensor, tensor.new_zeros(parts.rows - len(tensor), parts.width)])
        parts.straight = parts.straight and not name.startswith("multi_modal_projector.linear_2")
        shards.add(name, tensor)
    return parts


def _add_tower(parts: _Parts, vision: Path) -> Mapping[str, Any]:
    """The CLIP tower, from the folder given or from the checkpoint, and its configuration."""
    inside = any(name.startswith("vision_tower.") for name in (*parts.shards.written, *parts.shards._waiting))
    config = read_config(vision)
    tower = config.get("vision_config", config)
    if inside:
        return dict(tower)
    files = sorted(vision.glob("*.safetensors"))
    if not files:
        raise WeightsUnavailable(f"{vision} holds no safetensors weights")
    for name, tensor in _tensors(files):
        if name.startswith("vision_model.") and not DROPPED.fullmatch(name):
            parts.shards.add(f"vision_tower.{name}", tensor.to(parts.dtype))
    return dict(tower)


def _check_parts(parts: _Parts, source: Path) -> None:
    needed = {"label": 4, "prompt": 10, "sam": 1}
    for part, count in needed.items():
        if len(parts.small[part]) < count:
            raise WeightsCorrupt(
                f"{source} has {len(parts.small[part])} tensors of the part {part!r}, {count} or more are needed: "
                "is it a SIDA checkpoint?"
            )


def _finish_model(parts: _Parts) -> None:
    if parts.straight:
        eye = torch.eye(parts.width, dtype=parts.dtype)
        parts.shards.add("multi_modal_projector.linear_2.weight", eye)
        parts.shards.add("multi_modal_projector.linear_2.bias", eye.new_zeros(parts.width))
    parts.shards.finish()


def _configure(
    out: Path, config: Mapping[str, Any], tower: Mapping[str, Any], *, rows: int, image: int, straight: bool
) -> None:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    kept = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "max_position_embeddings", "rms_norm_eps", "hidden_act", "bos_token_id", "eos_token_id", "pad_token_id",
    )  # fmt: skip
    text = LlamaConfig(vocab_size=rows, **{key: config[key] for key in kept if config.get(key) is not None})
    known = set(CLIPVisionConfig().to_dict()) - {"model_type", "transformers_version"}
    vision: Any = CLIPVisionConfig(**{key: value for key, value in tower.items() if key in known})
    side = vision.image_size // vision.patch_size
    LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=image,
        projector_hidden_act="linear" if straight else "gelu",
        vision_feature_layer=int(config.get("mm_vision_select_layer", -2)),
        vision_feature_select_strategy="default",
        image_seq_length=side * side,
        architectures=["LlavaForConditionalGeneration"],
    ).save_pretrained(out)


def _processor(tokenizer: Any, tower: Mapping[str, Any]) -> Any:
    from transformers import CLIPImageProcessor, LlavaProcessor

    side = int(tower.get("image_size", 224))
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer=tokenizer,
        patch_size=int(tower.get("patch_size", 14)),
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
