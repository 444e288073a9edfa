"""From words to token ids, without a way for a word to become a control token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlmforensics.compact import layout
from vlmforensics.errors import WeightsCorrupt
from vlmforensics.vlm.prompts import question_with


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokenizer with the ids that matter, looked up once.

    Attributes:
        tokenizer: the model's.
        image, cls, seg, turn_start, turn_end, pad: ids of single tokens.
        control: ids of every control token.
    """

    tokenizer: Any
    image: int
    cls: int
    seg: int
    turn_start: int
    turn_end: int
    pad: int
    control: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any, image_token_id: int) -> Tokens:
        """Look the ids up.

        Args:
            tokenizer: a tokenizer with the three reserved tokens.
            image_token_id: what the model's configuration calls ``<image>``.

        Raises:
            WeightsCorrupt: a token is not a single one, or tokenizer and model disagree on ``<image>``.
        """
        ids = {}
        names = (layout.IMAGE_TOKEN, layout.CLS_TOKEN, layout.SEG_TOKEN, layout.TURN_START, layout.TURN_END)
        for name in (*names, layout.PAD_TOKEN):
            pieces = tokenizer.encode(name, add_special_tokens=False)
            if len(pieces) != 1 or tokenizer.convert_ids_to_tokens(pieces[0]) != name:
                raise WeightsCorrupt(f"the tokenizer does not know {name} as one token")
            ids[name] = int(pieces[0])
        if ids[layout.IMAGE_TOKEN] != image_token_id:
            raise WeightsCorrupt("tokenizer and model disagree on the id of <image>")
        made = cls(
            tokenizer=tokenizer,
            image=ids[layout.IMAGE_TOKEN],
            cls=ids[layout.CLS_TOKEN],
            seg=ids[layout.SEG_TOKEN],
            turn_start=ids[layout.TURN_START],
            turn_end=ids[layout.TURN_END],
            pad=ids[layout.PAD_TOKEN],
            control=tuple(sorted(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)),
        )
        made.text("")  # switches the tokenizer to plain text now, not while two threads use it
        return made

    def text(self, text: str) -> list[int]:
        """Ids of plain text: ``<image>`` or ``<|im_end|>`` in it stay the characters that they are."""
        found = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [int(i) for i in found]

    def look(self, hints: Sequence[str] = ()) -> list[int]:
        """The prompt up to the tokens that the heads read: picture, question, hints, ``[CLS][SEG]``.

        The turn stays open, so that a narration can go on from it.
        """
        start = [self.turn_start, *self.text("user\n")]
        picture = [self.image] * layout.GRID**2
        return [*start, *picture, *self.text("\n" + question_with(hints)), self.cls, self.seg]

    def instruct(self, instruction: str, prefix: str) -> list[int]:
        """What follows ``look``: the instruction, end of turn, start of the reply with its forced prefix."""
        reply = [self.turn_start, *self.text("assistant\n" + prefix)] if prefix else self.reply_start()
        return [*self.text("\n" + instruction), self.turn_end, *self.text("\n"), *reply]

    def reply_start(self) -> list[int]:
        """The header of the assistant's turn."""
        return [self.turn_start, *self.text("assistant\n")]
