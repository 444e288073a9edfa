"""A vision-language model behind an OpenAI-compatible server (vLLM, ``transformers serve``, llama.cpp's server).

The picture leaves this machine: as a PNG of the upright pixels, without the file's metadata. That must be allowed in
the settings. The key comes from the environment variable ``VLMF_REMOTE_KEY`` alone and is never logged or put into
an error. Labels come from token log-probabilities where the server gives them; else from the words of several sampled
answers, whose number the evidence states (self-consistency, Wang et al. 2023); answers without a label word are an
error, never a guess.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
from vlmforensics.vlm.replies import (
    answer,
    from_tokens,
    label_in,
    piece,
    unparsable,
    without_prefix,
    yes_against_no,
)

KEY_VARIABLE = "VLMF_REMOTE_KEY"
LONGEST_SIDE = 1344
"""Pixels; towers of today see no more, and a full-size PNG can take 100 MB."""
INSTRUCTION = "Answer with exactly one word: real, synthetic or tampered."
YES_NO_INSTRUCTION = "Answer with exactly one word: yes or no."
TEMPERATURE = 1.0
"""Of sampled answers: their shares then estimate the model's own probabilities."""
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
        samples: answers that are drawn where the server tells no log-probabilities.
        parallel: requests under way at once.
    """

    capabilities = frozenset({LABEL_WORDS, TEXT, YES_NO})

    def __init__(
        self,
        client: httpx.Client,
        model: str,
        address: str,
        *,
        pause: float = 1.0,
        key_variable: str = KEY_VARIABLE,
        samples: int = 5,
        parallel: int = 4,
    ) -> None:
        self._client = client
        self._key_variable = key_variable
        self._pause = pause
        self._samples, self._parallel = samples, parallel
        self._slots = threading.BoundedSemaphore(parallel)
        self._tells = True  # until the server shows that it gives no log-probabilities
        self.version = f"1+k{samples}"
        self._random = random.Random(0)  # noqa: S311 - spreads retries, no secret
        self._call(model, address)

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
            timeout=httpx.Timeout(settings.remote_seconds, connect=min(10.0, settings.remote_seconds)),
            limits=httpx.Limits(max_connections=settings.remote_parallel),
            follow_redirects=False,  # a redirect could carry picture and key to another host
        )
        backbone = cls(
            client,
            parts.fragment,
            shown,
            pause=pause,
            key_variable=key_variable,
            samples=settings.remote_samples,
            parallel=settings.remote_parallel,
        )
        if not parts.fragment:
            backbone._call(backbone._served(), shown)
        return backbone

    def look(self, pixels: Pixels, hints: Sequence[str] = (), *, for_text: bool = True) -> Look:
        """Send picture and question, read the label from the answer's first words; see ``Backbone.look``."""
        asked = question_with(hints)
        picture = _data_url(pixels)
        messages = [_user(picture, f"{asked} {INSTRUCTION}")]
        state = _Conversation(picture, asked, self) if for_text else None
        found = self._told(messages) if self._tells else None
        if found is not None:
            return Look(found, state=state, means="label words")
        found, counted = self._sampled(messages)
        return Look(found, state=state, means=f"label word in {counted} sampled answers")

    def look_many(
        self, batch: Sequence[Pixels], hints: Sequence[Sequence[str]], *, for_text: bool = False
    ) -> list[Look]:
        """One request per picture, several under way at once; see ``Backbone.look_many``."""
        with ThreadPoolExecutor(min(self._parallel, max(1, len(batch)))) as pool:
            ahead = [
                pool.submit(self.look, pixels, said, for_text=for_text)
                for pixels, said in zip(batch, hints, strict=True)
            ]
            return [look.result() for look in ahead]

    def _told(self, messages: list[dict[str, Any]]) -> tuple[float, float, float] | None:
        """From the log-probabilities of one greedy answer; None where the server gives none.

        Servers without them leave them out or, as ``transformers serve``, refuse to be asked for them.
        """
        body = {
            "messages": messages, "max_tokens": 8, "temperature": 0, "logprobs": True, "top_logprobs": ALTERNATIVES
        }  # fmt: skip
        try:
            text, rows = answer(self._post(body))
        except _Refused as error:
            if "logprob" not in str(error):
                raise
            self._tells = False
            return None
        if not rows:
            self._tells = False
            return None
        scored = from_tokens(rows)
        if scored is None:
            raise unparsable([text])
        return scored

    def _sampled(self, messages: list[dict[str, Any]]) -> tuple[tuple[float, float, float], int]:
        """From the label words of several sampled answers: their shares, smoothed by one third of an answer each.

        Raises:
            RemoteError: fewer than half of the answers name exactly one label.
        """
        bodies = [
            {"messages": messages, "max_tokens": 16, "temperature": TEMPERATURE, "seed": seed}
            for seed in range(self._samples)
        ]
        with ThreadPoolExecutor(min(self._parallel, self._samples)) as pool:
            texts = [answer(reply)[0] for reply in pool.map(self._post, bodies)]
        named = [label for label in map(label_in, texts) if label is not None]
        if 2 * len(named) < len(texts):
            raise unparsable(texts)
        total = len(named) + 1
        real, synthetic, tampered = (math.log((named.count(label) + 1 / 3) / total) for label in LABELS)
        return (real, synthetic, tampered), len(named)

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
        return without_prefix(self._stream(body, stop), prefix)

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
        reply = self._post(body)
        try:
            said = str(reply["choices"][0]["message"]["content"] or "")
            usage = reply.get("usage") or {}
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
            found.append(yes_against_no(self._post(body)))
        return found

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _call(self, model: str, address: str) -> None:
        """Settle which model is meant."""
        self.model = model
        self.name = f"{model} at {address}"
        # What the weights are can't be seen from here; the digest names server and model.
        self.weights_sha256 = hashlib.sha256(f"remote:{address}:{model}".encode()).hexdigest()

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
                self._wait(attempt, asked)
            try:
                with self._slots:
                    response = self._client.request(method, path, json=body)
            except httpx.TimeoutException:
                problem = "no answer in time (remote_seconds)"
                continue
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.status_code in RETRIED:
                problem, asked = f"HTTP {response.status_code}", _wait_of(response)
                continue
            return _record(response, self._refusal)
        raise RemoteError(
            f"{self._client.base_url.host} did not answer after {ATTEMPTS} attempts ({problem})"
        )

    def _wait(self, attempt: int, asked: float) -> None:
        """Pause before another attempt: twice as long each time, or as long as the server asks."""
        time.sleep(max(asked, self._pause * 2 ** (attempt - 1) * self._random.uniform(0.8, 1.2)))

    def _refusal(self, response: httpx.Response) -> str:
        says = {
            401: f"it wants a key: set {self._key_variable}",
            403: f"the key in {self._key_variable} is not accepted",
            404: "no such address or model; the address ends in /v1",
            413: "the picture is too large for it",
        }
        hint = says.get(response.status_code) or _without(os.environ.get(self._key_variable), response.text)[
            :200
        ].replace("\n", " ")
        return f"the server refused with HTTP {response.status_code}: {hint}"

    def _stream(self, body: Mapping[str, Any], stop: Callable[[], bool] | None) -> Iterator[str]:
        """Pieces of a streamed reply; the connection is closed as soon as the reader stops."""
        finished = False
        try:
            with self._slots, self._opened({"model": self.model, **body}) as response:
                for line in response.iter_lines():
                    if stop is not None and stop():
                        return
                    if not line.startswith("data:"):
                        continue
                    data = line.removeprefix("data:").strip()
                    if data == "[DONE]":
                        finished = True
                        break
                    said, ended = piece(data)
                    finished = finished or ended
                    if said:
                        yield said
        except httpx.TransportError as error:
            raise RemoteError(f"the reply broke off ({type(error).__name__})") from error
        if not finished:
            raise RemoteError("the reply broke off before its end")

    @contextmanager
    def _opened(self, request: Mapping[str, Any]) -> Iterator[httpx.Response]:
        """A stream that has begun; passing trouble before its first word is tried again."""
        for attempt in range(ATTEMPTS):
            with self._client.stream("POST", "chat/completions", json=request) as response:
                if response.status_code == 200:
                    yield response
                    return
                response.read()
                if response.status_code not in RETRIED or attempt == ATTEMPTS - 1:
                    raise RemoteError(self._refusal(response))
                asked = _wait_of(response)
            self._wait(attempt + 1, asked)


