"""The local engine: a bounded pipeline of threads over one loaded model.

Decoding happens in its own process, signals and networks leave the interpreter lock while they compute, so
that two pictures under way fill two cores better than one picture on both: networks of this size lose more in
handing slices of a layer from core to core than in having one core each. A bounded number of pictures is under
way or waiting to be written, so memory does not grow with the folder.

The threads run in this process (``isolated`` False, for programs that use the library) or in a supervised one
(the command): there a crash, a lack of memory or a picture that never ends costs that picture only.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator

from vlmforensics.batch.inputs import Job
from vlmforensics.batch.lanes import Lane, ThreadLane, ordered
from vlmforensics.batch.work import Record, WorkFactory

PICTURE_SECONDS = 600.0
"""How long one picture may take by default: far more than any needs, on any machine that is not stuck."""


def default_workers() -> int:
    """One thread a usable core, at most eight: each holds a picture's activations in memory."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, usable))


class LocalEngine:
    """Threads over one model.

    Args:
        workers: threads; None takes one a core.
        isolated: run them in a process of their own; the factory must then be a ``LoadWorker``.
        picture_seconds: limit for one picture, where isolated.
    """

    name = "local"

    def __init__(
        self, workers: int | None = None, *, isolated: bool = False, picture_seconds: float = PICTURE_SECONDS
    ) -> None:
        self.workers = default_workers() if workers is None else workers
        self.isolated = isolated
        self.picture_seconds = picture_seconds

    def run(self, jobs: Iterable[Job], factory: WorkFactory, stop: Callable[[], bool]) -> Iterator[Record]:
        """See :class:`vlmforensics.batch.work.Engine`."""
        lane = self._lane(factory)
        done = False
        try:
            # two groups ahead: while one is being explained the next is examined
            window = 2 * (self.workers if lane.group == 1 else lane.group)
            yield from ordered(lane, jobs, stop, window, itertools.count())
            done = True
        finally:
            lane.close(now=not done)

    def _lane(self, factory: WorkFactory) -> Lane:
        if not self.isolated:
            return ThreadLane(factory(), self.workers)
        from vlmforensics.batch.supervised import ChildLane

        return ChildLane(factory, self.workers, self.picture_seconds)
