"""``vlmforensics eval run|baselines|score|report|calibrate|suites``: suites, their figures and their report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vlmforensics.assistant import Assistant
    from vlmforensics.compact.tower import Tower
    from vlmforensics.eval.metrics import Encoder
    from vlmforensics.settings import Settings

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="compact, llava-1.5-7b, fakevlm, a checkpoint folder, http(s)://HOST/v1."
    ),
]
Folder = Annotated[Path, typer.Argument(help="Folder of a run.")]
CalibrationFile = Annotated[
    Path | None, typer.Option("--calibration", help="Calibration file (JSON) that replaces the shipped one.")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this file to ``vlmforensics eval``."""
    commands: tuple[Callable[..., None], ...] = (suites, run, baselines, score, report, calibrate)
    for command in commands:
        app.command()(command)


def suites() -> None:
    """List the suites."""
    from vlmforensics.eval.suites import SUITES

    width = max(len(name) for name in SUITES)
    for name, suite in SUITES.items():
        typer.echo(f"{name:{width}}  {suite.about}")


def run(
    suite: Annotated[str, typer.Option(help="Which suite; `eval suites` lists them.")],
    data: Annotated[Path, typer.Option(help="Labelled pictures, in the suite's layout.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; a run that stopped goes on there.")],
    model: Model = "compact",
    n: Annotated[
        int | None, typer.Option("-n", help="Most pictures, labels and sources kept even; 0 = all.", min=0)
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="as-found, equalised, jpeg-50 …; may be repeated. Default: the suite's."),
    ] = None,
    text: Annotated[
        bool | None, typer.Option(help="Write explanations. Default: as the suite needs.")
    ] = None,
    baseline: Annotated[list[str] | None, typer.Option(help="Also score ela, rigid or probe.")] = None,
    unseen: Annotated[
        bool, typer.Option(help="These sources were in no part of the model's training or calibration.")
    ] = False,
    split: Annotated[str, typer.Option(help="Split of a published set; its test split by default.")] = "",
    gallery: Annotated[
        bool, typer.Option(help="Put small pictures of the worst errors into the report.")
    ] = False,
    fold: Annotated[
        str,
        typer.Option(
            help="I/N: only the families of that fold, dealt as in training (the narrator leaves out 4/5)."
        ),
    ] = "",
    seed: int = 0,
    workers: Annotated[
        int | None, typer.Option(help="Pictures at a time; one a core by default.", min=1)
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Bound on accused real pictures.")] = None,
    calibration: CalibrationFile = None,
    device: Device = None,
) -> None:
    """Run a suite, store every prediction, then score and report. Resumes by itself."""
    from vlmforensics.eval.run import Plan, settings_of_run
    from vlmforensics.eval.run import run as examine
    from vlmforensics.eval.samples import choose, of_fold
    from vlmforensics.eval.suites import read_suite, suite_of

    chosen = suite_of(suite)
    most = chosen.most if n is None else n or None
    labelled = read_suite(suite, data, out, split)
    samples = choose(of_fold(labelled, fold) if fold else labelled, most, seed=seed)
    plan = Plan(
        suite=suite,
        model=model,
        seed=seed,
        conditions=tuple(condition or chosen.conditions),
        text=chosen.text if text is None else text,
        faithful=chosen.faithful,
    )
    settings = settings_of_run(_settings(model, alpha, calibration, device), 1 if plan.faithful else workers)
    total = len(samples) * len(plan.conditions)
    for count, record in enumerate(
        examine(plan, samples, out, lambda: _load(settings), workers=workers), start=1
    ):
        if record["error"] is not None:
            typer.echo(f"{record['file']}: {record['error']['message']}", err=True)
        if count % 20 == 0:
            typer.echo(f"{count} examined of at most {total}", err=True)
    if baseline:
        baselines(out, baseline, device)
    score(out, None, unseen, gallery)


