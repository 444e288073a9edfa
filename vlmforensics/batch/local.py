"""The local engine: a bounded pipeline of threads over one loaded model.

Decoding happens in its own process, signals and networks leave the interpreter lock while they compute, so
that two
pictures under way fill two cores better than one picture on both: networks of this size lose more in handing
slices of a layer from core to core than in having one core each. At most two pictures per thread are under
way or waiting to be written, so memory does not grow with the folder.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from vlmforensics.batch.inputs import Job
from vlmforensics.batch.work import Record, WorkFactory


def default_workers() -> int:
    """One thread a usable core, at most eight: each holds a picture's activations in memory."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, usable))


class LocalEngine:
    """Threads over one model; ``workers`` None takes one a core."""

    name = "local"

    def __init__(self, workers: int | None = None) -> None:
        self.workers = default_workers() if workers is None else workers

    def run(self, jobs: Iterable[Job], factory: WorkFactory, stop: Callable[[], bool]) -> Iterator[Record]:
        """See :class:`vlmforensics.batch.work.Engine`."""
        work = factory()
        if self.workers == 1:
            for job in jobs:
                if stop():
                    return
                yield work(job)
            return
        with ThreadPoolExecutor(self.workers, thread_name_prefix="batch") as pool:
            under_way: deque[Future[Record]] = deque()
            try:
                for job in jobs:
                    if stop():
                        break
                    under_way.append(pool.submit(work, job))
                    if len(under_way) >= 2 * self.workers:
                        yield under_way.popleft().result()
                while under_way:
                    future = under_way.popleft()
                    # what has not begun need not; what has begun is worth keeping
                    if not (stop() and future.cancel()):
                        yield future.result()
            finally:
                for future in under_way:
                    future.cancel()
