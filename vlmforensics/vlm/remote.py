"""A vision-language model behind an OpenAI-compatible server (vLLM, ``transformers serve``, llama.cpp's server).

The picture leaves this machine: as a PNG of the upright pixels, without the file's metadata. That must be allowed in
the settings. The key comes from the environment variable ``VLMF_REMOTE_KEY`` alone and is never logged or put into
an error. Labels come from token log-probabilities where the server gives them; else from the answer's word, with
a stated, fixed confidence that calibration weighs; an answer without a label word is an error, never a guess.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from vlmforensics.errors import Defect, RemoteError, SettingsError
from vlmforensics.imaging import resize, to_png
from vlmforensics.settings import Settings
from vlmforensics.types import LABELS, Pixels
from vlmforensics.vlm.base import LABEL_WORDS, TEXT, YES_NO, Look
from vlmforensics.vlm.prompts import question_with

KEY_VARIABLE = "VLMF_REMOTE_KEY"
LONGEST_SIDE = 1344
"""Pixels; towers of today see no more, and a full-size PNG can take 100 MB."""
INSTRUCTION = "Answer with exactly one word: real, synthetic or tampered."
YES_NO_INSTRUCTION = "Answer with exactly one word: yes or no."
PARSED_CONFIDENCE = 0.8
"""Probability given to the label that an answer names where the server tells no probabilities.

