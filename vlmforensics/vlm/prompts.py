"""What is asked of a vision-language model. Fixed wording: trained heads and adapters depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmforensics.errors import ModelError

PLAIN_TEMPLATE = "USER: {image}\n{text} ASSISTANT:"
"""For checkpoints that carry no chat template; the wording LLaVA-1.5 was trained with."""
QUESTION = "Is this picture a real photograph, wholly synthetic, or tampered with?"
"""Asked of every picture; the compact model's heads are trained on exactly this."""

HINT_LIMIT = 300
"""Characters kept of one hint sentence; a hint is a detector's number in words, never longer."""


def clean_hints(hints: Sequence[str]) -> list[str]:
    """Hints with white space collapsed and over-long text cut; empty ones are dropped."""
    return [text for text in (" ".join(hint.split())[:HINT_LIMIT] for hint in hints) if text]


def question_with(hints: Sequence[str]) -> str:
    """The question, followed by the sentences of external detectors (X²-DFD's weak-feature supplement).

    Args:
        hints: e.g. ``("The blending detector gives 0.12 out of 1.",)``.

    References:
        Chen et al. 2024, X²-DFD: A framework for eXplainable and eXtendable Deepfake Detection, §3 (WFS).
    """
    return " ".join([QUESTION, *clean_hints(hints)])


def defuse(text: str, control: Sequence[str]) -> str:
    """``text`` with every control token broken up by a space, so that a tokenizer reads plain characters.

    Args:
        text: anything a user, a picture's metadata or a detector wrote.
        control: the tokenizer's control tokens, e.g. ``<image>``, ``</s>``.
    """
    while any(token in text for token in control):
        for token in control:
            if len(token) < 2:
                text = text.replace(token, "")
            text = text.replace(token, f"{token[:1]} {token[1:]}")
    return text


def user_turn(
    processor: Any, text: str, *, image: str, control: Sequence[str], raw: bool = False, marks: str = ""
) -> str:
    """The user's turn with one picture, and the start of the reply; the same words in training and in use.

    Args:
        processor: of the checkpoint; its chat template is used where it has one.
        text: can't forge a control token.
        image: the image token.
        control: the tokenizer's control tokens, longest first.
        raw: the image token and the text alone, without a template.
        marks: control tokens that heads read, e.g. ``[CLS][SEG]``, at the end of the turn.

    Raises:
        ModelError: the chat template does not place exactly one picture.
    """
    safe = defuse(text, control) + marks
    if raw:
        return f"{image}{safe}"
    if not getattr(processor, "chat_template", None):
        return PLAIN_TEMPLATE.format(image=image, text=safe)
    content = [{"type": "image"}, {"type": "text", "text": safe}]
    messages = [{"role": "user", "content": content}]
    rendered = str(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    if rendered.count(image) != 1:
        raise ModelError("the checkpoint's chat template does not place exactly one picture")
    return rendered
