"""``vlmforensics batch``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, current_thread, main_thread
from types import FrameType

from vlmforensics.batch import (
    Job,
    Ledger,
    LoadWorker,
    check_table,
    find_inputs,
    make_engine,
    pending,
    run_batch,
    write_table,
)
from vlmforensics.batch.process import prepare_process
from vlmforensics.cli.common import DONE, FAILED, INTERRUPTED, say_where_pictures_go, stderr
from vlmforensics.settings import Settings


@dataclass(frozen=True)
class Options:
    """The command's options, see ``vlmforensics batch --help``."""

    out: Path
    resume: bool = False
    overwrite: bool = False
    with_text: bool = True
    table: Path | None = None
    engine: str = "local"
    workers: int | None = None
    ray_address: str | None = None
    gpus: float = 0.0
    as_json: bool = False


def run(inputs: Sequence[str], settings: Settings, options: Options) -> int:
    """Run the batch and say what came of it on stderr; returns the exit code."""
    prepare_process()
    say_where_pictures_go(settings)
    if options.table is not None:
        check_table(options.table)
    jobs = find_inputs(inputs, exclude=[options.out, *([options.table] if options.table else [])])
    engine = make_engine(
        options.engine, workers=options.workers, address=options.ray_address, gpus=options.gpus
    )
    start = time.monotonic()
    with (
        Ledger(options.out, resume=options.resume, overwrite=options.overwrite) as ledger,
        _drain() as stopped,
    ):
        todo = pending(jobs, ledger)
        before = ledger.count
        if settings.threads == 0 and settings.device in {"auto", "cpu"} and getattr(engine, "workers", 1) > 1:
            # pictures side by side: one core each
            settings = replace(settings, threads=1)
        factory = LoadWorker(settings.model, settings, options.with_text)
        _watch(run_batch(todo, ledger, engine, factory, stop=stopped.is_set), todo, len(jobs))
        done, failed, total = ledger.count - before, ledger.failed, ledger.count
    if options.table is not None:
        write_table(options.out, options.table)
    _summary(options, done, failed, total, len(jobs), time.monotonic() - start)
    if stopped.is_set():
        stderr().print(
            f"stopped: {len(todo) - done} pictures are left; the same command with --resume examines them"
        )
        return INTERRUPTED
    return FAILED if failed else DONE


def _watch(records: Iterator[dict[str, object]], todo: Sequence[Job], total: int) -> None:
    """Consume the records under a progress bar where a person watches, else in silence."""
    console = stderr()
    if not console.is_terminal:
        for _ in records:
            pass
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("examining"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("batch", total=total, completed=total - len(todo), note="loading the model")
        failed = 0
        for record in records:
            failed += record["error"] is not None
            progress.update(task, advance=1, note=f"{failed} failed" if failed else "")


def _summary(options: Options, done: int, failed: int, total: int, inputs: int, seconds: float) -> None:
    if options.as_json:
        counts = {
            "out": str(options.out),
            "inputs": inputs,
            "examined": done,
            "records": total,
            "failed": failed,
        }
        sys.stdout.write(json.dumps(counts | {"seconds": round(seconds, 3)}) + "\n")
        return
    note = f", {failed} of all records are errors" if failed else ""
    stderr().print(f"{done} examined in {seconds:.1f} s, {total} records in {os.fspath(options.out)!r}{note}")


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
