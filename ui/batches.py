"""The batch tab: many pictures or an archive, a table that grows, files to take away; the command line's engine."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from vlmforensics.batch import Job, Ledger, LocalEngine, Record, Worker, run_batch, write_gallery, write_table
from vlmforensics.report.text import percent
from vlmforensics.settings import MIB, Settings
from vlmforensics.types import LABELS
from vlmforensics.ui.archive import Limits, collect
from vlmforensics.ui.flow import Model
from vlmforensics.ui.language import ENGLISH, Words
from vlmforensics.ui.layout import Labels
from vlmforensics.ui.state import Session, Sessions
from vlmforensics.ui.uploads import PICTURES, PictureFiles, Upload
from vlmforensics.ui.words import LABEL_NAMES, TITLES, escape

BATCH_QUEUE = "batch"
_EVERY = 0.8
"""Seconds between two drawings of the table."""
Changes = dict[Any, Any]

_OPEN_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-open]');
  if (button) trigger('click', {row: Number(button.dataset.open)});
});
"""


@dataclass(eq=False)
class Batch:
    """One run: what is to be done, what came of it.

    Attributes:
        jobs: the pictures.
        left_out: a sentence for each file that is no input.
        ledger: the JSON lines on disk.
        records: finished ones, in order.
        stop: set to begin no further picture.
        started: monotonic seconds.
        ended: True once nothing more will come.
    """

    jobs: list[Job]
    left_out: list[str]
    ledger: Path
    records: list[Record] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    started: float = field(default_factory=time.monotonic)
    ended: bool = False