def baselines(
    folder: Folder,
    name: Annotated[list[str] | None, typer.Option(help="ela, rigid or probe; all by default.")] = None,
    device: Device = None,
) -> None:
    """Score a run's pictures by plain baselines, for the same table."""
    from vlmforensics.eval import baselines as work
    from vlmforensics.eval.predictions import load_run
    from vlmforensics.settings import load_settings

    settings = load_settings(device=device)

    def tower() -> Tower:
        from vlmforensics.compact.assembly import build_base

        return build_base(settings).tower

    for line in work.compute(load_run(folder), name or work.NAMES, settings, tower):
        typer.echo(line, err=True)


def score(
    folder: Folder,
    encoder: Annotated[
        str | None,
        typer.Option(help="Sentence embeddings for CSS: compact, or a folder of a transformers encoder."),
    ] = None,
    unseen: Annotated[bool, typer.Option(help="As for run.")] = False,
    gallery: Annotated[bool, typer.Option(help="As for run.")] = False,
) -> None:
    """Compute all figures from a run's stored predictions; writes results.json, report.html and report.md."""
    from vlmforensics.eval import score as figures

    result = figures.score(folder, encoder=_encoder(encoder), unseen=unseen)
    figures.save(result, folder / figures.RESULTS)
    report(folder, gallery)


def report(
    folder: Folder,
    gallery: Annotated[bool, typer.Option(help="As for run.")] = False,
) -> None:
    """Write the report of a run that was scored, and say where its aims are missed."""
    from vlmforensics.eval.report import write
    from vlmforensics.eval.report.words import verdict_lines

    result = write(folder, gallery=gallery)
    for line in verdict_lines(result):
        typer.echo(line)
    typer.echo(f"wrote {folder / 'report.html'}, report.md and results.json")


def calibrate(
    data: Annotated[
        Path, typer.Option(help="Labelled pictures: a CSV or JSONL, a manifest folder, or label folders.")
    ],
    out: Annotated[Path, typer.Option(help="Calibration file to write; `--calibration FILE` loads it.")],
    model: Model = "compact",
    only_thresholds: Annotated[
        bool,
        typer.Option(
            help="Keep likelihood ratios and weights; fit only when to abstain (needs fewer pictures)."
        ),
    ] = False,
    chains: Annotated[
        int,
        typer.Option(
            help="Copies of each picture under random recompression, beside the picture as found.", min=0
        ),
    ] = 0,
    alpha: Annotated[float | None, typer.Option(help="Bound that the summary speaks about.")] = None,
    seed: int = 0,
    device: Device = None,
) -> None:
    """Refit likelihood ratios, fusion and abstention to your own labelled pictures. Resumes by itself."""
    from vlmforensics.eval import recalibrate
    from vlmforensics.eval.samples import choose, labelled_pictures

    settings = _settings(model, alpha, None, device)
    samples = choose(labelled_pictures(data), None)
    steps = recalibrate.observe(lambda: _load(settings), samples, out, chains=chains, seed=seed)
    for line in steps:
        typer.echo(line, err=True)
    fitted = recalibrate.fit(
        recalibrate.observations(out), recalibrate.base(settings), only_thresholds=only_thresholds, seed=seed
    )
    fitted.save(out)
    for line in recalibrate.summary(fitted, settings.alpha):
        typer.echo(line)
    typer.echo(f"wrote {out}; use it with --calibration {out}")


def _settings(model: str, alpha: float | None, calibration: Path | None, device: str | None) -> Settings:
    from vlmforensics.settings import load_settings, remote_by_name

    arguments: dict[str, Any] = {
        "model": model,
        "alpha": alpha,
        "calibration": None if calibration is None else str(calibration),
        "device": device,
        "remote_enabled": remote_by_name(model),
    }
    return load_settings(**arguments)


def _load(settings: Settings) -> Assistant:
    from vlmforensics.assistant import Assistant
    from vlmforensics.settings import where_pictures_go

    if notice := where_pictures_go(settings.model):
        typer.echo(notice, err=True)
    return Assistant.load(settings.model, settings=settings)


def _encoder(name: str | None) -> Encoder | None:
    if name is None:
        return None
    from vlmforensics.eval.encoders import load_encoder

    return load_encoder(name)
