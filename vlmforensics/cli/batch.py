"""``vlmforensics batch``."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event, current_thread, main_thread
from types import FrameType
from typing import Any

from vlmforensics.batch import (
    Engine,
    Inputs,
    Ledger,
    LoadWorker,
    Summary,
    check_table,
    explain_most_suspect,
    make_engine,
    run_batch,
    write_conversations,
    write_gallery,
    write_masks,
    write_table,
)
from vlmforensics.batch.process import prepare_process
from vlmforensics.batch.summary import run_file
from vlmforensics.batch.work import check_text
from vlmforensics.cli.common import DONE, FAILED, INTERRUPTED, say_where_pictures_go, stderr
from vlmforensics.errors import SettingsError
from vlmforensics.settings import Settings

_LINE_SECONDS = 30.0


@dataclass(frozen=True)
class Options:
    """The command's options, see ``vlmforensics batch --help``."""

    out: Path
    resume: bool = False
    overwrite: bool = False
    text: str = "all"
    tables: Sequence[Path] = ()
    gallery: Path | None = None
    masks: Path | None = None
    conversations: Path | None = None
    column: str | None = None
    engine: str = "local"
    workers: int | None = None
    picture_seconds: float | None = None
    ray_address: str | None = None
    gpus: float = 0.0
    as_json: bool = False

    @property
    def outputs(self) -> list[Path]:
        """Files and folders that are not inputs, wherever they lie."""
        named = [self.out, run_file(self.out), *self.tables, self.conversations, self.gallery, self.masks]
        return [path for path in named if path is not None]


def run(inputs: Sequence[str], settings: Settings, options: Options) -> int:
    """Run the batch and say what came of it on stderr; returns the exit code."""
    prepare_process()
    say_where_pictures_go(settings)
    if options.resume and options.overwrite:
        raise SettingsError("--resume continues the file, --overwrite replaces it: give one of them")
    if options.out.suffix.lower() in {".csv", ".parquet", ".html"}:
        raise SettingsError(
            f"--out holds JSON lines, whatever it is called: name it records.jsonl, and add --table {options.out} "
            "for a table, or --gallery FOLDER for pages"
        )
    text, top = _text(options.text)
    for table in options.tables:
        check_table(table)
    jobs = Inputs(inputs, exclude=options.outputs, column=options.column, stdin=sys.stdin.buffer)
    engine = make_engine(
        options.engine,
        workers=options.workers,
        address=options.ray_address,
        gpus=options.gpus,
        isolated=True,
        picture_seconds=options.picture_seconds,
    )
    parameters = {**asdict(options), "inputs": list(inputs), "model": settings.model, "alpha": settings.alpha}
    summary = Summary(json.loads(json.dumps(parameters, default=str)))
    with (
        Ledger(options.out, resume=options.resume, overwrite=options.overwrite) as ledger,
        _drain() as stopped,
    ):
        if (
            settings.threads == 0
            and settings.device in {"auto", "cpu"}
            and getattr(engine, "workers", 1) != 1
        ):
            # pictures side by side: one core each
            settings = replace(settings, threads=1)
        factory = LoadWorker(settings.model, settings, text=text)
        records = run_batch(jobs, ledger, engine, factory, stop=stopped.is_set, skipped=summary.skip)
        try:
            _watch(records, jobs, summary)
            if top and not stopped.is_set():
                _explain(jobs, ledger, engine, replace(factory, text="all"), top, stopped)
        finally:
            if summary.examined or summary.twins or not run_file(options.out).exists():
                summary.write(
                    options.out, records=ledger.count, failed=ledger.failed, stopped=stopped.is_set()
                )
        failed, total = ledger.failed, ledger.count
    if stopped.is_set():
        _say(options, summary, failed, total)
        stderr().print("stopped: the same command with --resume examines what is left")
        return INTERRUPTED
    _export(jobs, settings, options)
    _say(options, summary, failed, total)
    return FAILED if failed else DONE


