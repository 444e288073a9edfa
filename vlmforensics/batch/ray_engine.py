"""The Ray engine: Ray Data over a pool of actors, each with its own model; the same records.

Jobs travel, pixels do not: every node must see the files under the same paths. Ray restarts an actor that died
and hands its block to it again; a picture that kills whoever examines it would do so for ever, so each actor
supervises a process of its own (see ``supervised``) and survives such a picture. Resuming is the ledger's
business, on the driver, as for every engine.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from vlmforensics.batch.inputs import Job
from vlmforensics.batch.lanes import Lane, ThreadLane, ordered
from vlmforensics.batch.local import PICTURE_SECONDS, default_workers
from vlmforensics.batch.process import prepare_process
from vlmforensics.batch.work import Record, WorkFactory
from vlmforensics.errors import MissingExtra, SettingsError

try:
    import ray
    import ray.data
except ModuleNotFoundError as missing:
    raise MissingExtra('the Ray engine needs ray: pip install "vlmforensics[ray]"') from missing

_PICTURES_PER_BLOCK = 4
_ROWS = 20_000
"""Jobs handed to Ray at a time: bounds the driver's memory; starting actors anew for the next is lost in them."""


class _Actor:
    """Holds one worker; its rows are bytes only, so that any file name survives the trip."""

    def __init__(self, factory: WorkFactory, *, isolated: bool, picture_seconds: float) -> None:
        prepare_process()
        self._numbers = itertools.count()
        self._lane: Lane
        if isolated:
            from vlmforensics.batch.supervised import ChildLane

            self._lane = ChildLane(factory, 1, picture_seconds)
        else:
            self._lane = ThreadLane(factory(), 1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Examine a block of jobs."""
        jobs = [Job.from_json(line) for line in batch["job"]]
        # one more than there are, so that the end is seen and the last group finished
        records = list(ordered(self._lane, jobs, lambda: False, len(jobs) + 1, self._numbers))
        return {"record": np.array([json.dumps(record).encode("ascii") for record in records], dtype=object)}


class RayEngine:
    """A pool of actors on a Ray cluster.

    Args:
        workers: number of actors; None takes one a core of this machine, or of the running cluster.
        address: of a running cluster; None starts a local one for the time of the batch.
        gpus: per actor.
        isolated: each actor examines in a process of its own; the factory must then be a ``LoadWorker``.
        picture_seconds: limit for one picture, where isolated.
    """

    name = "ray"

    def __init__(
        self,
        workers: int | None = None,
        *,
        address: str | None = None,
        gpus: float = 0,
        isolated: bool = False,
        picture_seconds: float = PICTURE_SECONDS,
    ) -> None:
        self.workers = default_workers() if workers is None and address is None else workers
        self.address = address
        self.gpus = gpus
        self.isolated = isolated
        self.picture_seconds = picture_seconds

    def run(self, jobs: Iterable[Job], factory: WorkFactory, stop: Callable[[], bool]) -> Iterator[Record]:
        """See ``vlmforensics.batch.work.Engine``; after ``stop`` nothing further is yielded."""
        stream = iter(jobs)
        rows = self._rows(stream, stop)
        if not rows:
            return
        started = self._start()
        try:
            while rows and not stop():
                for row in self._dataset(rows, factory).iter_rows():
                    record: Record = json.loads(row["record"])
                    yield record
                    if stop():
                        return
                rows = self._rows(stream, stop)
        finally:
            if started:
                ray.shutdown()

    @staticmethod
    def _rows(stream: Iterator[Job], stop: Callable[[], bool]) -> list[dict[str, bytes]]:
        taken = itertools.takewhile(lambda _: not stop(), itertools.islice(stream, _ROWS))
        return [{"job": job.to_json().encode("ascii")} for job in taken]

    def _start(self) -> bool:
        """Connect or start; True where a local cluster was started or joined here."""
        if ray.is_initialized():
            return False
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if self.address is not None:
            try:
                ray.init(address=self.address, log_to_driver=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise SettingsError(f"no Ray cluster answers at {self.address}: {error}") from error
            return True
        ray.init(
            address="local",  # never a cluster that happens to run on this machine: it may not be ours
            include_dashboard=False,
            log_to_driver=False,
            # one more than the actors: reading tasks must not wait for the actors, which never end
            num_cpus=(self.workers or 1) + 1,
            object_store_memory=256 << 20,
        )
        return True

    def _dataset(self, rows: list[dict[str, bytes]], factory: WorkFactory) -> ray.data.Dataset:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        group = _group_of(factory)
        blocks = max(1, math.ceil(len(rows) / max(group, _PICTURES_PER_BLOCK)))
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        actors = self.workers or max(1, int(resources.get("CPU", 1)) - 1)
        return ray.data.from_items(
            rows, override_num_blocks=blocks
        ).map_batches(
            _Actor,
            fn_constructor_kwargs={
                "factory": factory,
                "isolated": self.isolated,
                "picture_seconds": self.picture_seconds,
            },
            compute=ray.data.ActorPoolStrategy(size=min(actors, blocks)),
            batch_size=group,
            num_cpus=1,
            num_gpus=self.gpus,  # an actor that dies is restarted and its block handed to it again: Ray's default
        )


def _group_of(factory: WorkFactory) -> int:
    """Pictures that the work wants at once: a block of them, so that they are neighbours whatever the cluster."""
    if getattr(factory, "explains_all", False):
        return int(getattr(factory, "group", 1))
    return 1
