"""Commands of ``vlmforensics finetune`` that deal in clues and samples. Thin: each calls one function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlmforensics.errors import SettingsError
from vlmforensics.finetune import train_cli


def clues(
    write: Annotated[Path | None, typer.Option(help="Write the page of documentation there.")] = None,
) -> None:
    """Show the clue catalogue, or write its page of documentation."""
    from vlmforensics.clues import catalogue, page
    from vlmforensics.report.files import write_atomically

    if write is None:
        for clue in catalogue():
            typer.echo(f"{clue.id:34} {clue.category:12} {clue.question}")
        return
    write_atomically(write, page(catalogue()))
    typer.echo(f"wrote {write}: {len(catalogue().clue)} clues")


def gather(
    name: Annotated[str, typer.Argument(help="fakeclue, sid-set, loki, dd-vqa, genimage or deepfakebench.")],
    root: Annotated[Path, typer.Argument(help="Folder that the set was unpacked into.")],
    out: Annotated[Path, typer.Option(help="JSON-lines file to write.")],
    split: Annotated[
        str, typer.Option(help="As the set names it; loki: true_or_false or open_ended.")
    ] = "train",
    limit: Annotated[int, typer.Option(help="Most pictures; 0 takes all.", min=0)] = 0,
) -> None:
    """Read a published data set in its own layout and write training samples."""
    from itertools import islice

    from vlmforensics.finetune.datasets import load_dataset, to_samples
    from vlmforensics.finetune.samples import write_samples

    found = load_dataset(name, root, split)
    count = write_samples(out, to_samples(islice(found, limit or None), out.parent / "pictures"))
    if not count:
        raise SettingsError(f"{name} has no pictures in {root}, split {split!r}")
    typer.echo(f"wrote {out}: {count} samples")


def add_to(app: typer.Typer) -> None:
    """Register the commands, and those that train on the samples."""
    app.command("clues")(clues)
    app.command("import")(gather)
    train_cli.add_to(app)
