"""The label path: tower features → projector → prompt embeddings → first decoder layers → label head.

Training and inference run this same code. Those layers are a view of the language model, not a copy: an
adapter put on the model is seen here.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from vlmforensics.compact import layout
from vlmforensics.compact.tokens import Tokens
from vlmforensics.errors import Defect

_trunks: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def core_of(model: Any) -> Any:
    """The ``LlavaForConditionalGeneration`` itself, whether or not peft is wrapped around it."""
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if unwrap is not None else model


def trunk_of(model: Any) -> Any:
    """The first ``CLS_LAYER`` layers of the language model as a model that shares their modules.

    Its ``last_hidden_state`` is ``hidden_states[CLS_LAYER]`` of the whole model: its final norm is the
    identity.
    """
    language = core_of(model).model.language_model
    trunk = _trunks.get(language)
    if trunk is None:
        config = copy.deepcopy(language.config)
        config.num_hidden_layers = layout.CLS_LAYER
        with torch.device("meta"):
            trunk = type(language)(config)
        trunk.embed_tokens = None  # embeddings are always handed over
        trunk.layers = nn.ModuleList(language.layers[: layout.CLS_LAYER])
        trunk.rotary_emb = language.rotary_emb
        trunk.norm = nn.Identity()
        _trunks[language] = trunk
    trunk.train(language.training)
    return trunk


def embed(
    model: Any,
    patch_features: torch.Tensor,
    prompt_ids: torch.Tensor,
    supplement: tuple[int, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Prompt embeddings with the projected picture in place of ``<image>``, merged as the stock model does.

    Args:
        model: the LLaVA, wrapped by peft or not.
        patch_features: float (B, 256, 1536), see ``Tower.concatenated``.
        prompt_ids: int64 (B, T) with 256 ``<image>`` tokens in each row.
        supplement: id of ``[CLS]``, and what is added to its embedding in each row, float (B, 576), see
            ``heads.ReadingProjector``.

    Returns:
        float (B, T, 576).
    """
    core = core_of(model)
    embeddings = core.get_input_embeddings()(prompt_ids)
    picture = core.model.multi_modal_projector(patch_features.to(embeddings.dtype))
    places = core.model.get_placeholder_mask(prompt_ids, inputs_embeds=embeddings, image_features=picture)
    merged: torch.Tensor = embeddings.masked_scatter(places, picture)
    if supplement is None:
        return merged
    token, added = supplement
    return merged + (prompt_ids == token)[..., None] * added[:, None].to(merged.dtype)


def trunk_states(model: Any, embeddings: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Hidden states after ``CLS_LAYER`` layers: float (B, T, 576).

    Args:
        model: the LLaVA.
        embeddings: float (B, T, 576).
        attention_mask: int64 (B, T), 1 = token, 0 = padding on either side; None where nothing precedes a
            row's tokens (padding on the right can't be seen by a causal model).
    """
    positions = None
    if attention_mask is not None:
        positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    output = trunk_of(model)(
        inputs_embeds=embeddings, attention_mask=attention_mask, position_ids=positions, use_cache=False
    )
    states: torch.Tensor = output.last_hidden_state
    return states


def state_at(states: torch.Tensor, prompt_ids: torch.Tensor, token: int) -> torch.Tensor:
    """The hidden state (B, 576) at the one place where each row of ``prompt_ids`` holds ``token``."""
    places = prompt_ids == token
    if not bool((places.sum(-1) == 1).all()):
        raise Defect("each prompt must hold the token that a head reads exactly once")
    return states[places]


def label_logits(
    model: Any,
    head: nn.Module,
    patch_features: torch.Tensor,
    prompt_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    cls_id: int,
    supplement: torch.Tensor | None = None,
) -> torch.Tensor:
    """Label logits (B, 3) from cached tower features; differentiable but for the tower.

    Args:
        model: the LLaVA, wrapped by peft or not.
        head: a ``LabelHead``.
        patch_features: float (B, 256, 1536), see ``Tower.concatenated``.
        prompt_ids: int64 (B, T), see ``pad_prompts`` and ``Tokens.look``.
        attention_mask: int64 (B, T), or None where the padding is on the right.
        cls_id: id of ``[CLS]``.
        supplement: added to its embedding, float (B, 576); see ``embed``.
    """
    added = None if supplement is None else (cls_id, supplement)
    states = trunk_states(model, embed(model, patch_features, prompt_ids, added), attention_mask)
    logits: torch.Tensor = head(state_at(states, prompt_ids, cls_id))
    return logits


def pad_prompts(prompts: Sequence[Sequence[int]], tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of different lengths as (ids, attention mask), both int64 (B, T), padded on the right."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), tokens.pad, dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt, dtype=torch.long)
        mask[row, : len(prompt)] = 1
    return ids, mask
