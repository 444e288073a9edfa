"""Annotators: vision-language models behind OpenAI-compatible servers that are asked the catalogue's questions.

An annotator sees the picture's pixels and the questions, nothing else: no label, no file name, no source. Answers are
kept by the digest of the picture, the annotator and the clue with its version, so a run that broke off goes on where it
stopped, and nobody pays twice.
"""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlmforensics.clues import Clue
from vlmforensics.errors import MissingExtra, SettingsError
from vlmforensics.finetune.journal import append, read_journal
from vlmforensics.settings import Settings
from vlmforensics.types import Pixels

Vote = Literal["yes", "no", "unclear"]
TASK = (
    "Look at the picture and answer each question about it. Judge only what you can see. Write one line for each "
    "question: its number, then yes, no or unclear, then a dash and one short sentence on what you see there. "
    "Write unclear where the picture does not show what is asked about. Do not say whether the picture is real or "
    "generated."
)
_LINE = re.compile(
    r"^\W*(?:(\d{1,3})\s*[.):\-]*\s*)?\W*(yes|no|unclear)\b\W*(.*)$", re.IGNORECASE
)  # the number may be missing where one question was asked
_TOKENS = 60
"""Most tokens of an answer to one question."""


class AnnotatorSettings(BaseModel):
    """One ``[[annotator]]`` of a TOML file.

    Attributes:
        address: ``http(s)://host[:port]/v1``, with ``#model`` where the server has several.
        key_variable: environment variable with the key.
        requests_per_minute: upper bound on requests; 0 for none.
        price_in: price of a million tokens read, in any currency.
        price_out: price of a million tokens written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: Annotated[str, Field(pattern=r"^https?://")]
    key_variable: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] = "VLMF_REMOTE_KEY"
    requests_per_minute: Annotated[float, Field(ge=0)] = 0.0
    price_in: Annotated[float, Field(ge=0)] = 0.0
    price_out: Annotated[float, Field(ge=0)] = 0.0


def read_annotators(file: Path) -> list[AnnotatorSettings]:
    """Annotators of a TOML file.

    Raises:
        SettingsError: it can't be read, or an entry is not valid.
    """
    try:
        rows = tomllib.loads(file.read_text(encoding="utf-8"))
        if set(rows) != {"annotator"} or not isinstance(rows["annotator"], list):
            raise SettingsError(f"{file} must hold [[annotator]] tables and nothing else")
        return [AnnotatorSettings.model_validate(row) for row in rows["annotator"]]
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"can't read annotators from {file}: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{file}: annotator {where}: {first['msg']}") from error


@dataclass(frozen=True)
class Answer:
    """One annotator's answer to one clue.

    Attributes:
        vote: yes, no, or unclear (also where its line was missing).
        seen: what it says it sees; may be empty.
    """

    vote: Vote
    seen: str


class Speaks(Protocol):
    """What an annotator needs of its server."""

    name: str

    def complete(self, pixels: Pixels, text: str, *, max_new_tokens: int) -> tuple[str, int, int]:
        """One reply, tokens read, tokens written."""
        ...


@dataclass(eq=False)
class Annotator:
    """One server that answers, at its own pace and price.

    Attributes:
        server: who speaks.
        settings: pace and price.
        asked: requests made in this run.
        tokens: read and written in this run.
    """

    server: Speaks
    settings: AnnotatorSettings
    asked: int = 0
    tokens: list[int] = field(default_factory=lambda: [0, 0])
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _next: float = 0.0

    @classmethod
    def connect(cls, settings: AnnotatorSettings, base: Settings) -> Annotator:
        """Reach the server.

        Raises:
            SettingsError: remote models are not allowed (``remote_enabled``), or the address can't be used.
            RemoteError: the server does not answer.
            MissingExtra: httpx is not installed.
        """
        try:
            from vlmforensics.vlm.remote import RemoteBackbone
        except ModuleNotFoundError as error:
            if error.name != "httpx":
                raise
            message = 'annotators need httpx: pip install "vlmforensics[remote]"'
            raise MissingExtra(message, code="extra.remote") from error
        server = RemoteBackbone.connect(settings.address, base, key_variable=settings.key_variable)
        return cls(server, settings)

    @property
    def name(self) -> str:
        """Model and address, without key."""
        return self.server.name

    @property
    def cost(self) -> float:
        """Of this run, in the currency of the prices."""
        read, written = self.tokens
        return (read * self.settings.price_in + written * self.settings.price_out) / 1e6

    def ask(self, pixels: Pixels, clues: Sequence[Clue]) -> list[Answer]:
        """Put the clues' questions about one picture in one request.

        Raises:
            RemoteError: no reply.
        """
        self._wait()
        text = questions(clues)
        reply, read, written = self.server.complete(pixels, text, max_new_tokens=_TOKENS * len(clues))
        self.asked += 1
        self.tokens[0] += read
        self.tokens[1] += written
        return read_reply(reply, len(clues))

    def _wait(self) -> None:
        """Keep to the bound on requests."""
        if self.settings.requests_per_minute:
            pause = self._next - self.clock()
            if pause > 0:
                self.sleep(pause)
            self._next = max(self._next, self.clock()) + 60 / self.settings.requests_per_minute


def questions(clues: Sequence[Clue]) -> str:
    """All that is said to an annotator beside the picture."""
    lines = [f"{number}. {clue.question}" for number, clue in enumerate(clues, start=1)]
    return "\n".join([TASK, *lines])


def read_reply(reply: str, count: int) -> list[Answer]:
    """Answers by number; a question without a line of its own is unclear, never guessed.

    Where a number appears twice with different votes, it is unclear, too.
    """
    found: dict[int, Answer] = {}
    for line in reply.splitlines():
        match = _LINE.match(line.strip())
        if match is None:
            continue
        if match[1] is None and count != 1:
            continue
        number = int(match[1] or 1)
        vote = match[2].lower()
        answer = Answer("yes" if vote == "yes" else "no" if vote == "no" else "unclear", _tidy(match[3]))
        earlier = found.get(number)
        found[number] = answer if earlier is None or earlier.vote == answer.vote else Answer("unclear", "")
    return [found.get(number, Answer("unclear", "")) for number in range(1, count + 1)]


class AnswerCache:
    """Answers on disk, each kept as soon as it is given.

    Args:
        file: created where it is absent.

    Raises:
        SettingsError: it can't be read, or holds something else.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[tuple[str, str, str], Answer] = {}
        try:
            for row in read_journal(file):
                self._take(row)
        except KeyError as error:
            raise SettingsError(f"{file} does not hold answers of annotators: {error} is missing") from error

    def _take(self, row: Mapping[str, Any]) -> None:
        self._known[row["annotator"], row["sha256"], row["clue"]] = Answer(row["vote"], row["seen"])

    def get(self, annotator: str, sha256: str, clue: Clue) -> Answer | None:
        """What the annotator answered before, or None."""
        return self._known.get((annotator, sha256, key_of(clue)))

    def put(self, annotator: str, sha256: str, answers: Iterable[tuple[Clue, Answer]]) -> None:
        """Keep answers.

        Raises:
            SettingsError: the file can't be written.
        """
        rows = [
            {
                "annotator": annotator,
                "sha256": sha256,
                "clue": key_of(clue),
                "vote": answer.vote,
                "seen": answer.seen,
            }
            for clue, answer in answers
        ]
        append(self._file, rows)
        for row in rows:
            self._take(row)


def key_of(clue: Clue) -> str:
    """Names a clue as it is asked now: a changed question is asked again."""
    return f"{clue.id}@{clue.version}"


def _tidy(text: str) -> str:
    """One sentence on one line with a capital and a full stop, or nothing."""
    text = " ".join(text.split()).strip(' -–—:*"')
    if len(text) < 8:
        return ""
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else f"{text}."
