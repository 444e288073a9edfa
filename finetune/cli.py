"""``vlmforensics finetune``: prepare features, train, calibrate. Thin: each command calls one function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, help="Train and calibrate on labelled pictures.", pretty_exceptions_enable=False
)

Data = Annotated[Path, typer.Option(help="Folder with manifest.jsonl and the pictures.")]
Cache = Annotated[Path, typer.Option(help="Folder for cached features.")]
FOLDS = 5


@app.callback()
def group() -> None:
    """Train and calibrate on labelled pictures."""


@app.command()
def prepare(
    data: Data,
    cache: Cache,
    variant: Annotated[
        list[str], typer.Option(help="raw, equalised, augmented-N or made-N; may be repeated.")
    ],
    part: Annotated[
        str, typer.Option(help="Share of the work as I/N, to run N processes side by side.")
    ] = "0/1",
    threads: int = 1,
) -> None:
    """Compute and cache what the frozen tower and the fixed statistics say of every picture; resumes by itself."""
    from vlmforensics.finetune.features import compute
    from vlmforensics.finetune.pictures import assign_folds, load_manifest

    from vlmforensics.compact.assembly import build_base
    from vlmforensics.settings import load_settings

    index, _, count = part.partition("/")
    pictures = load_manifest(data)
    folds = assign_folds(pictures, FOLDS)
    tower = build_base(load_settings(threads=threads)).tower
    for name in variant:
        for line in compute(tower, pictures, folds, cache, name, part=(int(index), int(count))):
            typer.echo(line)


if __name__ == "__main__":
    app()