A constant on purpose: how far such an answer can be trusted is measured by calibration, not by the server.
"""
ALTERNATIVES = 20
ATTEMPTS = 4
LONGEST_WAIT = 120.0
"""Seconds; a server that asks for a longer pause is taken as refusing."""
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
MAX_REPLY_BYTES = 4 << 20


@dataclass(eq=False)
class _Conversation:
    """What was sent for a look, to be sent again before an instruction."""

    picture: str
    asked: str
    owner: object


class RemoteBackbone:
    """See ``vlm.base.Backbone``.

    Args:
        client: an HTTP client whose base address is the server's ``…/v1``.
        model: the name of the model on the server.
        address: without credentials, for the record.
        pause: first pause between attempts in seconds; doubles each time.
        key_variable: environment variable that holds the key, for messages.
    """

    version = "1"
    capabilities = frozenset({LABEL_WORDS, TEXT, YES_NO})

    def __init__(
        self,
        client: httpx.Client,
        model: str,
        address: str,
        *,
        pause: float = 1.0,
        key_variable: str = KEY_VARIABLE,
    ) -> None:
        self._client = client
        self._key_variable = key_variable
        self._pause = pause
        self._random = random.Random(0)  # noqa: S311 - spreads retries, no secret
        self.model = model
        self.name = f"{model} at {address}"
        # What the weights are can't be seen from here; the digest names server and model.
        self.weights_sha256 = hashlib.sha256(f"remote:{address}:{model}".encode()).hexdigest()

    @classmethod
    def connect(
        cls, address: str, settings: Settings, *, pause: float = 1.0, key_variable: str = KEY_VARIABLE
    ) -> RemoteBackbone:
        """Ask the server which model it serves.

        Args:
            address: ``http(s)://host[:port]/v1``; ``#name`` at the end picks one of several models.
            settings: ``remote_enabled`` must be true and ``offline`` false.
            pause: first pause between attempts in seconds.
            key_variable: environment variable that holds the key; without it none is sent.

        Raises:
            SettingsError: remote backbones are not allowed, or the address can't be used.
            RemoteError: the server does not answer as it must.
        """
        parts = urlsplit(address)
        if not parts.hostname or parts.username or parts.password or parts.query:
            raise SettingsError("a remote model is written http(s)://host[:port]/v1, without key or query")
        if not settings.remote_enabled:
            raise SettingsError(
                f"{parts.hostname} is a remote model: every picture would leave this machine. "
                "If that is allowed, set remote_enabled = true (VLMF_REMOTE_ENABLED=1)",
                code="settings.remote",
            )
        if settings.offline and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise SettingsError("the network is switched off (offline), so a remote model can't be used")
        shown = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "") + parts.path
        headers = {"Accept": "application/json"}
        key = os.environ.get(key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        client = httpx.Client(
            base_url=shown.rstrip("/") + "/",
            headers=headers,
            timeout=httpx.Timeout(120.0, connect=10.0),
            follow_redirects=False,  # a redirect could carry picture and key to another host
        )
        backbone = cls(client, parts.fragment, shown, pause=pause, key_variable=key_variable)
        if not parts.fragment:
            name = backbone._served()
            backbone = cls(client, name, shown, pause=pause, key_variable=key_variable)
        return backbone

    def look(self, pixels: Pixels, hints: Sequence[str] = (), *, for_text: bool = True) -> Look:
        """Send picture and question, read the label from the answer's first words; see ``Backbone.look``."""
        asked = question_with(hints)
        picture = _data_url(pixels)
        body = {
            "messages": [_user(picture, f"{asked} {INSTRUCTION}")],
            "max_tokens": 8,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": ALTERNATIVES,
        }
        answer = self._post(body)
        state = _Conversation(picture, asked, self) if for_text else None
        return Look(_labels(answer), state=state)

    def look_many(
        self, batch: Sequence[Pixels], hints: Sequence[Sequence[str]], *, for_text: bool = False
    ) -> list[Look]:
        """One request per picture; see ``Backbone.look_many``."""
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
        """Stream the server's reply; see ``Backbone.narrate``.

        The protocol can't force a prefix: the server is told to continue it, and a repetition of it is dropped.
        """
        state = look.state
        if not isinstance(state, _Conversation) or state.owner is not self:
            raise Defect("narrate needs a look of this backbone made with for_text=True")
        wanted = (
            f"\nBegin your reply with exactly these words and go on from them: {prefix}" if prefix else ""
        )
        messages = [_user(state.picture, f"{state.asked}\n{instruction}{wanted}")]
        body = {"messages": messages, "max_tokens": max_new_tokens, "temperature": 0, "stream": True}
        return _without_prefix(self._stream(body, stop), prefix)

    def complete(self, pixels: Pixels, text: str, *, max_new_tokens: int) -> tuple[str, int, int]:
        """One greedy reply to a picture and a text, and nothing else: no hints, no name, no earlier turn.

        Returns:
            The reply; tokens read and tokens written as the server counts them (0 where it doesn't).

        Raises:
            RemoteError: no reply after several attempts, or none in the protocol's form.
        """
        body = {
            "messages": [_user(_data_url(pixels), text)],
            "max_tokens": max_new_tokens,
            "temperature": 0,
        }
        answer = self._post(body)
        try:
            said = str(answer["choices"][0]["message"]["content"] or "")
            usage = answer.get("usage") or {}
            return said, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise RemoteError("the server's reply is not a chat completion") from error

    def yes_no(self, pixels: Pixels, questions: Sequence[str]) -> list[float]:
        """See ``AnswersYesNo.yes_no``: one request per question, from the alternatives of the reply's first word.

        Raises:
            RemoteError: the server gives no token log-probabilities, or neither yes nor no is among them.
        """
        picture = _data_url(pixels)
        found = []
        for question in questions:
            body = {
                "messages": [_user(picture, f"{question} {YES_NO_INSTRUCTION}")],
                "max_tokens": 4,
                "temperature": 0,
                "logprobs": True,
                "top_logprobs": ALTERNATIVES,
            }
            found.append(_yes_against_no(self._post(body)))
        return found

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _served(self) -> str:
        try:
            models = self._send("GET", "models", None)["data"]
            names = [str(entry["id"]) for entry in models]
        except (KeyError, TypeError) as error:
            raise RemoteError(f"{self._client.base_url}models does not list models as it must") from error
        if len(names) != 1:
            listed = ", ".join(names[:5]) or "none"
            raise RemoteError(f"the server has {len(names)} models ({listed}); pick one with …/v1#name")
        return names[0]

    def _post(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._send("POST", "chat/completions", {"model": self.model, **body})

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """One request, tried again after a pause where trying again can help."""
        problem, asked = "", 0.0
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(max(asked, self._pause * 2 ** (attempt - 1) * self._random.uniform(0.8, 1.2)))
            try:
                response = self._client.request(method, path, json=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.status_code in RETRIED:
                problem, asked = f"HTTP {response.status_code}", _wait_of(response)
                continue
            if response.status_code != 200:
                raise RemoteError(self._refusal(response))
            if len(response.content) > MAX_REPLY_BYTES:
                raise RemoteError("the server's reply is over 4 MB")
            try:
                record = json.loads(response.content)
            except ValueError as error:
                raise RemoteError("the server's reply is not JSON") from error
            if not isinstance(record, dict):
                raise RemoteError("the server's reply is not a JSON object")
            return record
        raise RemoteError(
            f"{self._client.base_url.host} did not answer after {ATTEMPTS} attempts ({problem})"
        )

    def _refusal(self, response: httpx.Response) -> str:
        says = {
            401: f"it wants a key: set {self._key_variable}",
            403: f"the key in {self._key_variable} is not accepted",
            404: "no such address or model; the address ends in /v1",
            413: "the picture is too large for it",
        }
        hint = says.get(response.status_code, response.text[:200].replace("\n", " "))
        return f"the server refused with HTTP {response.status_code}: {hint}"

    def _stream(self, body: Mapping[str, Any], stop: Callable[[], bool] | None) -> Iterator[str]:
        """Pieces of a streamed reply; the connection is closed as soon as the reader stops."""
        finished = False
        try:
            request = {"model": self.model, **body}
            with self._client.stream("POST", "chat/completions", json=request) as response:
                if response.status_code != 200:
                    response.read()
                    raise RemoteError(self._refusal(response))
                for line in response.iter_lines():
                    if stop is not None and stop():
                        return
                    if not line.startswith("data:"):
                        continue
                    data = line.removeprefix("data:").strip()
                    if data == "[DONE]":
                        finished = True
                        break
                    piece, ended = _piece(data)
                    finished = finished or ended
                    if piece:
                        yield piece
        except httpx.TransportError as error:
            raise RemoteError(f"the reply broke off ({type(error).__name__})") from error
        if not finished:
            raise RemoteError("the reply broke off before its end")


def _user(picture: str, text: str) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": text}]
    return {"role": "user", "content": content}


def _data_url(pixels: Pixels) -> str:
    height, width = pixels.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = resize(pixels, *size, resample="bicubic")
    return "data:image/png;base64," + base64.b64encode(to_png(pixels)).decode("ascii")


def _labels(answer: Mapping[str, Any]) -> tuple[float, float, float]:
    """Label log-probabilities from a chat completion.

    Raises:
        RemoteError: it has no answer, or the answer names no label or several.
    """
    try:
        choice = answer["choices"][0]
        text = str(choice["message"]["content"] or "")
        told = (choice.get("logprobs") or {}).get("content") or []
        scored = _from_tokens(told)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise RemoteError("the server's reply is not a chat completion") from error
    if scored is not None:
        return scored
    named = [label for label in LABELS if re.search(rf"\b{label}\b", text, re.IGNORECASE)]
    negated = re.search(r"\b(not|isn't|never|no|neither)\b", text, re.IGNORECASE)
    if len(named) != 1 or negated:
        raise RemoteError(
            f"the server's answer names no label or several: {text[:80]!r}", code="model.unparsable"
        )
    rest = math.log((1 - PARSED_CONFIDENCE) / (len(LABELS) - 1))
    real, synthetic, tampered = (
        math.log(PARSED_CONFIDENCE) if label == named[0] else rest for label in LABELS
    )
    return real, synthetic, tampered


def _from_tokens(told: Sequence[Mapping[str, Any]]) -> tuple[float, float, float] | None:
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


def _yes_against_no(answer: Mapping[str, Any]) -> float:
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


def _wait_of(response: httpx.Response) -> float:
    """Seconds that the server asks to wait (``Retry-After``); 0 where it doesn't say so in seconds."""
    value = response.headers.get("Retry-After", "")
    seconds = float(value) if re.fullmatch(r"\d{1,6}(\.\d+)?", value) else 0.0
    if seconds > LONGEST_WAIT:
        raise RemoteError(f"the server asks to come back in {seconds:.0f} s", code="model.busy")
    return seconds


def _piece(data: str) -> tuple[str, bool]:
    """Text of one event of a stream, and whether the reply has ended."""
    try:
        choices = json.loads(data)["choices"]
        if not choices:
            return "", False
        text = (choices[0].get("delta") or {}).get("content") or ""
        return str(text), choices[0].get("finish_reason") is not None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RemoteError("the server's stream holds an event that is not a chat completion") from error


def _without_prefix(pieces: Iterator[str], prefix: str) -> Iterator[str]:
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
