"""One picture in, one record out, whatever happens: what every engine runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from vlmforensics.assistant import Assistant
from vlmforensics.batch.inputs import Job
from vlmforensics.report import error_record, to_record
from vlmforensics.report.ledger import file_digest
from vlmforensics.settings import Settings

Record = dict[str, Any]
Work = Callable[[Job], Record]
WorkFactory = Callable[[], Work]
_log = logging.getLogger(__name__)


class Engine(Protocol):
    """Runs work over jobs and yields one record per job, in the jobs' order."""

    name: str

    def run(self, jobs: Iterable[Job], factory: WorkFactory, stop: Callable[[], bool]) -> Iterator[Record]:
        """Yield records as they are finished.

        Args:
            jobs: read lazily, never far ahead of what is finished.
            factory: makes the work, once per process that computes.
            stop: polled; once true no further job is begun, those under way are finished and yielded.
        """
        ...


class Worker:
    """Examines one job with an assistant; never raises for a picture.

    Args:
        assistant: any.
        with_text: False leaves explanations out, and lets the look be cheaper.
    """

    def __init__(self, assistant: Assistant, *, with_text: bool = True) -> None:
        self.assistant = assistant
        self.with_text = with_text

    def __call__(self, job: Job) -> Record:
        """Return the record of one picture."""
        try:
            report = self.assistant.examine(job.path, file=job.file, for_text=self.with_text)
            if self.with_text:
                for _ in self.assistant.explain(report):
                    pass
            # the label as found, not as made safe to show: resuming compares it with the file's name
            return to_record(report, with_text=self.with_text) | {"file": job.file}
        except Exception as error:  # noqa: BLE001 - the boundary of a batch: one bad file never stops it
            _log.debug("no verdict on %s", job.path, exc_info=error)
            return error_record(job.file, file_digest(job.path), error, self.assistant.model)


@dataclass(frozen=True)
class LoadWorker:
    """A work factory that loads the assistant where it is called; travels to other processes as it is."""

    model: str
    settings: Settings
    with_text: bool = True

    def __call__(self) -> Worker:
        """Load the model and return the work."""
        return Worker(Assistant.load(self.model, settings=self.settings), with_text=self.with_text)
