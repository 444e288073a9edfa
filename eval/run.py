"""Run a suite: examine every picture under every condition, one stored batch record each, resumable.

A run is a folder: ``run.json`` (what was asked), ``samples.jsonl`` (the labelled pictures), ``records.jsonl`` (batch
records, ``file`` = condition/name) and ``maps/`` (soft masks, 8 bit, of pictures whose true mask is known). Scoring
reads this folder and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vlmforensics.assistant import Assistant
from vlmforensics.batch import Job, Ledger, LocalEngine, Record, file_digest, run_batch
from vlmforensics.errors import SettingsError, VlmForensicsError
from vlmforensics.eval import conditions as given
from vlmforensics.eval import faithful
from vlmforensics.eval.samples import Sample
from vlmforensics.imaging import open_case, thumbnail, to_png
from vlmforensics.report import error_record, to_record
from vlmforensics.settings import Settings
from vlmforensics.types import Mask, Report

RUN, SAMPLES, RECORDS, MAPS = "run.json", "samples.jsonl", "records.jsonl", "maps"
MAP_SIDE = 512
Load = Callable[[], Assistant]


@dataclass(frozen=True)
class Plan:
    """What a run was asked for; a run is resumed by the same plan only.

    Attributes:
        suite: its name.
        model: as for ``Assistant.load``.
        seed: of the choice of pictures, of random conditions and of bootstraps.
        conditions: see ``conditions``.
        text: explanations are written.
        faithful: explanations are tested.
    """

    suite: str
    model: str
    seed: int
    conditions: tuple[str, ...]
    text: bool = False
    faithful: bool = False


def write_plan(out: Path, plan: Plan, samples: Sequence[Sample]) -> None:
    """Write what a run consists of, or check that a folder that holds one holds this one.

    Raises:
        SettingsError: the folder holds another run, or can't be written.
    """
    head = json.dumps(asdict(plan) | {"n": len(samples)}, indent=1, sort_keys=True) + "\n"
    rows = "".join(json.dumps(sample.to_json(), sort_keys=True) + "\n" for sample in samples)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, text in ((out / RUN, head), (out / SAMPLES, rows)):
            if file.exists() and file.read_text(encoding="utf-8") != text:
                raise SettingsError(
                    f"{out} holds a run of other pictures or settings; name another folder, or remove it"
                )
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"can't write to {out}: {error.strerror}") from error


def jobs_of(plan: Plan, samples: Sequence[Sample]) -> list[Job]:
    """One job per condition and picture; ``file`` is condition/name."""
    return [
        Job(f"{condition}/{sample.name}", str(sample.path.absolute()))
        for sample in samples
        for condition in plan.conditions
    ]


def map_file(out: Path, file: str) -> Path:
    """Where the soft mask of one job lies."""
    return out / MAPS / f"{hashlib.sha256(file.encode()).hexdigest()[:24]}.png"


class Examiner:
    """What the engine runs: one job in, one record out, whatever happens."""

    def __init__(self, assistant: Assistant, plan: Plan, samples: Sequence[Sample], out: Path) -> None:
        self.assistant = assistant
        self.plan = plan
        self.samples = {sample.name: sample for sample in samples}
        self.out = out
        # the swap test needs other pictures' evidence: that of the pictures before
        self.before: list[Report] = []

    def __call__(self, job: Job) -> Record:
        """Examine one picture under one condition."""
        condition, _, name = job.file.partition("/")
        sample = self.samples[name]
        try:
            report = self._examine(job, condition)
            extra: dict[str, Any] = {}
            if self.plan.faithful:
                extra["faithfulness"] = faithful.examine(self.assistant, report, self.before[-1:])
                self.before = [report]
            elif self.plan.text:
                for _ in self.assistant.explain(report):
                    pass
            if sample.mask is not None and report.mask is not None:
                self._keep_map(job.file, report.mask)
            return to_record(report, with_text=self.plan.text) | {"file": job.file} | extra
        except VlmForensicsError as error:
            return error_record(job.file, file_digest(job.path), error, self.assistant.model)

    def _examine(self, job: Job, condition: str) -> Report:
        if condition == given.AS_FOUND:
            return self.assistant.examine(job.path, file=job.file, for_text=self.plan.text)
        name = job.file.partition("/")[2]
        pixels = open_case(job.path, settings=self.assistant.settings).upright
        data = given.prepare(condition, pixels, given.rng_of(name, condition, self.plan.seed))
        return self.assistant.examine(data, file=job.file, for_text=self.plan.text)

    def _keep_map(self, file: str, mask: Mask) -> None:
        levels = np.rint(np.clip(mask.soft, 0, 1) * 255).astype(np.uint8)
        target = map_file(self.out, file)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        part.write_bytes(to_png(thumbnail(levels, MAP_SIDE)))
        part.replace(target)


def run(
    plan: Plan, samples: Sequence[Sample], out: Path, load: Load, *, workers: int | None = None
) -> Iterator[Record]:
    """Examine what has no record yet; every yielded record is on the disk.

    Args:
        plan: see :class:`Plan`.
        samples: of the suite.
        out: the run's folder.
        load: makes the assistant; called where anything is left to do.
        workers: threads of the engine; explanations are tested on one.

    Raises:
        SettingsError: the folder holds another run, or records of other weights.
    """
    given.check(list(plan.conditions))
    write_plan(out, plan, samples)
    with Ledger(out / RECORDS, resume=True) as ledger:
        todo = [job for job in jobs_of(plan, samples) if not ledger.knows(job.file)]
        engine = LocalEngine(1 if plan.faithful else workers)
        yield from run_batch(todo, ledger, engine, lambda: Examiner(load(), plan, samples, out))


def settings_of_run(settings: Settings, workers: int | None) -> Settings:
    """Settings for several pictures at a time: one core each."""
    several = (workers or 2) > 1
    return replace(settings, threads=1) if several and settings.threads == 0 else settings


__all__ = ["Examiner", "Plan", "jobs_of", "map_file", "run", "settings_of_run", "write_plan"]
