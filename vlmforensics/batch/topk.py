"""Words for the most suspect pictures only: chosen when all verdicts are known, written into their records."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vlmforensics.batch.exports import read_records
from vlmforensics.batch.inputs import Job, Key, jobs_of
from vlmforensics.batch.work import Engine, Record, WorkFactory
from vlmforensics.report.ledger import Ledger


def most_suspect(records: Path, count: int) -> set[Key]:
    """Which of the ``count`` records with the lowest probability of *real* have no explanation yet.

    Of pictures with the same bytes each counts; ties go by name.
    """
    keys = (
        (record["probabilities"]["real"], record["file"], record["sha256"], record["explanation"] is None)
        for record in read_records(records)
        if record["probabilities"] is not None
    )
    return {(file, sha256) for _, file, sha256, silent in heapq.nsmallest(count, keys) if silent}


def explain_most_suspect(
    jobs: Iterable[Job],
    ledger: Ledger,
    engine: Engine,
    factory: WorkFactory,
    count: int,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Record]:
    """Explain the ``count`` most suspect pictures of a finished batch file; the file changes once, at the end.

    Args:
        jobs: all inputs; the chosen ones are looked up among them.
        ledger: open batch file.
        engine: see ``run.make_engine``.
        factory: makes work that explains all it is given.
        count: how many.
        stop: polled; what was explained until then is kept.

    Yields:
        Each record with its explanation.
    """
    wanted = most_suspect(ledger.path, count)
    if not wanted:
        return
    chosen = jobs_of(jobs, wanted)
    told: dict[Key, Record] = {}
    for record in engine.run(chosen.values(), factory, stop):
        if record["error"] is None:
            told[record["file"], record["sha256"]] = record
        yield record
    if told:
        ledger.replace(told)
