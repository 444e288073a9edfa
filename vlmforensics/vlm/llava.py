"""Any LLaVA-family checkpoint as a ``Backbone``: labels from the probabilities of label words, streamed text."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlmforensics import weights
from vlmforensics.errors import AdapterMismatch, Defect, ModelError, WeightsCorrupt
from vlmforensics.imaging import resize
from vlmforensics.settings import Settings
from vlmforensics.types import Pixels
from vlmforensics.vlm.adapters import load_adapter
from vlmforensics.vlm.base import LABEL_WORDS, TEXT, YES_NO, Look
from vlmforensics.vlm.decoding import PieceDecoder, split_prefix, stream_greedily, without_leading
from vlmforensics.vlm.devices import pick_device, use_threads
from vlmforensics.vlm.memory import free_bytes, parameter_count, plan
from vlmforensics.vlm.profiles import PROFILES, Profile, profile_of
from vlmforensics.vlm.prompts import clean_hints, defuse, user_turn
from vlmforensics.vlm.quiet import quiet_transformers
from vlmforensics.vlm.yes_no import ask, first_tokens, log_odds

__all__ = ["PROFILES", "LlavaBackbone", "base_of_adapter"]

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Prefill:
    """What a narration continues from: the prompt's ids, its keys and values, the question, and the owner."""

    ids: list[int]
    cache: Any
    asked: str
    owner: object


