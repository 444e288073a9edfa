"""What the commands share: options, settings, and the place where errors become a line and a code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from vlmforensics.errors import SettingsError, VlmForensicsError

if TYPE_CHECKING:
    from rich.console import Console

    from vlmforensics.assistant import Assistant
    from vlmforensics.settings import Settings

P = ParamSpec("P")
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="compact, llava-1.5-7b, fakevlm, a checkpoint folder, or http(s)://HOST/v1.",
        show_default="compact",
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        help="Bound on the share of real pictures called synthetic or tampered.", show_default="0.01"
    ),
]
CalibrationFile = Annotated[
    Path | None, typer.Option("--calibration", help="Calibration file (JSON) that replaces the shipped one.")
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Never touch the network; missing weights are an error.")
]
Device = Annotated[
    str | None,
    typer.Option(help="auto, cpu, cuda, cuda:N or mps.", show_default="auto", rich_help_panel="Machine"),
]
Adapter = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a LoRA adapter that goes over the model.",
        rich_help_panel="Machine",
        show_default="none",
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        help="Big local models: auto (4-bit where nothing else fits), none or nf4.",
        show_default="auto",
        rich_help_panel="Machine",
    ),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", help="Settings file (TOML); options and VLMF_* variables go over it."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.")]


def settings_of(
    *,
    file: Path | None = None,
    model: str | None = None,
    alpha: float | None = None,
    calibration: Path | None = None,
    offline: bool = False,
    device: str | None = None,
    threads: int | None = None,
    adapter: Path | None = None,
    quantize: str | None = None,
) -> Settings:
    """Merge the options that were given over variables, file and defaults."""
    from vlmforensics.settings import load_settings, remote_by_name

    offline = offline or os.environ.get("HF_HUB_OFFLINE", "") not in {"", "0"}
    return load_settings(
        file,
        model=model,
        alpha=alpha,
        calibration=None if calibration is None else str(calibration),
        offline=offline or None,
        device=device,
        threads=threads,
        adapter=None if adapter is None else str(adapter),
        quantize=quantize,
        remote_enabled=remote_by_name(model),
    )


def load_assistant(settings: Settings) -> Assistant:
    """Load the model, saying so on stderr where a person watches."""
    from vlmforensics.batch.process import prepare_process

    prepare_process()
    console = stderr()
    say_where_pictures_go(settings)
    if console.is_terminal:
        with console.status(f"loading {settings.model} …"):
            from vlmforensics.assistant import Assistant

            return Assistant.load(settings.model, settings=settings)
    from vlmforensics.assistant import Assistant

    return Assistant.load(settings.model, settings=settings)


def say_where_pictures_go(settings: Settings) -> None:
    """A picture never leaves the machine without a word."""
    from vlmforensics.settings import where_pictures_go

    if notice := where_pictures_go(settings.model):
        complain(notice)


def stdout() -> Console:
    """Console for results."""
    from rich.console import Console

    return Console(highlight=False)


def stderr() -> Console:
    """Console for everything that is not a result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def complain(error: BaseException | str) -> None:
    """One line on stderr; control characters of file names are shown as escapes."""
    from vlmforensics.report import printable

    print(f"vlmforensics: {printable(str(error), 1500)}", file=sys.stderr)  # noqa: T201


def guarded(command: Callable[P, Any]) -> Callable[P, None]:
    """Turn what a command raises into one line and an exit code; what it returns is its exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        code = FAILED
        try:
            code = command(*args, **kwargs) or DONE
        except SettingsError as error:
            complain(error)
            code = USAGE
        except VlmForensicsError as error:
            complain(error)
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BrokenPipeError:
            # the reader (head, less) has left; nothing to say, and nobody to say it to
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = DONE
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if debugging():
                raise
            complain(f"a defect, please report it: {type(error).__name__}: {error} (--debug shows where)")
        raise typer.Exit(code)

    return run


def set_up_logging(*, debug: bool) -> None:
    """Warnings to stderr, or everything of ours with ``--debug``."""
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s", level=logging.ERROR)
    logging.getLogger("vlmforensics").setLevel(logging.DEBUG if debug else logging.WARNING)


def debugging() -> bool:
    """True where ``--debug`` was given."""
    return logging.getLogger("vlmforensics").level == logging.DEBUG
