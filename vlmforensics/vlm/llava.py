"""Any LLaVA-family checkpoint as a ``Backbone``: labels from the probabilities of label words, streamed text."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vlmforensics import weights
from vlmforensics.errors import AdapterMismatch, Defect, ModelError, WeightsCorrupt
from vlmforensics.imaging import resize
from vlmforensics.settings import Settings
from vlmforensics.types import Pixels
from vlmforensics.vlm.adapters import base_of_adapter, check_base, load_adapter
from vlmforensics.vlm.base import LABEL_HEAD, LABEL_WORDS, SEG, TEXT, YES_NO, Look
from vlmforensics.vlm.checkpoint import end_ids, load_checkpoint, out_of_memory
from vlmforensics.vlm.devices import pick_device, use_threads
from vlmforensics.vlm.families import family_of
from vlmforensics.vlm.heads import Heads, extend_vocabulary, resize_vocabulary
from vlmforensics.vlm.memory import free_bytes, parameter_count, plan
from vlmforensics.vlm.profiles import PROFILES, Profile, profile_of, read_note
from vlmforensics.vlm.prompts import clean_hints, defuse, user_turn
from vlmforensics.vlm.reader import Read, Reader
from vlmforensics.vlm.speech import Prefill, Speech, common
from vlmforensics.vlm.yes_no import ask, first_tokens, log_odds

__all__ = ["PROFILES", "LlavaBackbone", "Prefill", "base_of_adapter"]

log = logging.getLogger(__name__)
SIDE_BY_SIDE = 4
"""Pictures in one prefill; at 7B each takes a third of a gigabyte for its keys and values."""


class LlavaBackbone(Speech):
    """See ``vlm.base.Backbone``.

    Args:
        model: an image-text-to-text model with a linear key-value cache, eval mode.
        processor: its processor.
        profile: how it is asked.
        device: where the model is.
        name: for the record.
        weights_sha256: of checkpoint and adapter.
        square: the picture is squashed to the tower's square where the profile wants all of it seen.
        number_format: of the weights in memory, for the record.
    """

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
        square: bool = True,
        number_format: str = "float32",
    ) -> None:
        self.model, self.processor, self.profile = model, processor, profile
        self.tokenizer = processor.tokenizer
        self.tokenizer.padding_side = "left"
        self.device, self.name, self.weights_sha256 = device, name, weights_sha256
        self.version = f"1+{number_format}"
        self.lock = threading.RLock()
        self.reader = Reader(model)
        self.adapter: Path | None = None
        self._square = square
        self._adapted: Any = None
        self._era = object()  # looks of before an adapter was changed can't be narrated from
        self._bare = (name, weights_sha256, profile)
        self._folder: Path | None = None
        self._settings: Settings | None = None
        config = model.config
        self._image_id = int(config.image_token_id)
        image = self.tokenizer.convert_ids_to_tokens(self._image_id)
        if self.tokenizer.encode(image, add_special_tokens=False) != [self._image_id]:
            raise WeightsCorrupt(f"the tokenizer of {name} does not know {image} as one token")
        self._image = str(image)
        self._context = int(getattr(config.get_text_config(), "max_position_embeddings", 4096))
        self._rows = int(model.get_input_embeddings().weight.shape[0])
        self.heads: Heads | None = None
        self.mask_heads: Path | None = None
        self._bare_heads: Heads | None = None
        self._bare_masks: Path | None = None
        self._ends = end_ids(model, self.tokenizer)
        self._learn_tokens()

    def _learn_tokens(self) -> None:
        """Which tokens nobody may write and the model may not say."""
        special = {str(token) for token in self.tokenizer.all_special_tokens} | {self._image}
        self._control = tuple(sorted(special, key=len, reverse=True))
        rows = int(self.model.get_input_embeddings().weight.shape[0])
        # a token of an adapter that is gone has no row any more
        self._banned = tuple(i for i in {*self.tokenizer.all_special_ids, self._image_id} if i < rows)

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
            ModelError: it does not fit into memory, or is of no family with a loader.
        """
        device = pick_device(settings)
        use_threads(settings)
        family = family_of(folder)
        how = plan(
            parameter_count(folder),
            device,
            free_bytes(device),
            quantize=(settings or Settings()).quantize,
            beside=free_bytes(torch.device("cpu")),
        )
        if how.spill:
            log.warning("%s does not fit on %s: part of it stays in memory and is slow", name, device)
        if adapter is not None:
            check_base(adapter, folder, settings)
        model, processor = load_checkpoint(folder, device, how)
        made = cls(
            model,
            processor,
            profile=profile or profile_of(folder),
            device=device,
            name=name,
            weights_sha256=weights.folder_digest(folder, settings),
            square=family.square,
            number_format=how.label,
        )
        made._folder, made._settings = folder, settings
        made._take_heads(folder)
        if adapter is not None:
            made.use_adapter(adapter)
        return made

    def rename(self, name: str, weights_sha256: str) -> None:
        """Set name and digest of the base, for a subclass that reads more weights."""
        self.name, self.weights_sha256 = name, weights_sha256
        self._bare = (name, weights_sha256, self._bare[2])

    def use_adapter(self, adapter: Path | None) -> None:
        """Put another adapter over the base, or none, without reading the base again.

        The name becomes ``BASE+ADAPTER``, and the way of asking the adapter's own where its note names one. Looks
        taken before can't be narrated from after. An adapter that is refused leaves everything as it was.

        Raises:
            AdapterMismatch: it was trained on another base, or its keys or shapes don't fit.
        """
        if adapter is not None and self._folder is not None:
            check_base(adapter, self._folder, self._settings)
        name, digest, profile = self._bare
        with self.lock:
            old = self.adapter
            self._strip()
            try:
                if adapter is not None:
                    self._put_on(adapter)
                    name = f"{name}+{adapter.name}"
                    profile = profile_of(adapter, profile)
                    digest = weights.combine(digest, *self._digests(adapter))
            except (AdapterMismatch, WeightsCorrupt):
                self._strip()
                if old is not None:
                    self._put_on(old)
                raise
            self.name, self.weights_sha256, self.profile = name, digest, profile
            self._era = object()

    def _take_heads(self, folder: Path) -> None:
        """Heads that lie in the checkpoint's own folder, as training exports them."""
        width = int(self.model.config.get_text_config().hidden_size)
        self._bare_heads = Heads.load(folder, read_note(folder), width)
        if self._bare_heads is None:
            return
        self._bare_heads.label.to(self.device)
        self._bare_masks = self._bare_heads.masks
        self._strip()
        if self._bare_masks is not None:
            masks = weights.folder_digest(self._bare_masks, self._settings)
            self.rename(self.name, weights.combine(self.weights_sha256, masks))

    def _put_on(self, adapter: Path) -> None:
        """Adapter and heads over the bare model; new rows of the vocabulary where the heads need them."""
        width = int(self.model.config.get_text_config().hidden_size)
        heads = Heads.load(adapter, read_note(adapter), width)
        if heads is not None:
            extend_vocabulary(self.model, self.tokenizer, (heads.cls, heads.seg))
            heads.label.to(self.device)
            self.capabilities = frozenset({LABEL_HEAD, SEG, TEXT, YES_NO})
            self.heads, self.mask_heads = heads, heads.masks
        self._adapted = load_adapter(self.model, adapter)
        self.model.requires_grad_(False)
        self.adapter = adapter
        self._learn_tokens()

    def _strip(self) -> None:
        """The bare model again, to the last number."""
        if self._adapted is not None:
            self._adapted.unload()
        if int(self.model.get_input_embeddings().weight.shape[0]) != self._rows:
            resize_vocabulary(self.model, self._rows)
        self._adapted, self.adapter = None, None
        self.heads, self.mask_heads = self._bare_heads, self._bare_masks
        with_heads = frozenset({LABEL_HEAD, SEG, TEXT, YES_NO})
        self.capabilities = with_heads if self.heads is not None else type(self).capabilities
        self._learn_tokens()

    def _digests(self, adapter: Path) -> list[str]:
        """Of the adapter's files, and of the mask head in it."""
        folders = [adapter, *([self.mask_heads] if self.mask_heads is not None else [])]
        return [weights.folder_digest(folder, self._settings) for folder in folders]

    def look(self, pixels: Pixels, hints: Sequence[str] = (), *, for_text: bool = True) -> Look:
        """Prefill picture, question and the answer's beginning; score the label words. See ``Backbone.look``."""
        return self._look([pixels], [hints], for_text=for_text)[0]

    def look_many(
        self, batch: Sequence[Pixels], hints: Sequence[Sequence[str]], *, for_text: bool = False
    ) -> list[Look]:
        """Several pictures in one prefill where no text will follow. See ``Backbone.look_many``."""
        if len(batch) != len(hints):
            raise Defect(f"{len(batch)} pictures with {len(hints)} lists of hints")
        step = 1 if for_text else SIDE_BY_SIDE
        looks: list[Look] = []
        for start in range(0, len(batch), step):
            some, said = batch[start : start + step], hints[start : start + step]
            try:
                looks += self._look(some, said, for_text=for_text)
            except ModelError as error:
                if error.code != "model.memory" or len(some) == 1:
                    raise
                log.warning("%d pictures at once do not fit: taken one by one", len(some))
                looks += [self.look(p, h, for_text=for_text) for p, h in zip(some, said, strict=True)]
        return looks

    def _look(self, batch: Sequence[Pixels], hints: Sequence[Sequence[str]], *, for_text: bool) -> list[Look]:
        asked = [self._asked(said) for said in hints]
        texts = [self._prompt(question) + self._join(self.profile.prefix) for question in asked]
        inputs = self._inputs(batch, texts)
        self._check_length(inputs)
        if self.heads is not None:
            return self._look_with(self.heads, inputs, asked, for_text=for_text)
        with self.lock, torch.inference_mode(), self._memory():
            scores, read = self._score(inputs, texts)
        ids = [int(i) for i in inputs["input_ids"][0]]
        state = Prefill(ids, read, asked[0], self._era) if for_text else None
        remark = self._remark(state) if state is not None and self.profile.remark else ""
        return [Look(self.profile.log_probs(found), state=state, remark=remark) for found in scores]

    def _look_with(
        self, heads: Heads, inputs: dict[str, torch.Tensor], asked: Sequence[str], *, for_text: bool
    ) -> list[Look]:
        """Labels and mask prompt from the states at the adapter's tokens."""
        marks = [int(self.tokenizer.convert_tokens_to_ids(mark)) for mark in (heads.cls, heads.seg)]
        with self.lock, torch.inference_mode(), self._memory():
            read = self.reader.prefill(inputs, marks=marks, layer=heads.layer)
            scores = heads.label.log_probs(read.marked[0].float()).tolist()
            prompts = read.marked[1].float().cpu().numpy()
        ids = [int(i) for i in inputs["input_ids"][0]]
        state = Prefill(ids, read, asked[0], self._era) if for_text else None
        return [
            Look((real, synthetic, tampered), seg=seg, state=state)
            for (real, synthetic, tampered), seg in zip(scores, prompts, strict=True)
        ]

    def _remark(self, state: Prefill) -> str:
        """The model's own answer from the forced beginning on, greedily: verdict sentence and explanation."""
        kept = len(state.ids) - 1
        room = max(1, min(self.profile.remark, self._context - len(state.ids)))
        said = "".join(self._continue(state, kept, state.ids[kept:], state.ids, room, None))
        return f"{self.profile.prefix}{said}"

    def _check_length(self, inputs: Mapping[str, torch.Tensor]) -> None:
        longest = int(inputs["attention_mask"].sum(-1).max())
        if longest > self._context:
            raise ModelError(f"the prompt has {longest} tokens, {self.name} takes {self._context}")

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """What torch says when memory runs out, as a sentence with figures."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise out_of_memory(self.device) from error

    def _asked(self, hints: Sequence[str]) -> str:
        return " ".join([self.profile.question, *(clean_hints(hints) if self.profile.hints else ())])

    def _inputs(self, batch: Sequence[Pixels], texts: Sequence[str]) -> dict[str, torch.Tensor]:
        inputs = self.processor(
            images=[self._fit(pixels) for pixels in batch],
            text=list(texts),
            padding=True,
            return_tensors="pt",
        )
        moved = {key: value.to(self.device) for key, value in inputs.items()}
        moved["pixel_values"] = moved["pixel_values"].to(self._dtype)
        return moved

    def yes_no(self, pixels: Pixels, questions: Sequence[str]) -> list[float]:
        """See ``AnswersYesNo.yes_no``; what the questions' prompts share, the picture above all, is read once."""
        read: Read | None = None
        known, found = list[int](), list[float]()
        for question in questions:
            text = self._prompt(ask(question))
            yes, no = first_tokens(self._encode, text)
            inputs = self._inputs([pixels], [text])
            self._check_length(inputs)
            ids = [int(i) for i in inputs["input_ids"][0]]
            kept = min(common(known, ids), len(ids) - 1)
            with self.lock, torch.inference_mode(), self._memory():
                if read is None or self._image_id in ids[kept:]:
                    read = self.reader.prefill(inputs)
                else:
                    read = self.reader.feed(self.reader.forget(read, len(known) - kept), ids[kept:])
            known = ids
            found.append(log_odds(read.logits[0, -1].cpu(), yes, no))
        return found

    def _fit(self, pixels: Pixels) -> Pixels:
        """The picture squashed to the tower's square where the profile wants all of it seen."""
        side = getattr(getattr(self.model.config, "vision_config", None), "image_size", None)
        if not (self._square and self.profile.whole and isinstance(side, int)):
            return pixels
        return resize(pixels, side, side, resample="bicubic")

    def _prompt(self, text: str) -> str:
        """The user's turn with the heads' tokens at its end, and the reply's start; ``text`` forges no token."""
        marks = self.heads.cls + self.heads.seg if self.heads is not None else ""
        if template := self.profile.template:
            return template.replace("{image}", self._image).replace(
                "{text}", defuse(text, self._control) + marks
            )
        return user_turn(self.processor, text, image=self._image, control=self._control, raw=self.profile.raw, marks=marks)  # fmt: skip  # noqa: E501

    def _join(self, prefix: str) -> str:
        """The forced beginning of the reply as it stands after the prompt."""
        return defuse(f" {prefix}" if prefix else "", self._control)

    def _score(self, inputs: dict[str, Any], texts: Sequence[str]) -> tuple[list[Mapping[str, float]], Read]:
        """Log-probability of each label word after each prompt, and what was read of the prompts.

        Tokenizers differ in how a word meets the text before it, so whole texts are encoded, and what differs from
        the prompt's encoding is scored. The prompts end alike, so the words' tokens are the same for all.
        """
        plain = self._encode(texts[0])
        tails = {word: self._encode(texts[0] + word) for word in self.profile.words}
        shared = min(common(plain, tail) for tail in tails.values())
        tails = {word: tail[shared:] for word, tail in tails.items()}
        again = len(plain) - shared  # tokens at the prompt's end that a word may change
        read = self.reader.prefill(inputs, keep=again + 1)
        first = torch.log_softmax(read.logits[:, 0], -1)
        scores: list[dict[str, float]] = [{} for _ in texts]
        dropped = False
        for word, tail in tails.items():
            if not tail:
                raise ModelError(f"the tokenizer of {self.name} swallows the label word {word!r}")
            found = first[:, tail[0]]
            if len(tail) > 1:
                read = read if dropped else self.reader.forget(read, again)
                dropped, fed = True, tail[:-1]
                read = self.reader.feed(read, fed, keep=len(fed))
                rows = torch.log_softmax(read.logits, -1)
                found = found + sum(rows[:, i, token] for i, token in enumerate(tail[1:]))
                read = self.reader.forget(read, len(fed))
            for row, value in zip(scores, found.tolist(), strict=True):
                row[word] = value
        if dropped and again:
            read = self.reader.feed(read, plain[shared:])
        return list(scores), read
