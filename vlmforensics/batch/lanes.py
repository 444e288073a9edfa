"""Where jobs are worked on: a lane takes jobs by number and gives back records by number.

``ordered`` runs any lane: it reads jobs a bounded way ahead and yields records in the jobs' order.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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


@dataclass
class _Group:
    """Jobs that are finished together: which ones, how many have ended, and whether more may join."""

    numbers: list[int] = field(default_factory=list)
    drafts: dict[int, Draft] = field(default_factory=dict)
    ended: int = 0
    full: bool = False

    @property
    def due(self) -> bool:
        """True once, when the last of them has ended and no other can join."""
        return self.full and self.ended == len(self.numbers)


class ThreadLane:
    """Threads of this process over one piece of work.

    Work with ``begin`` and ``finish`` goes in two steps: pictures are examined one by one as threads are free, and
    ``group`` of them, neighbours in the jobs' order, are finished together by the thread that examined the last of
    them, so no thread waits for another. Which are grouped does not depend on timing, so that two runs over the same
    jobs compute the same.

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
        self._lock = threading.Lock()
        self._open = _Group()
        self._cancelled = False

    def submit(self, number: int, job: Job) -> None:
        """See ``Lane``."""
        with self._lock:
            group = self._open
            group.numbers.append(number)
            if len(group.numbers) >= self.group:
                group.full, self._open = True, _Group()
        self._pool.submit(self._one, group, number, job)

    def flush(self) -> None:
        """See ``Lane``."""
        with self._lock:
            group, self._open = self._open, _Group()
            group.full = bool(group.numbers)
            due = group.due
        if due:
            self._pool.submit(self._together, group)

    def cancel(self) -> None:
        """See ``Lane``."""
        self._cancelled = True
        self.flush()

    def close(self, *, now: bool) -> None:
        """See ``Lane``."""
        self._cancelled = self._cancelled or now
        self._pool.shutdown(wait=True, cancel_futures=now)

    def _one(self, group: _Group, number: int, job: Job) -> None:
        try:
            draft = None
            if not self._cancelled:
                self._note("begun", (number,))
                draft = self._begin(job)
                self._note("drafted", (number,))
            with self._lock:
                if draft is not None:
                    group.drafts[number] = draft
                group.ended += 1
                due = group.due
        except Exception as error:  # noqa: BLE001 - work never raises for a picture: this ends the batch
            self.results.put(error)
            return
        if due:
            self._together(group)

    def _together(self, group: _Group) -> None:
        try:
            for number in group.numbers:
                if number not in group.drafts:
                    self._emit(number, None)
            drafts = [(number, group.drafts[number]) for number in group.numbers if number in group.drafts]
            self._note("telling", tuple(number for number, _ in drafts))
            records = self._finish([draft for _, draft in drafts])
            for (number, _), record in zip(drafts, records, strict=True):
                self._emit(number, record)
        except Exception as error:  # noqa: BLE001 - as above
            self.results.put(error)


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
