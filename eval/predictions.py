"""Stored predictions, read back for scoring: batch records joined with the labelled pictures they are about."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmforensics.errors import SettingsError
from vlmforensics.eval.metrics import draws
from vlmforensics.eval.run import RECORDS, RUN, SAMPLES
from vlmforensics.eval.samples import FAKE, Sample
from vlmforensics.types import LABELS

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """One record without error, and the sample it is about."""

    sample: Sample
    condition: str
    record: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """The decision, ``inconclusive`` where it abstained."""
        return str(self.record["verdict"])

    @property
    def right(self) -> bool:
        """Whether the verdict is the truth; for the truth *fake* either kind of accusation is right."""
        if self.sample.label == FAKE:
            return self.verdict in ("synthetic", "tampered")
        return self.verdict == self.sample.label

    @property
    def probabilities(self) -> list[float]:
        """In the order of ``types.LABELS``."""
        return [float(self.record["probabilities"][label]) for label in LABELS]


@dataclass(frozen=True)
class Run:
    """A run's folder, read.

    Attributes:
        folder: of the run.
        plan: ``run.json``.
        samples: all that were to be examined.
        predictions: those examined without error.
        errors: error records.
        model: as recorded.
    """

    folder: Path
    plan: Mapping[str, Any]
    samples: Sequence[Sample]
    predictions: Sequence[Prediction]
    errors: Sequence[Mapping[str, Any]]
    model: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def conditions(self) -> list[str]:
        """In the order of the plan, those with predictions only."""
        present = {p.condition for p in self.predictions}
        return [name for name in self.plan["conditions"] if name in present]

    def under(self, condition: str) -> list[Prediction]:
        """Predictions under one condition."""
        return [p for p in self.predictions if p.condition == condition]


def load_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        SettingsError: something is missing or is not what a run writes.
    """
    try:
        plan = json.loads((folder / RUN).read_text(encoding="utf-8"))
        samples = [Sample.from_json(row) for row in _lines(folder / SAMPLES)]
        by_name = {sample.name: sample for sample in samples}
        good: list[Prediction] = []
        bad: list[dict[str, Any]] = []
        model: dict[str, Any] = {}
        for record in _lines(folder / RECORDS):
            condition, _, name = record["file"].partition("/")
            model = record["model"]
            if record["error"] is not None:
                bad.append(record)
            else:
                good.append(Prediction(by_name[name], condition, record))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{folder} does not hold a run that can be scored ({error!r}); `eval run --out {folder}` makes one"
        ) from error
    if not good:
        raise SettingsError(f"{folder} has no prediction without an error, so there is nothing to score")
    return Run(folder, plan, samples, good, bad, model)


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            if line.endswith("\n"):  # a torn last line is not recorded
                yield json.loads(line)


@dataclass(frozen=True, eq=False)
class Arrays:
    """Predictions of one condition as arrays.

    Attributes:
        truth: (n,) labels as text.
        said: (n,) verdicts.
        families: (n,).
        p: (n, 3) probabilities.
        fake: (n,) natural-log odds of not real, with equal priors of real and the rest: 0 = undecided.
    """

    truth: list[str]
    said: list[str]
    families: list[str]
    p: Floats
    fake: Floats

    @classmethod
    def of(cls, predictions: Sequence[Prediction]) -> Arrays:
        """Gather."""
        p = np.array([item.probabilities for item in predictions], np.float64).reshape(-1, 3)
        rest = np.log(np.maximum(p[:, 1] + p[:, 2], 1e-12)) - np.log(np.maximum(p[:, 0], 1e-12))
        return cls(
            [item.sample.label for item in predictions],
            [item.verdict for item in predictions],
            [item.sample.family for item in predictions],
            p,
            rest - np.log(2),
        )

    @property
    def three(self) -> bool:
        """Whether every truth is one of the three labels."""
        return FAKE not in self.truth

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) indices into ``types.LABELS``; only where :attr:`three`."""
        return np.array([LABELS.index(name) for name in self.truth], np.int64)  # type: ignore[arg-type]

    def draws(self, seed: int, rows: NDArray[np.intp] | None = None) -> Floats:
        """(rounds, n) weights of a bootstrap over families, of these rows or of all."""
        kept = np.arange(len(self.truth)) if rows is None else rows
        return draws([self.truth[i] for i in kept], [self.families[i] for i in kept], seed=seed)

    def margin(self, label: str) -> Floats:
        """(n,) natural-log odds of a label against real; of ``fake``, :attr:`fake`."""
        if label == FAKE:
            return self.fake
        place = LABELS.index(label)  # type: ignore[arg-type]
        return np.asarray(
            np.log(np.maximum(self.p[:, place], 1e-12)) - np.log(np.maximum(self.p[:, 0], 1e-12))
        )
