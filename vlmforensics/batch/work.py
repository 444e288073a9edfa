"""One picture in, one record out, whatever happens: what every engine runs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from vlmforensics.assistant import Assistant
from vlmforensics.batch.inputs import Job
from vlmforensics.errors import SettingsError
from vlmforensics.report import error_record, to_record
from vlmforensics.report.ledger import file_digest
from vlmforensics.report.record import explanation_check
from vlmforensics.settings import Settings
from vlmforensics.types import Report

Record = dict[str, Any]
Work = Callable[[Job], Record]
WorkFactory = Callable[[], Work]
TEXTS = ("all", "flagged", "none")
TWIN = "twin"
GROUP = 8
"""Pictures whose explanations are written together where the backbone can (``narrate_many``) and memory lasts."""
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


@dataclass
class Draft:
    """A picture that was examined and may still want words."""

    job: Job
    record: Record
    report: Report | None = None


class Worker:
    """Examines one job with an assistant; never raises for a picture.

    Args:
        assistant: any.
        with_text: False leaves explanations out, and lets the look be cheaper.
        text: ``all``, ``flagged`` (only where manipulation is more likely than not) or ``none``; overrides
            ``with_text``.
        group: pictures whose explanations are written together.

    Attributes:
        group: how many drafts :meth:`finish` should be given at once; fewer than asked for where the backbone says
            that so many do not fit (``texts_at_once``).
    """

    def __init__(
        self, assistant: Assistant, *, with_text: bool = True, text: str | None = None, group: int = GROUP
    ) -> None:
        self.assistant = assistant
        self.text = check_text(text if text is not None else "all" if with_text else "none")
        together = self.text == "all" and hasattr(assistant.backbone, "narrate_many")
        self.group = min(group, getattr(assistant.backbone, "texts_at_once", group)) if together else 1

    def __call__(self, job: Job) -> Record:
        """Return the record of one picture."""
        return self.finish([self.begin(job)])[0]

    def begin(self, job: Job) -> Draft:
        """Examine one picture. Where words are wanted the draft keeps its report, pixels included, until then."""
        if job.twin:
            return Draft(job, {TWIN: True, "file": job.file, "sha256": job.sha256})
        try:
            report = self.assistant.examine(job.source(), file=job.file, for_text=self.text == "all")
            # the label as found, not as made safe to show: resuming compares it with the file's name
            record = to_record(report, with_text=False) | {"file": job.file}
        except Exception as error:  # noqa: BLE001 - the boundary of a batch: one bad file never stops it
            return Draft(job, self._failed(job, error))
        wanted = self.text == "all" or (self.text == "flagged" and flagged(record))
        return Draft(job, record, report if wanted else None)

    def finish(self, drafts: Sequence[Draft]) -> list[Record]:
        """Explain together what is to be explained, and return every draft's record."""
        told = [draft for draft in drafts if draft.report is not None]
        start = time.perf_counter()
        try:
            self.assistant.explain_many([draft.report for draft in told if draft.report is not None])
        except Exception as error:  # noqa: BLE001 - as above; the verdicts would be whole, the words are not
            for draft in told:
                draft.record = self._failed(draft.job, error)
            return [draft.record for draft in drafts]
        share = (time.perf_counter() - start) / max(1, len(told))
        for draft in told:
            said = None if draft.report is None else draft.report.explanation
            if said is not None:
                draft.record["explanation"] = said.text
                draft.record["explanation_check"] = explanation_check(said)
            draft.record["timing"]["explaining"] = round(share, 4)
        return [draft.record for draft in drafts]

    def _failed(self, job: Job, error: Exception) -> Record:
        _log.debug("no verdict on %s", job.path, exc_info=error)
        return failed_record(job, error, self.assistant.model)


def failed_record(job: Job, error: Exception, model: Any) -> Record:
    """The record of a job that came to nothing."""
    whole_file = job.part is None and job.data is None and job.trouble is None
    digest = job.sha256 or (file_digest(job.path) if whole_file else job.hashed().sha256)
    return error_record(job.file, digest, error, model)


def flagged(record: Record) -> bool:
    """True where manipulation is more likely than not, decided or not."""
    chances = record["probabilities"]
    return chances is not None and chances["real"] < 0.5


def check_text(text: str) -> str:
    """Return ``text`` where :class:`Worker` knows it.

    Raises:
        SettingsError: it does not.
    """
    if text not in TEXTS:
        raise SettingsError(f"--text takes {', '.join(TEXTS)} or top-K, not {text!r}")
    return text


@dataclass(frozen=True)
class LoadWorker:
    """A work factory that loads the assistant where it is called; travels to other processes as it is."""

    model: str
    settings: Settings
    text: str = "all"
    group: int = GROUP

    def __call__(self) -> Worker:
        """Load the model and return the work."""
        return Worker(Assistant.load(self.model, settings=self.settings), text=self.text, group=self.group)

    @property
    def explains_all(self) -> bool:
        """True where every picture gets words, so that pictures are worth grouping."""
        return self.text == "all"

    def to_json(self) -> str:
        """All of it as one line."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, line: str | bytes) -> LoadWorker:
        """The factory that :meth:`to_json` wrote."""
        values = json.loads(line)
        known = {item.name: str(item.type) for item in fields(Settings)}
        settings: dict[str, Any] = {
            name: Path(value) if value is not None and known[name].startswith("Path") else value
            for name, value in values.pop("settings").items()
        }
        return cls(settings=Settings(**settings), **values)
