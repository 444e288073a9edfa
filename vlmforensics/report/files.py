"""Write a report to a file, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from vlmforensics.errors import SettingsError
from vlmforensics.report.html import to_html
from vlmforensics.report.markdown import to_markdown
from vlmforensics.report.record import to_json, to_record
from vlmforensics.types import Report

_WRITERS: Mapping[str, Callable[[Report], str]] = {
    ".html": lambda report: to_html(report, written=datetime.now(UTC)),
    ".htm": lambda report: to_html(report, written=datetime.now(UTC)),
    ".md": lambda report: to_markdown(report, written=datetime.now(UTC)),
    ".json": lambda report: to_json(to_record(report), indent=2) + "\n",
}


def save(report: Report, path: str | Path) -> Path:
    """Write the report as HTML, JSON or Markdown, chosen by the ending; an existing file is replaced at once.

    Returns:
        The path written.

    Raises:
        SettingsError: an ending that is not known, or a folder that can't be written to.
    """
    target = Path(path)
    check_ending(target)
    write_atomically(target, _WRITERS[target.suffix.lower()](report))
    return target


def check_ending(path: Path) -> None:
    """Raise ``SettingsError`` where :func:`save` would not know what to write: ask before the work."""
    if path.suffix.lower() not in _WRITERS:
        raise SettingsError(f"can't tell what to write to {path}: end it with .html, .json or .md")


def write_atomically(target: Path, text: str) -> None:
    """Write UTF-8 text beside ``target``, flush it to the disk, then move it into place."""
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem[:40]}-", suffix=".part")
    except OSError as error:
        raise SettingsError(f"can't write to {target.parent}: {error.strerror}") from error
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)  # mkstemp gives 0600; a report is an ordinary file
        part.replace(target)
    except OSError as error:
        raise SettingsError(f"can't write {target}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
