"""The clue catalogue: read, validated, and asked of measured evidence."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vlmforensics.errors import SettingsError
from vlmforensics.types import LABELS, Evidence, Label

Category = Literal[
    "face", "body", "object", "scene", "animal", "document", "satellite", "text",
    "light", "perspective", "texture", "edges", "symmetry", "compression", "provenance",
]  # fmt: skip
"""What a clue is about."""
Subject = Literal["animal", "deepfake", "doc", "human", "object", "satellite", "scene"]
"""FakeClue's categories of pictures."""
Observer = Literal["algorithm", "vlm", "human"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
SUBJECTS: tuple[Subject, ...] = get_args(Subject)

Sentence = Annotated[str, Field(pattern=r"^[A-Z].{8,240}\.$")]


class Clue(BaseModel):
    """One thing to look for.

    Attributes:
        id: stable name.
        version: raised when question or rule change.
        category: what it is about.
        applies: FakeClue categories of pictures where the question makes sense; empty = any picture.
        favours: labels that a yes speaks for; empty for a clue that is told and weighs nothing.
        observers: who can answer; ``algorithm`` alone for measured clues.
        question: answered by yes or no.
        look_for: what to look at, and what explains it honestly.
        present: a yes as one sentence.
        absent: a no as one sentence.
        source: evidence source that answers a measured clue; empty for others.
        at_least: its score from which the answer is yes.
        codes: its outcomes for which the answer is yes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]
    version: Annotated[int, Field(ge=1)]
    category: Category
    applies: tuple[Subject, ...]
    favours: tuple[Label, ...]
    observers: Annotated[tuple[Observer, ...], Field(min_length=1)]
    question: Annotated[str, Field(pattern=r"^[A-Z].{10,240}\?$")]
    look_for: Annotated[str, Field(min_length=30, max_length=500)]
    present: Sentence
    absent: Sentence
    source: str = ""
    at_least: float | None = None
    codes: tuple[str, ...] = ()

    @field_validator("applies", "favours", "observers", "codes")
    @classmethod
    def _distinct(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(values)) != len(values):
            raise ValueError("names something twice")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Clue:
        if len(self.favours) == len(LABELS):
            raise ValueError("a clue that favours every label says nothing: leave favours empty")
        rules = (self.at_least is not None) + bool(self.codes)
        if self.measured != bool(self.source) or rules != int(self.measured):
            raise ValueError(
                "a measured clue needs a source and either at_least or codes; others need neither"
            )
        if self.measured and len(self.observers) > 1:
            raise ValueError("what an algorithm measures, nobody else observes")
        return self

    @property
    def measured(self) -> bool:
        """True where an algorithm answers."""
        return "algorithm" in self.observers

    def sentence(self, answer: bool) -> str:
        """The answer in words."""
        return self.present if answer else self.absent

    def suits(self, subject: str) -> bool:
        """True where the question makes sense for a picture of this FakeClue category.

        Of pictures without a category (empty) only questions that suit any picture are asked.
        """
        return not self.applies or subject in self.applies


class Catalogue(BaseModel):
    """All clues, in the file's order. ``version`` counts editions of the whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[int, Field(ge=1)]
    clue: Annotated[tuple[Clue, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Catalogue:
        for what in ("id", "question", "present", "absent"):
            counts = Counter(getattr(clue, what) for clue in self.clue)
            twice = [value for value, count in counts.items() if count > 1]
            if twice:
                raise ValueError(f"two clues share their {what}: {twice[0]!r}")
        return self

    def __getitem__(self, name: str) -> Clue:
        """The clue of that id.

        Raises:
            SettingsError: there is none.
        """
        for clue in self.clue:
            if clue.id == name:
                return clue
        raise SettingsError(f"no clue is called {name!r}; docs/clues.md lists them")

    def __iter__(self) -> Iterator[Clue]:  # type: ignore[override]
        """Clues in the file's order, not pydantic's pairs of fields."""
        return iter(self.clue)

    def observable(self, subject: str = "") -> list[Clue]:
        """Clues that a vision-language model can be asked about a picture of this FakeClue category."""
        return [clue for clue in self.clue if "vlm" in clue.observers and clue.suits(subject)]


def read_catalogue(file: Path) -> Catalogue:
    """Read and validate a catalogue.

    Raises:
        SettingsError: it can't be read or is not valid; names the clue and the reason.
    """
    try:
        return _parse(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise SettingsError(f"can't read the clue catalogue {file}: {error.strerror}") from error


@cache
def catalogue() -> Catalogue:
    """The catalogue that comes with the package."""
    text = files("vlmforensics.clues").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return _parse(text, "vlmforensics/clues/catalogue.toml")


def measured_answer(clue: Clue, evidence: Iterable[Evidence]) -> tuple[bool, Evidence] | None:
    """A measured clue's answer and the evidence it is read from; None where the source did not apply or fell out.

    A source that returns evidence without a number (the mask head where it marks nothing) has found nothing: no.
    """
    for item in evidence:
        if item.source == clue.source:
            if clue.codes:
                return item.code in clue.codes, item
            return item.score is not None and clue.at_least is not None and item.score >= clue.at_least, item
    return None


def _parse(text: str, name: str) -> Catalogue:
    try:
        rows = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{name} is no TOML: {error}") from error
    try:
        return Catalogue.model_validate(rows)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = list(first["loc"])
        clue = "the catalogue"
        if len(where) > 1 and where[0] == "clue" and isinstance(where[1], int):
            clue = f"clue {rows['clue'][where[1]].get('id', where[1])!r}"
        field = ".".join(str(part) for part in where[2:])
        raise SettingsError(f"{name}: {clue}: {field + ': ' if field else ''}{first['msg']}") from error
