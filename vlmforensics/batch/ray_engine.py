"""The Ray engine: Ray Data over a pool of actors, each with its own model; the same records.

Ray's own failure tolerance drops whole blocks, so the work never raises: every picture comes back as a
record. Resuming is the ledger's business, on the driver, as for every engine.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from vlmforensics.batch.inputs import Job
from vlmforensics.batch.local import default_workers
from vlmforensics.batch.process import prepare_process
from vlmforensics.batch.work import Record, Work, WorkFactory
from vlmforensics.errors import MissingExtra

try:
    import ray
    import ray.data
except ModuleNotFoundError as missing:
    raise MissingExtra('the Ray engine needs ray: pip install "vlmforensics[ray]"') from missing

_PICTURES_PER_BLOCK = 4


class _Actor:
    """Holds one worker; its rows are bytes and text only, so that any file name survives the trip."""

    def __init__(self, factory: WorkFactory) -> None:
        prepare_process()
        self._work: Work = factory()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Examine a block of jobs; names travel as bytes because they need not be valid UTF-8."""
        jobs = zip(batch["file"], batch["path"], strict=True)
        records = [self._work(Job(os.fsdecode(file), os.fsdecode(path))) for file, path in jobs]
        return {"record": np.array([json.dumps(record).encode("ascii") for record in records], dtype=object)}


class RayEngine:
    """A pool of actors on a Ray cluster.

    Args:
        workers: number of actors; None takes one a core of this machine.
        address: of a running cluster; None starts a local one for the time of the batch.
        gpus: per actor.
    """

    name = "ray"

    def __init__(self, workers: int | None = None, *, address: str | None = None, gpus: float = 0) -> None:
        self.workers = default_workers() if workers is None else workers
        self.address = address
        self.gpus = gpus

    def run(self, jobs: Iterable[Job], factory: WorkFactory, stop: Callable[[], bool]) -> Iterator[Record]:
        """See ``vlmforensics.batch.work.Engine``; after ``stop`` nothing further is yielded."""
        rows = [{"file": os.fsencode(job.file), "path": os.fsencode(job.path)} for job in jobs]
        if not rows:
            return
        started = self._start()
        try:
            for row in self._dataset(rows, factory).iter_rows():
                record: Record = json.loads(row["record"])
                yield record
                if stop():
                    return
        finally:
            if started:
                ray.shutdown()

    def _start(self) -> bool:
        """Connect or start; True where a local cluster was started here."""
        if ray.is_initialized():
            return False
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if self.address is not None:
            ray.init(address=self.address, log_to_driver=False)
            return True
        ray.init(
            include_dashboard=False,
            log_to_driver=False,
            # one more than the actors: reading tasks must not wait for the actors, which never end
            num_cpus=self.workers + 1,
            object_store_memory=256 << 20,
        )
        return True

    def _dataset(self, rows: list[dict[str, bytes]], factory: WorkFactory) -> ray.data.Dataset:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        blocks = max(1, math.ceil(len(rows) / _PICTURES_PER_BLOCK))
        return ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            _Actor,
            fn_constructor_kwargs={"factory": factory},
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, blocks)),
            batch_size=1,
            num_cpus=1,
            num_gpus=self.gpus,
        )
