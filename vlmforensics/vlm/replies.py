"""Reading what an OpenAI-compatible server replies: texts, token probabilities, events of a stream."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlmforensics.errors import RemoteError
from vlmforensics.types import LABELS, Label


def answer(reply: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]]:
    """Text and told tokens of a chat completion.

    Raises:
        RemoteError: it is none.
    """
    try:
        choice = reply["choices"][0]
        text = str(choice["message"]["content"] or "")
        rows = (choice.get("logprobs") or {}).get("content") or []
        for row in rows:
            str(row["token"]), float(row["logprob"])
            for other in row.get("top_logprobs") or []:
                str(other["token"]), float(other["logprob"])
        return text, list(rows)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise RemoteError("the server's reply is not a chat completion") from error


def label_in(text: str) -> Label | None:
    """The one label that an answer names, unless it denies it."""
    named = [label for label in LABELS if re.search(rf"\b{label}\b", text, re.IGNORECASE)]
    denied = re.search(r"\b(not|isn't|never|no|neither)\b", text, re.IGNORECASE)
    return named[0] if len(named) == 1 and not denied else None


def unparsable(texts: Sequence[str]) -> RemoteError:
    """The error for answers without one label."""
    shown = texts[0][:80]
    many = f" in {len(texts)} samples" if len(texts) > 1 else ""
    return RemoteError(
        f"the server's answer names no label or several{many}: {shown!r}", code="model.unparsable"
    )


def from_tokens(told: Sequence[Mapping[str, Any]]) -> tuple[float, float, float] | None:
    """From the alternatives of the first token that can begin a label word; None where none can."""
    for position in told:
        rows = [*(position.get("top_logprobs") or []), position]
        mass = dict.fromkeys(LABELS, 0.0)
        seen = set()
        for row in rows:
            token = str(row["token"])
            begun = token.strip().strip("*\"'`").lower()
            labels = [label for label in LABELS if len(begun) > 1 and label.startswith(begun)]
            if len(labels) == 1 and token not in seen:
                seen.add(token)
                mass[labels[0]] += math.exp(float(row["logprob"]))
        top = str(position["token"]).strip().strip("*\"'`").lower()
        if not any(label.startswith(top) for label in LABELS if len(top) > 1):
            continue  # the model's own word here is none of ours: alternatives to it mean nothing
        floor = min(
            [math.exp(float(row["logprob"])) for row in rows if float(row["logprob"]) > -50] or [1e-6]
        )
        values = [max(mass[label], min(floor, 1e-3) * 0.5, 1e-9) for label in LABELS]
        real, synthetic, tampered = (math.log(value / sum(values)) for value in values)
        return real, synthetic, tampered
    return None


def yes_against_no(answer: Mapping[str, Any]) -> float:
    """Log-odds from the first position whose own word begins with yes or no; what is not listed counts as rare."""
    try:
        told = (answer["choices"][0].get("logprobs") or {}).get("content") or []
        if not told:
            raise RemoteError(
                "the server gives no token log-probabilities, and a yes or no is not read from text",
                code="model.logprobs",
            )
        for position in told:
            if not str(position["token"]).strip():
                continue
            mass = {"yes": 0.0, "no": 0.0}
            listed = {str(row["token"]): float(row["logprob"]) for row in position.get("top_logprobs") or []}
            listed.setdefault(str(position["token"]), float(position["logprob"]))
            for token, logprob in listed.items():
                word = token.strip().strip("*\"'`.,").lower()
                if word in mass:
                    mass[word] += math.exp(logprob)
            if max(mass.values()) > 0:
                floor = max(1e-9, 0.5 * min(1e-3, math.exp(max(-50.0, min(listed.values())))))
                return math.log(max(mass["yes"], floor)) - math.log(max(mass["no"], floor))
            break
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise RemoteError("the server's reply is not a chat completion") from error
    raise RemoteError("neither yes nor no is among the likely first words", code="model.unparsable")


def piece(data: str) -> tuple[str, bool]:
    """Text of one event of a stream, and whether the reply has ended."""
    try:
        choices = json.loads(data)["choices"]
        if not choices:
            return "", False
        text = (choices[0].get("delta") or {}).get("content") or ""
        return str(text), choices[0].get("finish_reason") is not None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RemoteError("the server's stream holds an event that is not a chat completion") from error


def without_prefix(pieces: Iterator[str], prefix: str) -> Iterator[str]:
    """Drop ``prefix`` from the beginning of the stream where the server repeats it."""
    wanted = prefix.strip()
    held = ""
    undecided = bool(wanted)
    for piece in pieces:
        if not undecided:
            yield piece
            continue
        held += piece
        begun = held.lstrip()
        if len(begun) >= len(wanted) or not wanted.startswith(begun):
            undecided = False
            rest = begun.removeprefix(wanted) if begun.startswith(wanted) else held
            if rest:
                yield rest
    if undecided and held.strip() and held.strip() != wanted:
        yield held
