"""Sentence embeddings for CSS: mean of a language model's last hidden states over the text's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmforensics.errors import SettingsError
from vlmforensics.eval.metrics import Encoder
from vlmforensics.settings import load_settings

COMPACT = "compact"
LONGEST = 512
"""Tokens that are read of a text."""


def load_encoder(name: str) -> Encoder:
    """An encoder by name.

    Args:
        name: ``compact`` takes the compact model's language model, which needs nothing more but was not made to embed
            (all its similarities are high, so only differences between models mean anything); a folder takes an encoder
            in transformers' layout, e.g. one of sentence-transformers with mean pooling.

    Raises:
        SettingsError: no such folder, or it holds no such model.
    """
    import torch

    if name == COMPACT:
        from vlmforensics.compact.assembly import build_base
        from vlmforensics.compact.forward import core_of

        parts = build_base(load_settings())
        return _mean_pooled(core_of(parts.model).model.language_model, parts.tokenizer, parts.device)
    if not Path(name).is_dir():
        raise SettingsError(
            f"there is no encoder {name!r}: give compact, or a folder with a transformers encoder"
        )
    from transformers import AutoModel, AutoTokenizer

    try:
        model = AutoModel.from_pretrained(name, local_files_only=True, use_safetensors=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{name} holds no encoder that can be loaded: {error}") from error
    return _mean_pooled(model, tokenizer, torch.device("cpu"))


def _mean_pooled(model: Any, tokenizer: Any, device: Any) -> Encoder:
    import torch

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        rows = []
        for text in texts:
            ids = tokenizer(text, truncation=True, max_length=LONGEST, return_tensors="pt")["input_ids"].to(
                device
            )
            with torch.inference_mode():
                states = model(input_ids=ids).last_hidden_state[0]
            rows.append(states.float().mean(0).cpu().numpy())
        return np.stack(rows).astype(np.float32)

    return encode
