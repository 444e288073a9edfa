"""Run a batch: leave out what the ledger has, examine the rest, write each record as it is finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vlmforensics.batch.inputs import Job
from vlmforensics.batch.work import Engine, Record, WorkFactory
from vlmforensics.errors import SettingsError
from vlmforensics.report.ledger import Ledger, file_digest

ENGINES = ("local", "ray")


def pending(jobs: Sequence[Job], ledger: Ledger) -> list[Job]:
    """The jobs without a record in the ledger; only files whose name it knows are read, to compare bytes."""
    return [
        job for job in jobs if not (ledger.knows(job.file) and ledger.has(job.file, file_digest(job.path)))
    ]


def run_batch(
    jobs: Sequence[Job],
    ledger: Ledger,
    engine: Engine,
    factory: WorkFactory,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Record]:
    """Examine jobs; every yielded record is already on the disk.

    Args:
        jobs: what is to be done, see :func:`pending`.
        ledger: open batch file.
        engine: see :func:`make_engine`.
        factory: makes the work in each process that computes.
        stop: polled between pictures; once true the batch ends after those under way.
    """
    if not jobs:
        return
    for record in engine.run(jobs, factory, stop):
        ledger.append(record)
        yield record


def make_engine(
    name: str, *, workers: int | None = None, address: str | None = None, gpus: float = 0
) -> Engine:
    """Make an engine by name: ``local`` or ``ray``.

    Raises:
        SettingsError: unknown name, or fewer than one worker.
        MissingExtra: Ray is not installed.
    """
    if workers is not None and workers < 1:
        raise SettingsError(f"a batch needs at least one worker, not {workers}")
    if name == "local":
        from vlmforensics.batch.local import LocalEngine

        return LocalEngine(workers)
    if name == "ray":
        from vlmforensics.batch.ray_engine import RayEngine

        return RayEngine(workers, address=address, gpus=gpus)
    raise SettingsError(f"there is no engine {name!r}; choose one of {', '.join(ENGINES)}")
