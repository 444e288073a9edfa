"""``vlmforensics chat``: the verdict, then questions, in a terminal or from a pipe."""

from __future__ import annotations

import sys
from pathlib import Path

from vlmforensics.cli.common import DONE, complain, load_assistant, stdout
from vlmforensics.cli.examine import stream_text
from vlmforensics.cli.show import show_report
from vlmforensics.errors import VlmForensicsError
from vlmforensics.report import printable, save
from vlmforensics.settings import Settings

_HELP = "Ask about the picture. /save FILE.html|json|md writes the report, /quit ends."


def run(image: str, settings: Settings) -> int:
    """Hold the conversation until the input ends; returns the exit code."""
    assistant = load_assistant(settings)
    report = assistant.examine(image)
    show_report(stdout(), report)
    stream_text(assistant.explain(report))
    interactive = sys.stdin.isatty()
    if interactive:
        stdout().print(_HELP, style="dim")
    while True:
        question = _next_question(interactive)
        if question is None or question in {"/quit", "/exit", "/q"}:
            return DONE
        if not question:
            continue
        if question.startswith("/"):
            try:
                _command(question, report)
            except VlmForensicsError as error:
                complain(error)
            continue
        if not interactive:
            sys.stdout.write(f"> {printable(question)}\n")
        stream_text(assistant.ask_stream(report, question))


def _next_question(interactive: bool) -> str | None:
    """One line without its end, or None where there are no more."""
    if interactive:
        try:
            return input("> ").strip()
        except EOFError:
            return None
    line = sys.stdin.readline()
    return line.strip() if line else None


def _command(text: str, report: object) -> None:
    from vlmforensics.types import Report

    name, _, rest = text.partition(" ")
    if name == "/save" and rest.strip() and isinstance(report, Report):
        stdout().print(
            f"saved {printable(str(save(report, Path(rest.strip()).expanduser())), 300)}", style="dim"
        )
    else:
        stdout().print(_HELP, style="dim")
