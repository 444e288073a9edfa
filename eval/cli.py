"""``vlmforensics eval``: thin commands over this room."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlmforensics.eval import scale, trust

app = typer.Typer(no_args_is_help=True, help="Measure the assistant.", pretty_exceptions_enable=False)
ROOT = Path(__file__).resolve().parent


@app.callback()
def group() -> None:
    """Measure the assistant."""


@app.command()
def card(
    data: Annotated[Path, typer.Option(help="Folder with manifest.jsonl and the pictures.")],
    work: Annotated[Path, typer.Option(help="Folder with observations and unseen-source scores.")] = Path(
        "runs/compact"
    ),
    cache: Annotated[Path, typer.Option(help="Folder of cached features.")] = Path("runs/features"),
    docs: Annotated[Path, typer.Option(help="Where model-card.md and its pictures go.")] = Path("docs"),
) -> None:
    """Compute the compact model's figures and write its card."""
    from vlmforensics.eval import card as figures
    from vlmforensics.eval.page import write_card

    result = figures.measure(data, work, cache)
    figures.save(result, ROOT / "results" / "compact.json")
    write_card(ROOT / "results" / "compact.json", docs)
    typer.echo(f"wrote {docs / 'model-card.md'}")


@app.command()
def page(docs: Annotated[Path, typer.Option(help="Where model-card.md goes.")] = Path("docs")) -> None:
    """Write the model card from the stored figures."""
    from vlmforensics.eval.page import write_card

    write_card(ROOT / "results" / "compact.json", docs)


trust.add_commands(app)
scale.add_commands(app)

if __name__ == "__main__":
    app()
