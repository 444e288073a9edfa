"""``vlmforensics eval fuzz|attacks|soak|overhead``: what hostile input, load and our own guards do to the program."""

from __future__ import annotations

import typer


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this file to ``vlmforensics eval``."""
    app.command()(overhead)


def overhead() -> None:
    """Print what the decoding process and each local signal cost, as ratios measured in this run."""
    from vlmforensics.eval import overhead as figures

    typer.echo(figures.report())
