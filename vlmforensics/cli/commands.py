"""The commands and their options; each command's work is in a module of its own, imported when it runs."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from vlmforensics import __version__
from vlmforensics.cli.common import (
    Adapter,
    Alpha,
    AsJson,
    CalibrationFile,
    Device,
    Model,
    Offline,
    Quantize,
    SettingsFile,
    complain,
    guarded,
    set_up_logging,
    settings_of,
)

app = typer.Typer(
    name="vlmforensics",
    help="Explainable image forensics: calibrated verdicts, checkable evidence, an honest 'inconclusive'.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 some inputs failed, 2 usage. A verdict is never an exit code.",
)
models = typer.Typer(no_args_is_help=True, help="Base weights: list, fetch, check.")
app.add_typer(models, name="models")
_FORWARD = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vlmforensics {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log everything, and show tracebacks.")] = False,
) -> None:
    set_up_logging(debug=debug)


@app.command()
@guarded
def examine(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Pictures to examine.")],
    as_json: AsJson = False,
    model: Model = None,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write a report: FILE.html, .json or .md; with several pictures a folder (for pages)."
        ),
    ] = None,
    no_text: Annotated[bool, typer.Option("--no-text", help="Verdict and evidence only.")] = False,
    alpha: Alpha = None,
    calibration: CalibrationFile = None,
    device: Device = None,
    adapter: Adapter = None,
    quantize: Quantize = None,
    offline: Offline = False,
    settings_file: SettingsFile = None,
) -> int:
    """Examine pictures: verdict, probabilities, evidence, explanation."""
    from vlmforensics.cli.examine import run

    settings = settings_of(
        file=settings_file, model=model, alpha=alpha, calibration=calibration, offline=offline, device=device,
        adapter=adapter, quantize=quantize,
    )  # fmt: skip
    return run(images, settings, as_json=as_json, save=save, with_text=not no_text)


@app.command()
@guarded
def batch(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Pictures, folders (walked), 'patterns/**/*.jpg', tables of pictures (.csv, .jsonl, .parquet), .tar "
            "shards, or - for a list of names on standard input.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Records, one JSON line per input.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue OUT; recorded pictures are left out.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    text: Annotated[
        str,
        typer.Option(
            help="Which pictures are explained: all, flagged (manipulation more likely than not), top-K (the K most "
            "suspect, when all verdicts are known), none."
        ),
    ] = "all",
    no_text: Annotated[
        bool, typer.Option("--no-text", help="The same as --text none; several times as fast.")
    ] = False,
    column: Annotated[
        str | None,
        typer.Option(help="Column of a table that holds paths or bytes.", show_default="a usual name"),
    ] = None,
    table: Annotated[
        list[Path] | None,
        typer.Option(
            help="Also write a flat table at the end: FILE.csv or FILE.parquet. Repeatable.",
            rich_help_panel="Other outputs",
        ),
    ] = None,
    gallery: Annotated[
        Path | None,
        typer.Option(help="Also write pages with filters to this folder.", rich_help_panel="Other outputs"),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Also write each mask as SHA256.png to this folder.", rich_help_panel="Other outputs"
        ),
    ] = None,
    conversations: Annotated[
        Path | None,
        typer.Option(
            help="Also write decided and explained pictures as FakeClue-style training data (JSON).",
            rich_help_panel="Other outputs",
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="local or ray.", rich_help_panel="Machine")] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", "-j", help="Pictures at once.", show_default="one a core", rich_help_panel="Machine"
        ),
    ] = None,
    picture_seconds: Annotated[
        float | None,
        typer.Option(
            help="A picture that takes longer gets an error record.",
            show_default="600",
            rich_help_panel="Machine",
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="Running Ray cluster, as HOST:PORT or auto; without it one is started here.",
            rich_help_panel="Machine",
        ),
    ] = None,
    gpus: Annotated[float, typer.Option(help="GPUs per Ray actor.", rich_help_panel="Machine")] = 0.0,
    as_json: AsJson = False,
    model: Model = None,
    alpha: Alpha = None,
    calibration: CalibrationFile = None,
    device: Device = None,
    adapter: Adapter = None,
    quantize: Quantize = None,
    offline: Offline = False,
    settings_file: SettingsFile = None,
) -> int:
    """Examine many pictures: one record per input, errors included; resumable, nothing lost.

    Beside OUT (records.jsonl) a summary of the run is written (records.run.json).
    """
    from vlmforensics.cli.batch import Options, run

    settings = settings_of(
        file=settings_file, model=model, alpha=alpha, calibration=calibration, offline=offline, device=device,
        adapter=adapter, quantize=quantize,
    )  # fmt: skip
    options = Options(
        out=out, resume=resume, overwrite=overwrite, text="none" if no_text else text, column=column,
        tables=tuple(table or ()), gallery=gallery, masks=masks, conversations=conversations, engine=engine,
        workers=workers, picture_seconds=picture_seconds, ray_address=ray_address, gpus=gpus, as_json=as_json,
    )  # fmt: skip
    return run(inputs, settings, options)


@app.command()
@guarded
def chat(
    image: Annotated[str, typer.Argument(help="The picture to talk about.")],
    model: Model = None,
    alpha: Alpha = None,
    calibration: CalibrationFile = None,
    device: Device = None,
    adapter: Adapter = None,
    quantize: Quantize = None,
    offline: Offline = False,
    settings_file: SettingsFile = None,
) -> int:
    """Examine a picture, then answer questions about it (from the terminal or from standard input)."""
    from vlmforensics.cli.chat import run

    settings = settings_of(
        file=settings_file, model=model, alpha=alpha, calibration=calibration, offline=offline, device=device,
        adapter=adapter, quantize=quantize,
    )  # fmt: skip
    return run(image, settings)


@app.command()
@guarded
def ui(
    host: Annotated[
        str, typer.Option(help="Address to bind; anything but loopback needs --auth.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port, 0 for a free one.", min=0, max=65535)] = 7860,
    auth: Annotated[
        str | None, typer.Option(help="USER:PASSWORD asked of every visitor; better as VLMFORENSICS_AUTH.")
    ] = None,
    root_path: Annotated[str | None, typer.Option(help="Public path behind a reverse proxy.")] = None,
    mcp: Annotated[bool, typer.Option("--mcp", help="Serve the endpoint to MCP clients too.")] = False,
    model: Model = None,
    alpha: Alpha = None,
    calibration: CalibrationFile = None,
    device: Device = None,
    adapter: Adapter = None,
    quantize: Quantize = None,
    offline: Offline = False,
    settings_file: SettingsFile = None,
) -> None:
    """Serve the chat page on this machine."""
    from vlmforensics.batch.process import prepare_process

    prepare_process()
    settings = settings_of(
        file=settings_file, model=model, alpha=alpha, calibration=calibration, offline=offline, device=device,
        adapter=adapter, quantize=quantize,
    )  # fmt: skip
    import_module("vlmforensics.ui").serve(settings, host, port, auth=auth, root_path=root_path, mcp=mcp)


@app.command()
@guarded
def report(
    source: Annotated[str, typer.Argument(metavar="RECORD.json|IMAGE", help="A saved record, or a picture.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="FILE.html, .md or .json.")],
    image: Annotated[Path | None, typer.Option(help="The record's picture, where it has moved.")] = None,
    model: Model = None,
    alpha: Alpha = None,
    calibration: CalibrationFile = None,
    device: Device = None,
    adapter: Adapter = None,
    quantize: Quantize = None,
    offline: Offline = False,
    settings_file: SettingsFile = None,
) -> int:
    """Write a report of a picture, or of a record that was made earlier; prints the record's digest."""
    from vlmforensics.cli.report import run

    settings = settings_of(
        file=settings_file, model=model, alpha=alpha, calibration=calibration, offline=offline, device=device,
        adapter=adapter, quantize=quantize,
    )  # fmt: skip
    return run(source, out, image, settings)