def _text(text: str) -> tuple[str, int]:
    """The policy while pictures are examined, and how many are explained afterwards."""
    found = re.fullmatch(r"top-([1-9]\d*)", text)
    return ("none", int(found[1])) if found else (check_text(text), 0)


def _export(jobs: Inputs, settings: Settings, options: Options) -> None:
    """Write what was asked for beside the records."""
    for table in options.tables:
        write_table(options.out, table)
    if options.masks is not None:
        count = write_masks(options.out, options.masks)
        stderr().print(f"{count} masks in {os.fspath(options.masks)!r}")
    if options.conversations is not None:
        count = write_conversations(options.out, options.conversations)
        stderr().print(f"{count} conversations in {os.fspath(options.conversations)!r}")
    if options.gallery is not None:
        count = write_gallery(options.out, options.gallery, jobs, settings)
        stderr().print(f"{count} pictures in {os.fspath(options.gallery / 'index.html')!r}")


def _explain(
    jobs: Inputs, ledger: Ledger, engine: Engine, factory: LoadWorker, top: int, stopped: Event
) -> None:
    """Explain the most suspect pictures."""
    stderr().print(f"explaining the {top} most suspect pictures")
    for _ in explain_most_suspect(jobs, ledger, engine, factory, top, stop=stopped.is_set):
        pass


class _Total:
    """How many inputs there are, counted beside the work: a walk over millions of files takes a while."""

    def __init__(self, jobs: Inputs) -> None:
        self.value: int | None = None
        threading.Thread(target=self._count, args=(jobs,), name="batch-count", daemon=True).start()

    def _count(self, jobs: Inputs) -> None:
        self.value = jobs.count()


def _watch(records: Iterator[dict[str, Any]], jobs: Inputs, summary: Summary) -> None:
    """Consume the records: under a bar where a person watches, else with a line now and then."""
    total = _Total(jobs)
    console = stderr()
    if not console.is_terminal:
        told = time.monotonic()
        for record in records:
            summary.add(record)
            if time.monotonic() - told > _LINE_SECONDS:
                told = time.monotonic()
                console.print(_progress(summary, total.value), soft_wrap=True)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("examining"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        task = progress.add_task("batch", total=None, note="loading the model")
        for record in records:
            summary.add(record)
            progress.update(
                task, completed=_done(summary), total=total.value, note=_note(summary, total.value)
            )


def _done(summary: Summary) -> int:
    return summary.skipped + summary.examined + summary.twins


def _progress(summary: Summary, total: int | None) -> str:
    return f"{_done(summary)} of {total if total is not None else '?'}, {_note(summary, total)}"


def _note(summary: Summary, total: int | None) -> str:
    """Rate, remaining time, failures."""
    rate, left = summary.rate, summary.left(total)
    parts = [] if rate is None else [f"{rate:.2f} a second" if rate < 10 else f"{rate:.0f} a second"]
    parts += [] if left is None else [f"{_duration(left)} left"]
    parts += [f"{summary.failed} failed"] if summary.failed else []
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _say(options: Options, summary: Summary, failed: int, total: int) -> None:
    done = summary.examined + summary.twins
    if options.as_json:
        counts = {
            "out": str(options.out),
            "inputs": _done(summary),
            "examined": done,
            "same_bytes": summary.twins,
            "records": total,
            "failed": failed,
        }
        sys.stdout.write(json.dumps(counts | {"seconds": round(summary.seconds, 3)}) + "\n")
        return
    note = f", {failed} of all records are errors" if failed else ""
    twins = f" ({summary.twins} by another name's bytes)" if summary.twins else ""
    stderr().print(
        f"{done} examined{twins} in {summary.seconds:.1f} s, {total} records in {os.fspath(options.out)!r}{note}"
    )


@contextmanager
def _drain() -> Iterator[Event]:
    """First Ctrl-C or SIGTERM: begin nothing more, finish what is under way. The second ends at once."""
    stopped = Event()
    if current_thread() is not main_thread():  # only the main thread may handle signals
        yield stopped
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()
        sys.stderr.write("\nfinishing the pictures under way; once more ends at once\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
