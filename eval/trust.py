"""``vlmforensics eval fuzz|attacks|soak|overhead``: what hostile input, load and our own guards do to the program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this file to ``vlmforensics eval``."""
    for command in (overhead, fuzz):
        app.command()(command)


def overhead() -> None:
    """Print what the decoding process and each local signal cost, as ratios measured in this run."""
    from vlmforensics.eval import overhead as figures

    typer.echo(figures.report())


def fuzz(
    count: Annotated[int, typer.Option(min=1, help="Files to try.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the mutations.")] = 0,
    start: Annotated[
        int, typer.Option(min=0, help="Number of the first; the files made to do harm come first.")
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON log to write.")] = None,
    docs: Annotated[
        Path | None, typer.Option(help="Page to write from the log, e.g. docs/fuzzing.md.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Write one input here instead of running (with --only).")
    ] = None,
    only: Annotated[int, typer.Option(help="Number of the input for --keep.")] = 0,
) -> None:
    """Feed hostile and mutated files to everything that reads one; exit 1 where anything but a refusal came of it."""
    import json

    from vlmforensics.eval import fuzz as work

    if keep is not None:
        item = next(iter(work.inputs(seed, only, only + 1)))
        keep.write_bytes(item.data)
        typer.echo(f"{item.name} → {keep}")
        return
    result = work.run(count, seed, lambda line: typer.echo(line, err=True), start=start)
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if docs is not None:
        work.write_page(result, docs)
    for entry in result["wrong"]:
        typer.echo(entry)
    typer.echo(f"{result['count']:,} inputs, {len(result['wrong'])} wrong, {result['seconds']} s")
    raise typer.Exit(1 if result["wrong"] else 0)
