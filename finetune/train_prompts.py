"""From a sample to token ids and the ones that are learned: the same words, in the same places, as inference asks.

Only the answer (and the end of the turn) is learned; the picture's placeholders, the question, the detectors' sentences
and the marks are masked. An answer too long for the recipe is cut and then has no end to learn; a prompt too long is an
error, for cutting it would cut the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vlmforensics.compact.tokens import Tokens
from vlmforensics.errors import SettingsError
from vlmforensics.finetune.hints import kept_hints
from vlmforensics.finetune.recipe import Prompt
from vlmforensics.finetune.samples import Sample
from vlmforensics.types import Label
from vlmforensics.vlm.profiles import PROFILES, Profile
from vlmforensics.vlm.prompts import QUESTION, clean_hints, defuse, user_turn

IGNORED = -100
"""Label of a token that is not learned, as torch's cross-entropy has it."""
CLS, SEG = "[CLS]", "[SEG]"
EXPLAIN = "Explain in plain words what speaks for and against it."
"""What the compact model is asked after its fixed question where a sample asks nothing else."""


@dataclass(frozen=True)
class Encoded:
    """One sample as ids, with ``labels`` that are ``IGNORED`` outside the answer."""

    ids: list[int]
    labels: list[int]


class Turns(Protocol):
    """Words one sample for one family of models."""

    @property
    def pad(self) -> int:
        """Id of the padding token."""
        ...

    def split(self, asked: str, hints: Sequence[str], answer: str) -> tuple[list[int], list[int]]:
        """Ids of the prompt, placeholders included, and of the answer with its end."""
        ...


@dataclass(frozen=True, eq=False)
class LlavaTurns:
    """LLaVA-family checkpoints: the chat template (or the raw prompt), then one space and the answer.

    Attributes:
        processor: of the checkpoint.
        profile: how it will be asked.
        image: the image token.
        places: placeholders a picture takes.
        marks: control tokens at the end of the user's turn.
    """

    processor: Any
    profile: Profile
    image: str
    places: int
    marks: str = ""

    @property
    def pad(self) -> int:
        """Id of padding; the end-of-text id where the tokenizer has none."""
        tokenizer = self.processor.tokenizer
        found = tokenizer.pad_token_id
        return int(tokenizer.eos_token_id if found is None else found)

    @property
    def control(self) -> tuple[str, ...]:
        """Control tokens, longest first."""
        names = {str(token) for token in self.processor.tokenizer.all_special_tokens} | {self.image}
        return tuple(sorted(names, key=len, reverse=True))

    def split(self, asked: str, hints: Sequence[str], answer: str) -> tuple[list[int], list[int]]:
        """See ``Turns``; whole texts are encoded, as tokenizers differ in how a word meets the text before it."""
        text = " ".join([asked, *clean_hints(hints)])
        prompt = user_turn(
            self.processor,
            text,
            image=self.image,
            control=self.control,
            raw=self.profile.raw,
            marks=self.marks,
        )
        tokenizer = self.processor.tokenizer
        before = [int(i) for i in tokenizer(prompt)["input_ids"]]
        whole = [int(i) for i in tokenizer(f"{prompt} {defuse(answer, self.control)}")["input_ids"]]
        shared = next((n for n, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
        image = tokenizer.convert_tokens_to_ids(self.image)
        prompt_ids: list[int] = []
        for i in whole[:shared]:
            prompt_ids += [i] * (self.places if i == image else 1)
        return prompt_ids, [*whole[shared:], int(tokenizer.eos_token_id)]


@dataclass(frozen=True, eq=False)
class CompactTurns:
    """The compact model: its look (picture, fixed question, hints, marks), then the sample's question, the reply."""

    tokens: Tokens

    @property
    def pad(self) -> int:
        """Id of padding."""
        return self.tokens.pad

    def split(self, asked: str, hints: Sequence[str], answer: str) -> tuple[list[int], list[int]]:
        """See ``Turns``."""
        instruction = EXPLAIN if asked == QUESTION else asked
        prompt = [*self.tokens.look(clean_hints(hints)), *self.tokens.instruct(instruction, "")]
        return prompt, [*self.tokens.text(answer), self.tokens.turn_end]


def verdict_sentence(profile: Profile, label: Label) -> str:
    """The sentence whose label word is scored in use, such as "This is a fake image"."""
    word = next(word for word, labels in profile.words.items() if label in labels)
    return f"{profile.prefix}{word}{profile.ending}"


def answer_of(sample: Sample, prompt: Prompt) -> str:
    """What is learned: the sample's answer, begun with the verdict where the recipe asks for that."""
    profile = PROFILES[prompt.profile]
    if not prompt.verdict_first or sample.answer.startswith(profile.prefix):
        return sample.answer
    return f"{verdict_sentence(profile, sample.label)} {sample.answer}"


def encode(sample: Sample, turns: Turns, prompt: Prompt, *, seed: int, epoch: int) -> Encoded:
    """Ids and labels of one sample in one epoch.

    Raises:
        SettingsError: the prompt alone exceeds ``prompt.max_length``; names the picture.
    """
    asked = PROFILES[prompt.profile].question if prompt.question == "profile" else sample.prompt
    hints = kept_hints(sample.hints, prompt.hint_dropout, key=sample.sha256, seed=seed, epoch=epoch)
    before, answer = turns.split(asked, hints, answer_of(sample, prompt))
    room = prompt.max_length - len(before)
    if room < 1:
        raise SettingsError(
            f"the prompt of {sample.image} takes {len(before)} tokens with its picture, and max_length is "
            f"{prompt.max_length}: raise prompt.max_length (a picture is never cut)"
        )
    learned = answer[:room]
    return Encoded(before + learned, [IGNORED] * len(before) + learned)