class _Refused(RemoteError):
    """The server will not do what the request asks."""


def _without(key: str | None, text: str) -> str:
    """A server may repeat what it was sent; the key is not passed on."""
    return text.replace(key, "…") if key else text


def _record(response: httpx.Response, refusal: Callable[[httpx.Response], str]) -> Mapping[str, Any]:
    """The JSON object of a reply."""
    if response.status_code != 200:
        kind = _Refused if response.status_code in (400, 422, 501) else RemoteError
        raise kind(refusal(response))
    if len(response.content) > MAX_REPLY_BYTES:
        raise RemoteError("the server's reply is over 4 MB")
    try:
        record = json.loads(response.content)
    except ValueError as error:
        raise RemoteError("the server's reply is not JSON") from error
    if not isinstance(record, dict):
        raise RemoteError("the server's reply is not a JSON object")
    return record


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


def _wait_of(response: httpx.Response) -> float:
    """Seconds that the server asks to wait (``Retry-After``); 0 where it doesn't say so in seconds."""
    value = response.headers.get("Retry-After", "")
    seconds = float(value) if re.fullmatch(r"\d{1,6}(\.\d+)?", value) else 0.0
    if seconds > LONGEST_WAIT:
        raise RemoteError(f"the server asks to come back in {seconds:.0f} s", code="model.busy")
    return seconds
