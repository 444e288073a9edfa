"""Where jobs are worked on: a lane takes jobs by number and gives back records by number.

``ordered`` runs any lane: it reads jobs a bounded way ahead and yields records in the jobs' order.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from vlmforensics.batch.inputs import Job
from vlmforensics.batch.work import Draft, Record, Work

Emit = Callable[[int, Record | None], None]
"""Takes a job's number and its record, or None where the job was not begun."""
Note = Callable[[str, Sequence[int]], None]
"""Takes a stage (``begun``, ``drafted``, ``telling``) and the numbers of the jobs that reached it."""
_POLL = 0.1


class Lane(Protocol):
    """See ``ThreadLane`` and ``supervised.ChildLane``."""

    group: int
    results: queue.Queue[tuple[int, Record | None] | Exception]

    def submit(self, number: int, job: Job) -> None:
        """Take a job; never blocks."""
        ...

    def flush(self) -> None:
        """Finish groups that are not full: no further job will come for a while."""
        ...

    def cancel(self) -> None:
        """Give back what has not begun, finish what has."""
        ...

    def close(self, *, now: bool) -> None:
        """End; ``now`` drops what is under way."""
        ...


class ThreadLane:
    """Threads of this process over one piece of work.

    Work with ``begin`` and ``finish`` goes in two steps: pictures are examined one by one as threads are free,
    and ``group`` of them, neighbours in the jobs' order, are finished together. Which are grouped does not depend
    on timing, so that two runs over the same jobs compute the same.

    Args:
        work: as its factory made it.
        workers: threads.
        emit: where records go; None keeps them in ``results``.
        note: told how far jobs have come.
    """

    def __init__(self, work: Work, workers: int, emit: Emit | None = None, note: Note | None = None) -> None:
        self.group = int(getattr(work, "group", 1))
        self.results: queue.Queue[tuple[int, Record | None] | Exception] = queue.Queue()
        self._begin: Callable[[Job], Draft] = getattr(work, "begin", None) or (
            lambda job: Draft(job, work(job))
        )
        self._finish: Callable[[Sequence[Draft]], list[Record]] = getattr(work, "finish", None) or _records
        self._emit: Emit = emit or (lambda number, record: self.results.put((number, record)))
        self._note: Note = note or (lambda stage, numbers: None)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="batch")
        self._open: list[tuple[int, Future[Draft]]] = []
        self._cancelled = False

    def submit(self, number: int, job: Job) -> None:
        """See ``Lane``."""
        self._open.append((number, self._pool.submit(self._one, number, job)))
        if len(self._open) >= self.group:
            self.flush()

    def flush(self) -> None:
        """See ``Lane``."""
        group, self._open = self._open, []
        if group:
            # behind its pictures in the pool's queue: when this begins, all of them have begun
            self._pool.submit(self._together, group)

    def cancel(self) -> None:
        """See ``Lane``."""
        self._cancelled = True
        self.flush()

    def close(self, *, now: bool) -> None:
        """See ``Lane``."""
        self._cancelled = self._cancelled or now
        self._pool.shutdown(wait=True, cancel_futures=now)

    def _one(self, number: int, job: Job) -> Draft:
        if self._cancelled:
            raise _NotBegun
        self._note("begun", (number,))
        draft = self._begin(job)
        self._note("drafted", (number,))
        return draft

    def _together(self, group: Sequence[tuple[int, Future[Draft]]]) -> None:
        try:
            drafts: dict[int, Draft] = {}
            for number, future in group:
                try:
                    drafts[number] = future.result()
                except _NotBegun:
                    self._emit(number, None)
            self._note("telling", tuple(drafts))
            for number, record in zip(drafts, self._finish(list(drafts.values())), strict=True):
                self._emit(number, record)
        except Exception as error:  # noqa: BLE001 - work never raises for a picture: this ends the batch
            self.results.put(error)


class _NotBegun(Exception):
    pass


def _records(drafts: Sequence[Draft]) -> list[Record]:
    return [draft.record for draft in drafts]


def ordered(
    lane: Lane, jobs: Iterable[Job], stop: Callable[[], bool], window: int, numbers: Iterator[int]
) -> Iterator[Record]:
    """Yield the records of jobs in their order, at most ``window`` jobs ahead of what was yielded.

    Args:
        lane: where they are worked on; left open.
        jobs: read lazily.
        stop: polled; see ``work.Engine``.
        window: jobs taken and not yet yielded.
        numbers: fresh numbers for the lane.
    """
    stream = iter(jobs)
    waiting: list[int] = []
    ready: dict[int, Record | None] = {}
    more = True
    cancelled = False
    while more or waiting:
        while more and len(waiting) < window and not stop():
            job = next(stream, None)
            if job is None:
                more = False
                lane.flush()
                break
            number = next(numbers)
            waiting.append(number)
            lane.submit(number, job)
        if stop() and not cancelled:
            more, cancelled = False, True
            lane.cancel()
        while waiting and waiting[0] in ready:
            record = ready.pop(waiting.pop(0))
            if record is not None:
                yield record
        if waiting and waiting[0] not in ready and (not more or len(waiting) >= window or stop()):
            _take(lane, ready)


def _take(lane: Lane, ready: dict[int, Any]) -> None:
    """Wait a moment for what the lane has finished."""
    try:
        found = lane.results.get(timeout=_POLL)
    except queue.Empty:
        return
    if isinstance(found, Exception):
        raise found
    ready[found[0]] = found[1]
