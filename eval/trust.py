"""``vlmforensics eval fuzz|attacks|soak|overhead``: what hostile input, load and our own guards do to the program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this file to ``vlmforensics eval``."""
    commands: tuple[Callable[..., None], ...] = (overhead, fuzz, attacks, soak)
    for command in commands:
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


def attacks(
    data: Annotated[Path, typer.Option(help="Folder with manifest.jsonl and the pictures.")],
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Pictures of each label.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Steps of PGD.")] = 8,
    epsilon: Annotated[
        list[int] | None, typer.Option(help="L∞ bound of PGD in steps of 255; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of pictures.")] = 0,
    docs: Annotated[Path, typer.Option(help="Folder of attacks.md.")] = Path("docs"),
) -> None:
    """Attack the compact model as somebody who knows it would, and write docs/attacks.md."""
    import json

    from vlmforensics.eval import attacks as work
    from vlmforensics.eval.attacks_page import write_page
    from vlmforensics.finetune.pictures import load_manifest
    from vlmforensics.settings import load_settings

    settings = load_settings()
    bench = work.Bench.load(settings)
    chosen = work.choose(load_manifest(data), number, seed)
    file = Path(__file__).resolve().parent / "results" / "attacks.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    for result in work.measure(bench, chosen, epsilons=tuple(epsilon or (2, 8)), steps=steps):
        file.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        write_page(file, docs / "attacks.md")
        typer.echo(f"{result['pictures']} of {len(chosen)} pictures are in {docs / 'attacks.md'}", err=True)


def soak(
    minutes: Annotated[float, typer.Option(min=0.5, help="How long.")] = 60.0,
    clients: Annotated[int, typer.Option(min=1, help="At once.")] = 3,
    out: Annotated[Path | None, typer.Option(help="JSON log to write.")] = None,
) -> None:
    """Serve the page under mixed traffic; exit 1 where memory, handles or threads grow, or a request is lost."""
    import json

    from vlmforensics.eval import soak as work

    result = work.run(minutes, clients=clients, progress=lambda line: typer.echo(line, err=True))
    text = json.dumps(result, indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    typer.echo(text)
    grown = [name for name, row in result["flat"].items() if not row["flat"]]
    raise typer.Exit(1 if grown or result["lost"] else 0)
