"""Write a report to a file, whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

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


def write_atomically(target: Path, data: str | bytes) -> None:
    """Write bytes, or text as UTF-8, to ``target``, whole or not at all; see :func:`replacing`."""
    with replacing(target) as stream:
        stream.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A stream that takes ``target``'s place when the block ends without an error, flushed to the disk.

    The file's mode follows the umask, as that of any other file.

    Raises:
        SettingsError: there is no room, or no right to.
    """
    part = target.with_name(f".{target.stem[:40]}-{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(target)
    except OSError as error:
        raise SettingsError(f"can't write {target}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink()
