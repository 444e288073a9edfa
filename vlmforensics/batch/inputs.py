"""Which files a batch examines: every regular file named or in a named folder, hidden ones apart.

Nothing is chosen by name or ending: a text file called ``.jpg`` is an input and gets its error record.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmforensics.errors import SettingsError


@dataclass(frozen=True)
class Job:
    """One input: ``file`` is its label in the record, the path as given or found; ``path`` opens it."""

    file: str
    path: str


def find_inputs(named: Sequence[str | Path], *, exclude: Sequence[Path] = ()) -> list[Job]:
    """List the inputs: files in the order given, folders walked in byte order of names, each file once.

    Symbolic links are followed, each folder once, so that loops end. A folder that can't be read becomes an
    input itself, and so an error record, rather than a silent gap.

    Args:
        named: files and folders.
        exclude: files that are not inputs wherever they lie (the output).

    Raises:
        SettingsError: something named does not exist.
    """
    left_out = {Path(path).resolve() for path in exclude}
    seen_folders: set[tuple[int, int]] = set()
    jobs: dict[str, Job] = {}
    for name in named:
        path = Path(name)
        if not path.exists():
            raise SettingsError(f"{name} does not exist")
        for found in _walk(path, seen_folders) if path.is_dir() else [path]:
            label = str(found)
            if label not in jobs and not (left_out and found.resolve() in left_out):
                jobs[label] = Job(label, str(found.absolute()))
    return list(jobs.values())


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError:
        yield folder
        return
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        try:
            if entry.is_dir():
                yield from _walk(path, seen)
            elif entry.is_file():
                yield path
        except OSError:
            yield path  # a link loop or a vanished target: its record says so
