"""``vlmforensics examine``."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from vlmforensics.assistant import Assistant
from vlmforensics.cli.common import DONE, FAILED, complain, load_assistant, stderr, stdout
from vlmforensics.cli.show import show_report
from vlmforensics.errors import SettingsError, VlmForensicsError
from vlmforensics.report import check_ending, error_record, printable, to_json, to_record
from vlmforensics.report import save as save_report
from vlmforensics.settings import Settings
from vlmforensics.types import Report


def run(
    images: Sequence[str], settings: Settings, *, as_json: bool, save: Path | None, with_text: bool
) -> int:
    """Examine pictures one after the other and print each result; returns the exit code.

    With ``as_json`` every picture is one line of JSON on standard output, errors included.
    """
    if save is not None:
        _check_save(save, images)
    assistant = load_assistant(settings)
    code = DONE
    for name in images:
        try:
            report = _one(assistant, name, as_json=as_json, with_text=with_text)
            if save is not None:
                target = save / f"{Path(name).stem}.html" if save.is_dir() else save
                save_report(report, target)
                if not as_json:
                    stderr().print(f"saved {printable(str(target), 300)}")
        except SettingsError:
            raise
        except VlmForensicsError as error:
            error.file = error.file or name
            code = FAILED
            if as_json:
                from vlmforensics.report.ledger import file_digest

                _print_line(to_json(error_record(name, file_digest(name), error, assistant.model)))
            complain(error)
    return code


def _check_save(save: Path, images: Sequence[str]) -> None:
    if save.is_dir():
        names = [Path(name).stem for name in images]
        if len(set(names)) < len(names):
            raise SettingsError(
                "two of the pictures would be saved under the same name; save them one by one"
            )
        return
    check_ending(save)
    if len(images) > 1:
        raise SettingsError(f"{save} can hold one report; name an existing folder, or use batch")


def _one(assistant: Assistant, name: str, *, as_json: bool, with_text: bool) -> Report:
    console = stderr()
    if console.is_terminal and not as_json:
        with console.status("…") as status:
            report = assistant.examine(
                name, progress=lambda stage: status.update(f"{stage} …"), for_text=with_text
            )
    else:
        report = assistant.examine(name, for_text=with_text)
    if as_json:
        if with_text:
            for _ in assistant.explain(report):
                pass
        _print_line(to_json(to_record(report, with_text=with_text) | {"file": name}))
        return report
    show_report(stdout(), report)
    if with_text:
        stream_text(assistant.explain(report))
    return report


def stream_text(pieces: Iterable[str]) -> None:
    """Print text as it comes, wrapped at words on a terminal.

    Control characters that a model or a picture's metadata brought are escaped.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    column = 0
    for piece in pieces:
        for part in re.findall(r"\n|[^\S\n]+|\S+", piece):
            shown = part if part == "\n" else printable(part, len(part))
            if width and column + len(shown) >= width and not part.isspace():
                shown, column = f"\n{shown}", 0
            column = 0 if part == "\n" else column + len(shown.lstrip("\n"))
            sys.stdout.write(shown)
        sys.stdout.flush()
    sys.stdout.write("\n\n")
    sys.stdout.flush()


def _print_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
