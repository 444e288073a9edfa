"""Run a batch: leave out what the ledger has, examine the rest, write each record as it is finished."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from vlmforensics.batch.exports import read_records
from vlmforensics.batch.inputs import Job, Key
from vlmforensics.batch.work import TWIN, Engine, Record, WorkFactory
from vlmforensics.errors import SettingsError
from vlmforensics.report.ledger import Ledger

ENGINES = ("local", "ray")
_NAME_NOTE = "The name ends in "


def run_batch(
    jobs: Iterable[Job],
    ledger: Ledger,
    engine: Engine,
    factory: WorkFactory,
    *,
    stop: Callable[[], bool] = lambda: False,
    skipped: Callable[[], Any] = lambda: None,
) -> Iterator[Record]:
    """Examine jobs; every yielded record is already on the disk.

    What the ledger has under the same name with the same bytes is left out; of inputs that can't be read, as many of
    one name as it has records of. Bytes that came before under another name are not examined again: their record is
    the first one's with the other name, no timing, and ``same_bytes_as``.

    Args:
        jobs: what is to be done, read lazily.
        ledger: open batch file.
        engine: see :func:`make_engine`.
        factory: makes the work in each process that computes.
        stop: polled between pictures; once true the batch ends after those under way.
        skipped: called for each job that is left out.
    """
    todo = _Todo(jobs, ledger, skipped)
    stream = iter(todo)
    first = next(stream, None)
    if first is None:  # nothing to do: no model is loaded
        return
    again: list[Job] = []
    for record in engine.run(_chain(first, stream), factory, stop):
        if record.get(TWIN):
            original = ledger.of_bytes(record["sha256"])
            if original is None:  # its file changed while it was read: the twin is examined after all
                again.append(todo.twins.pop((record["file"], record["sha256"])))
                continue
            record = twin_record(original, record["file"])
        ledger.append(record)
        todo.settled(record)
        yield record
    for record in engine.run(again, factory, stop) if again and not stop() else ():
        ledger.append(record)
        yield record


def twin_record(original: Record, file: str) -> Record:
    """The record of a picture whose bytes are those of ``original`` under another name."""
    if original["file"] == file:
        return original
    copy = {**original, "file": file, "timing": {}, "same_bytes_as": original["file"]}
    if "notes" in copy:  # that note is about the other name
        copy["notes"] = [note for note in copy["notes"] if not note.startswith(_NAME_NOTE)]
    return copy


class _Todo:
    """Jobs that are not recorded yet, hashed, with twins marked."""

    def __init__(self, jobs: Iterable[Job], ledger: Ledger, skipped: Callable[[], Any]) -> None:
        self._jobs, self._ledger, self._skipped = jobs, ledger, skipped
        self._begun: set[str] = set()
        self._under_way: set[Key] = set()
        self._lost = _Lost(ledger)
        self.twins: dict[Key, Job] = {}

    def __iter__(self) -> Iterator[Job]:
        for found in self._jobs:
            job = found.hashed()
            digest = job.sha256
            if digest is None:
                if self._lost.is_new(job):
                    yield job
                else:
                    self._skipped()
                continue
            if job.key in self._under_way or self._ledger.has(job.file, digest):
                self._skipped()
                continue
            self._under_way.add(job.key)
            if digest in self._begun or self._ledger.holds(digest):
                self.twins[job.key] = job
                yield replace(job, twin=True)
            else:
                self._begun.add(digest)
                yield job

    def settled(self, record: Record) -> None:
        """Forget what is under way no more: the ledger knows it now."""
        key = record["file"], record["sha256"]
        self._under_way.discard(key)
        self.twins.pop(key, None)
        if record["sha256"] is not None:
            self._begun.discard(record["sha256"])


class _Lost:
    """Inputs that can't be read, and so have no bytes to be told apart by: by where they lie, within one run.

    A record does not say where. So that a run goes on where another was interrupted, the n-th of a name counts as
    recorded where the file had n records of that name at the start: the order of inputs is the same.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._before = ledger.count
        self._met: set[bytes] = set()  # names and places: a folder that is not there may have held millions
        self._more: Counter[str] = Counter()
        self._recorded: Counter[str] | None = None

    def is_new(self, job: Job) -> bool:
        """True where this input was neither met in this run nor recorded in one before."""
        name, place = _brief(job.file), _brief(repr(job))
        if place in self._met:
            return False
        first = name not in self._met
        self._met.update((name, place))
        if first:
            return not self._ledger.has(job.file, None)
        self._more[job.file] += 1
        return 1 + self._more[job.file] > self._counts()[job.file]

    def _counts(self) -> Counter[str]:
        """Records of each name without bytes when the run began; read when two inputs share one, which is rare."""
        if self._recorded is None:
            old = islice(read_records(self._ledger.path), self._before)
            self._recorded = Counter(record["file"] for record in old if record["sha256"] is None)
        return self._recorded


def _brief(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _chain(first: Job, rest: Iterator[Job]) -> Iterator[Job]:
    yield first
    yield from rest


def make_engine(
    name: str,
    *,
    workers: int | None = None,
    address: str | None = None,
    gpus: float = 0,
    isolated: bool = False,
    picture_seconds: float | None = None,
) -> Engine:
    """Make an engine by name: ``local`` or ``ray``.

    Args:
        name: of the engine.
        workers: threads, or actors; None takes one a core.
        address: of a running Ray cluster.
        gpus: per Ray actor.
        isolated: examine in a supervised process; the factory must then be a ``LoadWorker``.
        picture_seconds: limit for one picture where the work is isolated; None takes the default.

    Raises:
        SettingsError: unknown name, fewer than one worker, no time at all.
        MissingExtra: Ray is not installed.
    """
    from vlmforensics.batch.local import PICTURE_SECONDS, LocalEngine

    seconds = PICTURE_SECONDS if picture_seconds is None else picture_seconds
    if workers is not None and workers < 1:
        raise SettingsError(f"a batch needs at least one worker, not {workers}")
    if seconds <= 0:
        raise SettingsError(f"a picture needs some time, not {seconds:g} seconds")
    if name == "local":
        return LocalEngine(workers, isolated=isolated, picture_seconds=seconds)
    if name == "ray":
        from vlmforensics.batch.ray_engine import RayEngine

        return RayEngine(workers, address=address, gpus=gpus, isolated=isolated, picture_seconds=seconds)
    raise SettingsError(f"there is no engine {name!r}; choose one of {', '.join(ENGINES)}")
