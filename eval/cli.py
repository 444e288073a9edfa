"""``vlmforensics eval``: thin commands over this room."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vlmforensics.eval import commands, scale, trust

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
    run: Annotated[Path, typer.Option(help="Where the out-of-fold verdicts and their report go.")] = Path(
        "runs/unseen"
    ),
) -> None:
    """Compute the compact model's figures on unseen sources, write its card and its report."""
    from vlmforensics.eval import card as figures
    from vlmforensics.eval.page import write_card
    from vlmforensics.eval.unseen import run_of_card

    study = figures.Study.fit(data, work, cache)
    result = figures.measure(study)
    figures.save(result, ROOT / "results" / "compact.json")
    write_card(ROOT / "results" / "compact.json", docs)
    typer.echo(f"wrote {docs / 'model-card.md'}")
    run_of_card(study, run)
    commands.score(run, unseen=True)


@app.command()
def page(docs: Annotated[Path, typer.Option(help="Where model-card.md goes.")] = Path("docs")) -> None:
    """Write the model card from the stored figures."""
    from vlmforensics.eval.page import write_card

    write_card(ROOT / "results" / "compact.json", docs)


@app.command()
def label(
    data: Annotated[Path, typer.Option(help="Folder with manifest.jsonl and the pictures.")],
    work: Annotated[
        Path, typer.Option(help="Folder with a folder of scores for each group left out.")
    ] = Path("runs/label"),
) -> None:
    """Figures of the language model's own label on families left out, from what `finetune label` stored."""
    from vlmforensics.eval import label as figures
    from vlmforensics.eval.card import save
    from vlmforensics.finetune.pictures import load_manifest

    result = figures.figures(load_manifest(data), work)
    save(result, ROOT / "results" / "label.json")
    for line in figures.table(result):
        typer.echo(line)


@app.command()
def signals(
    data: Annotated[Path, typer.Option(help="Folder with manifest.jsonl and the pictures.")],
    observed: Annotated[
        Path, typer.Option(help="JSON lines of what the sources said; continued where it ends.")
    ] = Path("runs/signals/observed.jsonl"),
    real: Annotated[int, typer.Option(help="Real pictures at most, those beside tampered ones first.")] = 300,
    synthetic: Annotated[int, typer.Option(help="Synthetic pictures at most.")] = 150,
    only: Annotated[str, typer.Option(help="Names of sources, with commas between; all where empty.")] = "",
    docs: Annotated[Path, typer.Option(help="Where signals.md lies.")] = Path("docs"),
    cost: Annotated[bool, typer.Option(help="Measure what each source costs, too.")] = True,
) -> None:
    """Measure every source by itself, on files as found, and write the tables of docs/signals.md."""
    from vlmforensics.eval import overhead
    from vlmforensics.eval import signals as sources
    from vlmforensics.eval.card import save

    for line in sources.measure(data, observed, real, synthetic, only):
        typer.echo(line)
    result = sources.figures(sources.read_rows(observed))
    if cost:
        result["cost"] = asdict(overhead.costs())
    save(result, ROOT / "results" / "signals.json")
    sources.write_page(result, docs / "signals.md")
    typer.echo(f"wrote {docs / 'signals.md'}")


trust.add_commands(app)
scale.add_commands(app)
commands.add_commands(app)

if __name__ == "__main__":
    app()