@models.command("list")
@guarded
def models_list(as_json: AsJson = False, settings_file: SettingsFile = None) -> None:
    """Show every pinned model and whether it is in the cache."""
    from vlmforensics.cli.models import show

    show(settings_of(file=settings_file), as_json=as_json)


@models.command("pull")
@guarded
def models_pull(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models to fetch.", show_default="compact")
    ] = None,
    offline: Offline = False,
    settings_file: SettingsFile = None,
) -> None:
    """Fetch, check, convert and cache weights."""
    from vlmforensics.cli.models import fetch

    fetch(names or ["compact"], settings_of(file=settings_file, offline=offline))


@models.command("verify")
@guarded
def models_verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models to check.", show_default="all in the cache")
    ] = None,
    settings_file: SettingsFile = None,
) -> int:
    """Hash every cached file again and compare."""
    from vlmforensics.cli.models import check

    return check(names or [], settings_of(file=settings_file))


@models.command("convert-sida")
@guarded
def models_convert_sida(
    source: Annotated[Path, typer.Argument(help="A folder of SIDA's, safetensors weights.")],
    out: Annotated[Path, typer.Argument(help="New folder; then --model OUT.")],
    vision: Annotated[
        Path | None,
        typer.Option(help="Folder of openai/clip-vit-large-patch14: the checkpoint leaves it out."),
    ] = None,
) -> None:
    """Convert a SIDA checkpoint from the layout of the original LLaVA code."""
    from vlmforensics.cli.models import convert_sida

    convert_sida(source, out, vision)


@app.command()
@guarded
def doctor(
    as_json: AsJson = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also time the machine and the compact model.")
    ] = False,
    device: Device = None,
    quantize: Quantize = None,
    settings_file: SettingsFile = None,
) -> int:
    """Look at this machine: hardware, versions, caches, what fits, and how fast it is."""
    from vlmforensics.cli.doctor import run

    settings = settings_of(file=settings_file, device=device, quantize=quantize)
    return run(settings, as_json=as_json, measure=measure)


@app.command(context_settings=_FORWARD)
@guarded
def finetune(context: typer.Context) -> int:
    """Train and calibrate on labelled pictures (see its own --help)."""
    return _forward("finetune", context.args)


@app.command("eval", context_settings=_FORWARD)
@guarded
def evaluate(context: typer.Context) -> int:
    """Run published protocols and robustness grids (see its own --help)."""
    return _forward("eval", context.args)


def _forward(room: str, arguments: list[str]) -> int:
    """Hand the rest of the command line to the room's own application, imported by name."""
    name = f"vlmforensics.{room}.cli"
    if find_spec(f"vlmforensics.{room}") is None or find_spec(name) is None:
        complain(f"this installation has no {room} commands")
        return 2
    from vlmforensics.batch.process import prepare_process

    prepare_process()
    inner: typer.Typer = import_module(name).app
    try:
        inner(arguments, prog_name=f"vlmforensics {room}")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
