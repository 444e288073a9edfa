"""The data engine: labelled pictures in, explained training samples out.

Measurable clues are answered by the evidence rooms, observational ones by annotators who see the picture alone and
vote. Words that betray a label or claim what can't be seen are replaced by the clue's own sentence, and counted. What
nobody measured or agreed on is left out, never invented.

References:
    Chen et al. 2024, X²-DFD (MFA, SFS, WFS); Wen et al. 2025, FakeVLM (FakeClue's multi-annotator aggregation).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlmforensics.clues import Catalogue, Clue, catalogue, measured_answer
from vlmforensics.errors import Defect, InputError, RemoteError, SettingsError
from vlmforensics.finetune.annotators import Annotator, Answer, AnswerCache, key_of
from vlmforensics.finetune.checks import leaks_label, unsupported
from vlmforensics.finetune.compose import FAKECLUE, OPENINGS, Answered, compose
from vlmforensics.finetune.measurements import Measurements
from vlmforensics.finetune.pictures import load_manifest
from vlmforensics.finetune.samples import ClueAnswer, Sample, digest, read_samples
from vlmforensics.imaging import open_case
from vlmforensics.report.files import write_atomically
from vlmforensics.settings import load_settings
from vlmforensics.types import Evidence, Label, Pixels
from vlmforensics.vlm.prompts import QUESTION

BLANK = "blank"
"""Stands for the digest of the blank picture in the cache of answers."""
BLANK_SIDE = 336
BATCH = 8
"""Questions in one request: small models lose count of more."""
Examine = Callable[[Path], Sequence[Evidence]]
"""Path of a picture → what the evidence rooms say of it; raises ``InputError``."""


@dataclass(frozen=True)
class Labelled:
    """A picture with its label: what the engine starts from."""

    image: Path
    label: Label
    source: str = ""
    category: str = ""
    mask: Path | None = None
    prompt: str = QUESTION


def labelled_pictures(path: Path) -> list[Labelled]:
    """Pictures of a folder with ``manifest.jsonl``, or of a JSON-lines file of samples (``finetune import``).

    Pictures that appear several times (a set may ask several questions of one) are taken once.

    Raises:
        SettingsError: neither, or not readable.
    """
    if path.is_dir():
        found = {p.sha256: Labelled(p.path, p.label, p.source, mask=p.mask) for p in load_manifest(path)}
    else:
        found = {
            sample.sha256: Labelled(sample.image, sample.label, sample.source, sample.category, sample.mask)
            for sample in read_samples(path)
        }
    return list(found.values())


@dataclass
class Tally:
    """What happened in a run; written beside the samples."""

    pictures: int = 0
    unreadable: list[str] = field(default_factory=list)
    measured: Counter[str] = field(default_factory=Counter)
    observed: Counter[str] = field(default_factory=Counter)
    split_votes: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)
    leaks: int = 0
    failed_requests: int = 0
    agreeing: int = 0
    compared: int = 0
    answers_to_blank: dict[str, list[str]] = field(default_factory=dict)

    def as_record(self, annotators: Sequence[Annotator]) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "pictures": self.pictures,
            "unreadable": self.unreadable,
            "measured_answers": dict(sorted(self.measured.items())),
            "observed_answers": dict(sorted(self.observed.items())),
            "no_majority": dict(sorted(self.split_votes.items())),
            "pairwise_agreement": self.agreeing / self.compared if self.compared else None,
            "observations_replaced": dict(sorted(self.replaced.items())),
            "label_leaks": self.leaks,
            "failed_requests": self.failed_requests,
            "yes_to_a_blank_picture": self.answers_to_blank,
            "annotators": [
                {
                    "name": annotator.name,
                    "requests": annotator.asked,
                    "tokens_read": annotator.tokens[0],
                    "tokens_written": annotator.tokens[1],
                    "cost": round(annotator.cost, 6),
                }
                for annotator in annotators
            ],
            "cost": round(sum(annotator.cost for annotator in annotators), 6),
        }


class BudgetSpent(SettingsError):
    """The run has cost what it may; it goes on from there with a larger budget."""

    code = "settings.budget"


class Engine:
    """Annotates pictures one by one.

    Args:
        measurements: of the evidence rooms.
        annotators: who observes; none leaves observational clues unanswered.
        cache: of their answers; needed where there are annotators.
        clues: the catalogue.
        budget: most that the annotators may cost in this run, in the currency of their prices; 0 for no bound.
        without: clues that no explanation may use (``assess`` found the model blind to them).
    """

    def __init__(
        self,
        measurements: Measurements,
        annotators: Sequence[Annotator] = (),
        cache: AnswerCache | None = None,
        *,
        clues: Catalogue | None = None,
        budget: float = 0.0,
        without: Iterable[str] = (),
    ) -> None:
        if annotators and cache is None:
            raise SettingsError("annotators need a file to keep their answers in")
        self._measurements, self._annotators, self._cache = measurements, list(annotators), cache
        self._clues = clues or catalogue()
        self._budget, self._without = budget, frozenset(without)
        self.tally = Tally()

    def run(self, pictures: Iterable[Labelled]) -> Iterator[Sample]:
        """Samples in the pictures' order; what can't be opened is counted and left out.

        Raises:
            BudgetSpent: the bound on cost is reached; what was answered is kept.
            RemoteError: an annotator does not answer at all (its first request failed).
        """
        for picture in pictures:
            sha256 = digest(picture.image)
            try:
                evidence, hints = self._measurements.of(picture.image, sha256)
                observed = self._observe(picture, sha256)
            except InputError as error:
                self.tally.unreadable.append(f"{picture.image}: {error.message}")
                continue
            answered = [*self._measure(evidence), *observed]
            self.tally.pictures += 1
            yield Sample(
                image=picture.image,
                sha256=sha256,
                label=picture.label,
                source=picture.source,
                category=picture.category,
                mask=picture.mask,
                prompt=picture.prompt,
                hints=hints,
                answer=compose(picture.label, answered, key=sha256, without=self._without),
                clues=tuple(ClueAnswer(id=a.clue.id, answer=a.answer, by=a.by) for a in answered),
            )

    def record(self) -> dict[str, Any]:
        """What happened, JSON-serialisable."""
        return self.tally.as_record(self._annotators) | {"clues": [key_of(clue) for clue in self._clues]}

    def _measure(self, evidence: Sequence[Evidence]) -> Iterator[Answered]:
        for clue in self._clues:
            found = measured_answer(clue, evidence) if clue.measured else None
            if found is not None:
                answer, item = found
                self.tally.measured[clue.id] += answer
                # the measurement's own words carry its number; a clue that is absent is said plainly
                said = item.statement if answer else clue.absent
                yield Answered(clue, answer, f"measured:{item.source}", said)

    def _observe(self, picture: Labelled, sha256: str) -> list[Answered]:
        clues = self._clues.observable(picture.category)
        told = {
            annotator.name: self._answers(annotator, picture, sha256, clues) for annotator in self._annotators
        }
        agreed: list[Answered] = []
        for clue in clues:
            votes = {
                name: answers[clue.id]
                for name, answers in told.items()
                if clue.id in answers and answers[clue.id].vote != "unclear"
            }
            agreed += self._agreed(clue, votes)
        return agreed

    def _answers(
        self, annotator: Annotator, picture: Labelled, sha256: str, clues: Sequence[Clue]
    ) -> dict[str, Answer]:
        """What one annotator says of one picture, without the clues that it affirms of a blank one."""
        of_blank = self._ask(annotator, _blank, BLANK, clues)
        guessed = {clue for clue, answer in of_blank.items() if answer.vote == "yes"}
        known = self.tally.answers_to_blank.get(annotator.name, [])
        self.tally.answers_to_blank[annotator.name] = sorted({*known, *guessed})
        asked = [clue for clue in clues if clue.id not in guessed]
        return self._ask(annotator, lambda: _pixels(picture.image), sha256, asked)

    def _ask(
        self, annotator: Annotator, pixels: Callable[[], Pixels], sha256: str, clues: Sequence[Clue]
    ) -> dict[str, Answer]:
        """Answers by clue: those that are kept, and those of the requests that are still needed.

        A request is made of pixels and questions alone. It can't know the label.
        """
        if self._cache is None:
            raise Defect("annotators without a file for their answers")
        found: dict[str, Answer] = {}
        missing = []
        for clue in clues:
            known = self._cache.get(annotator.name, sha256, clue)
            if known is None:
                missing.append(clue)
            else:
                found[clue.id] = known
        if not missing:
            return found
        picture = pixels()
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            if self._budget and sum(a.cost for a in self._annotators) >= self._budget:
                raise BudgetSpent(
                    f"the annotators have cost {self._budget:g}, all that this run may spend; the answers are "
                    "kept, and a run with a larger --budget goes on from here"
                )
            try:
                answers = annotator.ask(picture, batch)
            except RemoteError:
                if not annotator.asked:
                    raise  # it never worked: better said now than counted ten thousand times
                self.tally.failed_requests += 1
                continue  # asked again in the next run, for nothing was kept
            self._cache.put(annotator.name, sha256, zip(batch, answers, strict=True))
            found |= {clue.id: answer for clue, answer in zip(batch, answers, strict=True)}
        return found

    def _agreed(self, clue: Clue, votes: Mapping[str, Answer]) -> Iterator[Answered]:
        """The vote: more than half of all annotators must say the same, undecided ones counting against."""
        said = list(votes.values())
        for i, one in enumerate(said):
            for other in said[i + 1 :]:
                self.tally.compared += 1
                self.tally.agreeing += one.vote == other.vote
        for vote in ("yes", "no"):
            agreeing = {name: answer for name, answer in votes.items() if answer.vote == vote}
            if 2 * len(agreeing) > len(self._annotators):
                self.tally.observed[clue.id] += vote == "yes"
                by = ", ".join(agreeing)[:400]
                yield Answered(clue, vote == "yes", by, self._sentence(clue, vote == "yes", agreeing))
                return
        if votes:
            self.tally.split_votes[clue.id] += 1

    def _sentence(self, clue: Clue, answer: bool, agreeing: Mapping[str, Answer]) -> str:
        """The first observation that passes the checks, or the clue's own sentence."""
        for said in agreeing.values():
            if not said.seen:
                continue
            if leaks_label(said.seen):
                self.tally.leaks += 1
                continue
            reasons = unsupported(said.seen, clue, answer)
            if not reasons:
                return said.seen
            self.tally.replaced.update(reasons)
        return clue.sentence(answer)


def _blank() -> Pixels:
    return np.full((BLANK_SIDE, BLANK_SIDE, 3), 128, np.uint8)


def _pixels(path: Path) -> Pixels:
    return open_case(path, settings=load_settings()).upright


def kept_beside(out: Path, what: str) -> Path:
    """Where ``answers`` or ``evidence`` for an output file are kept."""
    return out.with_name(f"{out.stem}.{what}.jsonl")


def write_report(out: Path, engine: Engine) -> Path:
    """Write what happened beside the samples; returns the file."""
    file = out.with_name(f"{out.stem}.report.json")
    write_atomically(file, json.dumps(engine.record(), indent=1, ensure_ascii=False) + "\n")
    return file


def in_fakeclue_words(sample: Sample) -> Sample:
    """A sample of this engine with FakeClue's first sentence in place of ours."""
    said = sample.answer.removeprefix(OPENINGS[sample.label])
    return sample.model_copy(update={"answer": FAKECLUE[sample.label] + said})