class LlavaBackbone:
    """See ``vlm.base.Backbone``.

    Args:
        model: an image-text-to-text model with a linear key-value cache, eval mode.
        processor: its processor.
        profile: how it is asked.
        device: where the model is.
        name: for the record.
        weights_sha256: of checkpoint and adapter.
    """

    version = "1"
    capabilities = frozenset({LABEL_WORDS, TEXT, YES_NO})

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        profile: Profile,
        device: torch.device,
        name: str,
        weights_sha256: str,
    ) -> None:
        self.model, self.processor, self.profile = model, processor, profile
        self.tokenizer = processor.tokenizer
        self.device, self.name, self.weights_sha256 = device, name, weights_sha256
        self.lock = threading.RLock()
        config = model.config
        self._image_id = int(config.image_token_id)
        image = self.tokenizer.convert_ids_to_tokens(self._image_id)
        if self.tokenizer.encode(image, add_special_tokens=False) != [self._image_id]:
            raise WeightsCorrupt(f"the tokenizer of {name} does not know {image} as one token")
        self._image = str(image)
        self._context = int(getattr(config.get_text_config(), "max_position_embeddings", 4096))
        special = {str(token) for token in self.tokenizer.all_special_tokens} | {self._image}
        self._control = tuple(sorted(special, key=len, reverse=True))
        self._banned = tuple({*self.tokenizer.all_special_ids, self._image_id})
        self._ends = _end_ids(model, self.tokenizer)

    @classmethod
    def load(
        cls,
        folder: Path,
        settings: Settings | None = None,
        *,
        name: str,
        profile: Profile | None = None,
        adapter: Path | None = None,
    ) -> LlavaBackbone:
        """Load a checkpoint folder, and an adapter over it; never runs code from the folder.

        Raises:
            WeightsUnavailable, WeightsCorrupt, AdapterMismatch: files missing, broken or not fitting.
            ModelError: it does not fit into memory, or is no picture-and-text model.
        """
        device = pick_device(settings)
        use_threads(settings)
        how = plan(parameter_count(folder), device, free_bytes(device))
        model, processor = _load_folder(folder, device, how.arguments(device))
        if not how.four_bit:
            model.to(device)
        digest = weights.folder_digest(folder, settings)
        if adapter is not None:
            model = load_adapter(model, adapter)
            digest = weights.combine(digest, weights.folder_digest(adapter, settings))
        model.eval().requires_grad_(False)
        found = profile or profile_of(adapter or folder)
        return cls(model, processor, profile=found, device=device, name=name, weights_sha256=digest)

    def look(self, pixels: Pixels, hints: Sequence[str] = (), *, for_text: bool = True) -> Look:
        """Prefill picture, question and the answer's beginning; score the label words. See ``Backbone.look``."""
        asked = self.profile.question
        if self.profile.hints:
            asked = " ".join([asked, *clean_hints(hints)])
        text = self._prompt(asked) + self._join(self.profile.prefix)
        inputs = self.processor(images=[self._fit(pixels)], text=[text], return_tensors="pt")
        inputs = {key: value.to(self.device) for key, value in inputs.items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(self._dtype)
        ids = [int(i) for i in inputs["input_ids"][0]]
        if len(ids) > self._context:
            raise ModelError(f"the prompt has {len(ids)} tokens, {self.name} takes {self._context}")
        with self.lock, torch.inference_mode():
            scores, cache = self._score(inputs, text)
        state = _Prefill(ids, cache, asked, self) if for_text else None
        return Look(self.profile.log_probs(scores), state=state)

    def look_many(
        self, batch: Sequence[Pixels], hints: Sequence[Sequence[str]], *, for_text: bool = False
    ) -> list[Look]:
        """One prefill per picture: at 7B a picture fills the processor by itself. See ``Backbone.look_many``."""
        return [self.look(pixels, said, for_text=for_text) for pixels, said in zip(batch, hints, strict=True)]

    def narrate(
        self,
        look: Look,
        instruction: str,
        *,
        prefix: str = "",
        max_new_tokens: int = 160,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[str]:
        """Stream a reply to the look's picture and question plus ``instruction``; see ``Backbone.narrate``.

        The part of the prompt that the look has already read is taken from its cache.
        """
        state = look.state
        if not isinstance(state, _Prefill) or state.owner is not self:
            raise Defect("narrate needs a look of this backbone made with for_text=True")
        bare, spaces = split_prefix(prefix)
        ids = self._fitting(state, instruction, bare, max_new_tokens)
        kept = _common(state.ids, ids)
        if self._image_id in ids[kept:]:
            raise Defect("the prompt of the narration does not begin like the look's")
        cache = copy.deepcopy(state.cache)
        _drop(cache, len(state.ids) - kept)

        def step(fed: Sequence[int]) -> torch.Tensor:
            with self.lock, torch.inference_mode():
                return self._next(list(fed), cache)[-1]

        room = max(1, min(max_new_tokens, self._context - len(ids)))
        pieces = stream_greedily(
            step,
            ids[kept:],
            PieceDecoder(self.tokenizer, ids[-6:]),
            ends=self._ends,
            banned=self._banned,
            max_new_tokens=room,
            stop=stop,
        )
        return without_leading(pieces, spaces or ("" if bare else " "))

    def yes_no(self, pixels: Pixels, questions: Sequence[str]) -> list[float]:
        """See ``AnswersYesNo.yes_no``; what the questions' prompts share, the picture above all, is read once."""
        from transformers import DynamicCache

        picture = self._fit(pixels)
        cache: Any = None
        known: list[int] = []
        found: list[float] = []
        for question in questions:
            text = self._prompt(ask(question))
            yes, no = first_tokens(self._encode, text)
            inputs = self.processor(images=[picture], text=[text], return_tensors="pt")
            ids = [int(i) for i in inputs["input_ids"][0]]
            if len(ids) > self._context:
                raise ModelError(f"the prompt has {len(ids)} tokens, {self.name} takes {self._context}")
            kept = min(_common(known, ids), len(ids) - 1)
            with self.lock, torch.inference_mode():
                if cache is None or self._image_id in ids[kept:]:
                    cache = DynamicCache(config=self.model.config.get_text_config())
                    given = {key: value.to(self.device) for key, value in inputs.items()}
                    given["pixel_values"] = given["pixel_values"].to(self._dtype)
                    output = self.model(**given, past_key_values=cache, use_cache=True, logits_to_keep=1)
                    logits = output.logits[0, -1].float().cpu()
                else:
                    _drop(cache, len(known) - kept)
                    logits = self._next(ids[kept:], cache)[-1]
            known = ids
            found.append(log_odds(logits, yes, no))
        return found

    @property
    def _dtype(self) -> torch.dtype:
        found: torch.dtype = next(p.dtype for p in self.model.parameters() if p.dtype.is_floating_point)
        return found

    def _fit(self, pixels: Pixels) -> Pixels:
        """The picture squashed to the tower's square where the profile wants all of it seen."""
        vision = getattr(self.model.config, "vision_config", None)
        side = getattr(vision, "image_size", None)
        if not self.profile.whole or not isinstance(side, int):
            return pixels
        return resize(pixels, side, side, resample="bicubic")

    def _prompt(self, text: str) -> str:
        """The whole user's turn and the start of the reply; ``text`` can't forge a control token."""
        return user_turn(self.processor, text, image=self._image, control=self._control, raw=self.profile.raw)

    def _join(self, prefix: str) -> str:
        """The forced beginning of the reply as it stands after the prompt."""
        return defuse(f" {prefix}" if prefix else "", self._control)

    def _score(self, inputs: dict[str, Any], text: str) -> tuple[dict[str, float], Any]:
        """Log-probability of each label word after the prompt, and the prompt's cache.

        Tokenizers differ in how a word meets the text before it, so whole texts are encoded, and what differs from
        the prompt's encoding is scored.
        """
        from transformers import DynamicCache

        plain = self._encode(text)
        tails = {word: self._encode(text + word) for word in self.profile.words}
        shared = min(_common(plain, tail) for tail in tails.values())
        tails = {word: tail[shared:] for word, tail in tails.items()}
        again = len(plain) - shared  # tokens at the prompt's end that a word may change
        cache = DynamicCache(config=self.model.config.get_text_config())
        output = self.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=again + 1)
        first = torch.log_softmax(output.logits[0, 0].float(), -1)
        scores = {}
        for word, tail in tails.items():
            if not tail:
                raise ModelError(f"the tokenizer of {self.name} swallows the label word {word!r}")
            score = float(first[tail[0]])
            if len(tail) > 1:
                trial = copy.deepcopy(cache)
                _drop(trial, again)
                rows = torch.log_softmax(self._next(tail[:-1], trial, keep=len(tail) - 1), -1)
                score += sum(float(rows[i, token]) for i, token in enumerate(tail[1:]))
            scores[word] = score
        return scores, cache

    def _next(self, ids: list[int], cache: Any, keep: int = 1) -> torch.Tensor:
        """Feed ``ids`` after what ``cache`` holds; float32 logits (keep, V) on the CPU."""
        fed = torch.tensor([ids], device=self.device)
        output = self.model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=keep)
        logits: torch.Tensor = output.logits[0].float().cpu()
        return logits

    def _encode(self, text: str) -> list[int]:
        """Ids of a prompt whose picture is still one token."""
        return [int(i) for i in self.tokenizer(text)["input_ids"]]

    def _fitting(self, state: _Prefill, instruction: str, prefix: str, max_new_tokens: int) -> list[int]:
        """Ids of the narration's prompt; the middle of an over-long instruction gives way."""
        pictures = state.ids.count(self._image_id)
        room = self._context - min(max_new_tokens, self._context // 4)
        text = instruction
        while True:
            plain = self._encode(self._prompt(f"{state.asked}\n{text}") + self._join(prefix))
            ids: list[int] = []
            for i in plain:
                ids += [i] * (pictures if i == self._image_id else 1)
            over = len(ids) - room
            if over <= 0:
                return ids
            if len(text) < 20:
                raise ModelError(
                    f"the context of {self.name} ({self._context} tokens) is too small to narrate"
                )
            keep = max(10, min(len(text) - 10, int(len(text) * (1 - over / len(plain))) - 8)) // 2
            log.debug("instruction of %d characters shortened to %d", len(text), 2 * keep)
            text = f"{text[:keep]} … {text[-keep:]}" if keep > 10 else text[:10]


def base_of_adapter(folder: Path) -> str:
    """What a peft adapter folder names as its base model.

    Raises:
        AdapterMismatch: its configuration can't be read.
    """
    import json

    try:
        found = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))[
            "base_model_name_or_path"
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterMismatch(
            f"{folder} holds no readable adapter_config.json with its base model"
        ) from error
    return str(found)


def _load_folder(folder: Path, device: torch.device, arguments: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with quiet_transformers():
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **arguments,
            )
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
    log.debug("%s loaded on %s", folder, device)
    return model, processor


def _end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    stated = model.generation_config.eos_token_id
    ends = stated if isinstance(stated, list) else [stated]
    return tuple({int(i) for i in [*ends, tokenizer.eos_token_id] if i is not None})


def _drop(cache: Any, count: int) -> None:
    """Forget the last ``count`` tokens."""
    if count:
        cache.crop(-count)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
