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


def annotate(
    pictures: Annotated[
        Path, typer.Argument(help="Folder with manifest.jsonl, or a JSON-lines file of `finetune import`.")
    ],
    out: Annotated[Path, typer.Option(help="JSON-lines file of samples to write.")],
    annotator: Annotated[
        list[str] | None,
        typer.Option(help="OpenAI-compatible server, http(s)://…/v1[#model]; may be repeated."),
    ] = None,
    annotators: Annotated[
        Path | None, typer.Option(help="TOML file of [[annotator]] tables: address, key, pace, prices.")
    ] = None,
    fakeclue: Annotated[Path | None, typer.Option(help="Also write FakeClue's JSON there.")] = None,
    model: Annotated[str | None, typer.Option(help="Model whose evidence rooms measure.")] = None,
    signals_only: Annotated[
        bool, typer.Option(help="Measure without networks: fast, no blending, no mask.")
    ] = False,
    without: Annotated[
        Path | None, typer.Option(help="JSON of `finetune assess`: leave out clues no better than chance.")
    ] = None,
    budget: Annotated[
        float, typer.Option(help="Most that annotators may cost in this run; 0: no bound.", min=0)
    ] = 0.0,
    limit: Annotated[int, typer.Option(help="Most pictures; 0 takes all.", min=0)] = 0,
) -> None:
    """Turn labelled pictures into explained samples: measured clues, annotators' votes, checked words.

    Run it again to go on after a break: evidence and annotators' answers are kept beside the output.
    """
    from vlmforensics.finetune import annotate as engine
    from vlmforensics.finetune.annotators import Annotator, AnnotatorSettings, AnswerCache, read_annotators
    from vlmforensics.finetune.measurements import measurements
    from vlmforensics.finetune.samples import export_fakeclue, write_samples
    from vlmforensics.settings import load_settings

    settings = load_settings()
    asked = [AnnotatorSettings(address=address) for address in annotator or ()]
    asked += read_annotators(annotators) if annotators is not None else []
    blind: set[str] = set()
    if without is not None:
        from vlmforensics.finetune.assess import blind_clues, read_assessment

        blind = blind_clues(read_assessment(without))
    found = engine.labelled_pictures(pictures)
    found = found[: limit or None]
    run = engine.Engine(
        measurements(model, settings, engine.kept_beside(out, "evidence"), signals_only=signals_only),
        [Annotator.connect(one, settings) for one in asked],
        AnswerCache(engine.kept_beside(out, "answers")) if asked else None,
        budget=budget,
        without=blind,
    )
    samples = list(run.run(found))
    write_samples(out, samples)
    report = engine.write_report(out, run)
    typer.echo(f"wrote {out}: {len(samples)} of {len(found)} pictures; what happened: {report}")
    if fakeclue is not None:
        told = [engine.in_fakeclue_words(sample) for sample in samples]
        root = pictures if pictures.is_dir() else pictures.parent
        count = export_fakeclue(fakeclue, told, root)
        typer.echo(f"wrote {fakeclue}: {count} records, picture paths relative to {root}")


def assess(
    pictures: Annotated[
        Path, typer.Argument(help="Folder with manifest.jsonl, or a JSON-lines file of samples.")
    ],
    out: Annotated[Path, typer.Option(help="JSON file to write; a plot of the same name lies beside it.")],
    model: Annotated[str | None, typer.Option(help="Backbone to assess.")] = None,
    limit: Annotated[int, typer.Option(help="Most pictures of each label; 0 takes all.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Chooses the pictures.")] = 0,
) -> None:
    """Ask a backbone every clue's question over labelled pictures and rank what it can see (X²-DFD's MFA).

    Run it again to go on after a break: answers are kept beside the output.
    """
    from vlmforensics.finetune import assess as work
    from vlmforensics.finetune.annotate import labelled_pictures
    from vlmforensics.settings import load_settings
    from vlmforensics.vlm import load_backbone

    settings = load_settings()
    backbone = work.capable(load_backbone(model or settings.model, settings))
    chosen = work.balanced(labelled_pictures(pictures), limit, seed)
    for line in work.collect(backbone, chosen, work.answers_beside(out)):
        typer.echo(line, err=True)
    result = work.assess(backbone, chosen, work.answers_beside(out))
    work.write_assessment(out, result)
    for row in result.clues[:5]:
        typer.echo(f"{row.clue:34} {row.balanced_accuracy:.3f} [{row.low:.3f}, {row.high:.3f}]  n {row.n}")
    typer.echo(
        f"wrote {out} and {out.with_suffix('.png')}: {len(result.clues)} clues, {result.pictures} pictures"
    )


def add_to(app: typer.Typer) -> None:
    """Register the commands, and those that train on the samples."""
    app.command("clues")(clues)
    app.command("import")(gather)
    app.command("annotate")(annotate)
    app.command("assess")(assess)
    train_cli.add_to(app)