class BatchTab:
    """Parts and behaviour of the tab; ``open_one`` begins a conversation about one of its pictures."""

    def __init__(self, model: Model, sessions: Sessions, settings: Settings) -> None:
        self.model = model
        self.sessions = sessions
        self.settings = settings
        self.limits = Limits(entry=settings.max_bytes)

    def place(self, label: Labels) -> None:
        """Lay out."""
        most, each = self.limits.files, self.limits.entry // MIB
        label(gr.HTML(elem_id="vf-batch-intro"), value=lambda t: intro(most, each, t))
        self.files = label(
            PictureFiles(
                file_types=[*PICTURES, ".zip"], file_count="multiple", height=170, elem_id="vf-batch-files"
            ),
            label="Pictures or ZIP archives",
        )
        with gr.Row(elem_id="vf-batch-actions"):
            self.text = label(
                gr.Checkbox(False, container=False, elem_id="vf-batch-text"),
                label="Also write explanations (slower)",
            )
            self.start = label(
                gr.Button(variant="primary", size="md", elem_id="vf-batch-start"), value="Examine all"
            )
            self.cancel = label(
                gr.Button(size="md", visible=False, elem_id="vf-batch-cancel"), value="Cancel"
            )
        self.progress = gr.HTML(elem_id="vf-batch-progress")
        with gr.Row(visible=False, elem_id="vf-batch-saves") as self.saves:
            names = (
                ("jsonl", "JSON lines"),
                ("csv", "CSV"),
                ("parquet", "Parquet"),
                ("html", "HTML pages (ZIP)"),
            )
            self.buttons = {
                kind: label(
                    gr.Button(size="sm", elem_id=f"vf-batch-save-{kind}"),
                    value=_save_as(name),
                )
                for kind, name in names
            }
        with gr.Row(elem_id="vf-batch-downloads", elem_classes="vf-unseen"):
            self.downloads = {
                kind: gr.DownloadButton(kind, elem_id=f"vf-batch-file-{kind}") for kind, _ in names
            }
        self.table = gr.HTML(elem_id="vf-batch-table", js_on_load=_OPEN_JS)

    def connect(self, quiet: Mapping[str, Any]) -> None:
        """Wire the parts up."""
        changed = [self.progress, self.table, self.start, self.cancel, self.saves, self.files]
        self.start.click(
            self.run, [self.files, self.text], changed, concurrency_id=BATCH_QUEUE, concurrency_limit=2,
            show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        self.cancel.click(self.stop, None, [self.cancel], **quiet)
        for kind, button in self.buttons.items():
            written = button.click(self._save(kind), None, self.downloads[kind], **quiet)
            script = f"() => window.vlmforensics.download('vf-batch-file-{kind}')"
            written.success(None, None, None, js=script)

    def run(
        self, uploads: Sequence[Upload] | None, with_text: bool, request: gr.Request
    ) -> Iterator[Changes]:
        """Examine all, drawing as it goes."""
        key = str(request.session_hash or "")
        session = self.sessions.get(key)
        t = session.t
        if not uploads:
            raise gr.Error(t("Choose pictures or a ZIP archive first."), print_exception=False)
        if session.batch is not None and not session.batch.ended:
            raise gr.Error(t("A batch is already running here; cancel it first."), print_exception=False)
        batch = self._begin(session, uploads, t)
        session.batch = batch
        busy = {
            self.start: gr.update(interactive=False),
            self.cancel: gr.update(visible=True, interactive=True),
        }
        drawn = 0.0
        try:
            yield {**busy, self.files: None, self.saves: gr.update(visible=False), **self._drawn(batch, t)}
            with Ledger(batch.ledger, overwrite=True) as ledger:
                for record in run_batch(
                    batch.jobs, ledger, LocalEngine(1), self._factory(with_text), stop=batch.stop.is_set
                ):
                    batch.records.append(record)
                    self.sessions.known(key)  # in use, however long it takes
                    if time.monotonic() - drawn >= _EVERY:
                        drawn = time.monotonic()
                        yield self._drawn(batch, session.t)
        finally:
            batch.ended = True
        yield {
            self.start: gr.update(interactive=True),
            self.cancel: gr.update(visible=False),
            self.saves: gr.update(visible=bool(batch.records)),
            **self._drawn(batch, session.t),
        }

    def _begin(self, session: Session, uploads: Sequence[Upload], t: Words) -> Batch:
        folder = session.folder / "batch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        jobs, left_out = collect(uploads, folder, self.limits, t)
        return Batch(jobs, left_out, folder / "records.jsonl")

    def _factory(self, with_text: bool) -> Callable[[], Callable[[Job], Record]]:
        """Work for the engine: each picture waits for its turn among the visitors of the page."""

        def work(job: Job) -> Record:
            return self.model.call(lambda assistant: Worker(assistant, with_text=with_text)(job))

        return lambda: work

    def _drawn(self, batch: Batch, t: Words) -> Changes:
        return {self.progress: progress(batch, t), self.table: table(batch.records, t)}

    def stop(self, request: gr.Request) -> Changes:
        """Begin no further picture."""
        session = self.sessions.known(str(request.session_hash or ""))
        if session.batch is not None:
            session.batch.stop.set()
        return {self.cancel: gr.update(interactive=False)}

    def upload(self, row: int, request: gr.Request) -> Upload | None:
        """The picture of a row of the table."""
        batch = self.sessions.known(str(request.session_hash or "")).batch
        if batch is None or not 0 <= row < len(batch.records):
            return None
        file = batch.records[row]["file"]
        return next((Upload(Path(job.path), file) for job in batch.jobs if job.file == file), None)

    def redrawn(self, session: Session) -> Changes:
        """The tab's own contents in another language."""
        return {} if session.batch is None else self._drawn(session.batch, session.t)

    def _save(self, kind: str) -> Callable[[gr.Request], str]:
        def save(request: gr.Request) -> str:
            session = self.sessions.known(str(request.session_hash or ""))
            batch = session.batch
            if batch is None or not batch.ledger.is_file():
                raise gr.Error(session.t("There is no batch to save."), print_exception=False)
            return str(written(batch, kind, self.settings))

        return save


def written(batch: Batch, kind: str, settings: Settings) -> Path:
    """The batch file (``jsonl``), or a view of it beside it: ``csv``, ``parquet``, or ``html``, a zipped gallery."""
    ledger = batch.ledger
    if kind == "jsonl":
        return ledger
    if kind != "html":
        return write_table(ledger, ledger.with_suffix(f".{kind}"))
    pages = ledger.with_name("pages")
    write_gallery(ledger, pages, batch.jobs, settings)
    return Path(shutil.make_archive(str(ledger.with_name("gallery")), "zip", pages))


def intro(most: int, megabytes: int, t: Words = ENGLISH) -> str:
    """What the tab does."""
    text = t(
        "Up to {most} pictures of {megabytes} MB each, as files or in ZIP archives. Every picture gets one record, "
        "whatever happens; keep this tab open. For more, and for what must survive a restart: vlmforensics batch.",
        most=most,
        megabytes=megabytes,
    )
    return f'<div class="vf-welcome"><h2>{escape(t("Examine many pictures"))}</h2><p>{escape(text)}</p></div>'


def remaining(batch: Batch, now: float) -> float | None:
    """Seconds left at the pace so far, or None before the first picture is done."""
    done = len(batch.records)
    return None if done == 0 else (now - batch.started) / done * (len(batch.jobs) - done)


def duration(seconds: float, t: Words = ENGLISH) -> str:
    """``40 s``, ``3 min`` or ``2 h 5 min``."""
    if seconds < 90:
        return t("{n} s", n=max(1, round(seconds)))
    minutes = round(seconds / 60)
    return t("{n} min", n=minutes) if minutes < 120 else t("{h} h {n} min", h=minutes // 60, n=minutes % 60)


def progress(batch: Batch, t: Words = ENGLISH) -> str:
    """The state of a run in a bar and words."""
    done, total = len(batch.records), len(batch.jobs)
    failed = sum(record["error"] is not None for record in batch.records)
    parts = [t("{done} of {total} pictures", done=done, total=total)]
    if failed:
        parts.append(t("{failed} could not be examined", failed=failed))
    left = remaining(batch, time.monotonic())
    if batch.ended:
        took = duration(sum(float(r["timing"].get("total", 0.0)) for r in batch.records), t)
        parts.append(
            t("cancelled; what was finished is kept")
            if batch.stop.is_set() and done < total
            else t("done, {took} of work", took=took)
        )
    elif batch.stop.is_set():
        parts.append(t("stopping after the picture under way"))
    elif left is not None:
        parts.append(t("about {time} left", time=duration(left, t)))
    else:
        parts.append(t("waiting for the first result"))
    notes = "".join(f"<li>{escape(text)}</li>" for text in batch.left_out[:50])
    notes = f'<ul class="vf-left-out" role="note">{notes}</ul>' if notes else ""
    label = escape(t("Progress of the batch"))
    return (
        f'<div class="vf-batch"><progress max="{max(1, total)}" value="{done}" aria-label="{label}"></progress>'
        f'<p role="status">{escape(" · ".join(parts))}</p>{notes}</div>'
    )


def table(records: Sequence[Record], t: Words = ENGLISH) -> str:
    """All finished pictures; the heads sort."""
    if not records:
        return ""
    heads = (
        ("#", "number", "number"), (t("Picture"), "file", "text"), (t("Verdict"), "verdict", "text"),
        *((t(LABEL_NAMES[label]).capitalize(), label, "number") for label in LABELS),
    )  # fmt: skip
    head = "".join(
        f'<th scope="col" aria-sort="{"ascending" if key == "number" else "none"}"><button type="button" '
        f'data-sort="{key}" data-kind="{kind}">{escape(name)}<span class="vf-arrow" aria-hidden="true"></span>'
        "</button></th>"
        for name, key, kind in heads
    )
    rows = "".join(_row(number, record, t) for number, record in enumerate(records, 1))
    return (
        f'<section class="vf-card vf-evidence"><table class="vf-table" data-keep-sort="batch">'
        f'<caption class="vf-hidden">{escape(t("Pictures examined, with their probabilities"))}</caption>'
        f'<thead><tr>{head}<th scope="col"><span class="vf-hidden">{escape(t("Open"))}</span></th></tr></thead>'
        f"<tbody>{rows}</tbody></table></section>"
    )


def _row(number: int, record: Record, t: Words) -> str:
    chances, error = record["probabilities"], record["error"]
    file = escape(record["file"])
    if error is not None:
        says = f'{escape(t("Not examined"))}<p class="vf-small" lang="en">{escape(error["message"])}</p>'
        title, dot = t("Not examined"), "none"
    else:
        title, dot = t(TITLES[record["verdict"]]), record["verdict"]
        says = escape(title)
    values, data = [], []
    for label in LABELS:
        name = escape(t(LABEL_NAMES[label]).capitalize())
        value = chances[label] if chances is not None else None
        shown = "–" if value is None else percent(value)
        bar = "" if value is None else f'<i class="vf-mini"><i style="width:{100 * value:.1f}%"></i></i>'
        values.append(f'<td data-label="{name}" data-said class="vf-share">{shown}{bar}</td>')
        data.append(f'data-{label}="{-1 if value is None else value:.6f}"')
    open_ = escape(t("Open {file} in the conversation", file=record["file"]))
    button = f'<button type="button" class="vf-show" data-open="{number - 1}" aria-label="{open_}">'
    return (
        f'<tr data-number="{number}" data-file="{file}" data-verdict="{escape(title)}" {" ".join(data)}>'
        f'<th scope="row" data-label="#">{number}</th>'
        f'<td data-label="{escape(t("Picture"))}" class="vf-name">{file}</td>'
        f'<td data-label="{escape(t("Verdict"))}"><span class="vf-dot vf-{dot}" aria-hidden="true"></span>{says}</td>'
        f'{"".join(values)}<td class="vf-action">{button}{escape(t("Open"))}</button></td></tr>'
    )


def _save_as(name: str) -> Callable[[Words], str]:
    """The label of the button that saves one kind of file."""
    return lambda t: t("Save {name}", name=name)
