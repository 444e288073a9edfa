"""Pictures inside other files: members of tar shards (WebDataset) and cells of Parquet tables.

A job names the place, not the pixels; whoever examines it reads them there, on this machine or on another that
sees the same files.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlmforensics.errors import SettingsError

_LABELS = (
    "json",
    "jsonl",
    "txt",
    "text",
    "caption",
    "cls",
    "cls2",
    "id",
    "index",
    "idx",
    "csv",
    "tsv",
    "xml",
    "md",
)
_ARRAYS = ("npy", "npz", "pyd", "pth", "pickle", "yaml", "yml", "html")
SIDECARS = frozenset(f".{ending}" for ending in (*_LABELS, *_ARRAYS))
"""Endings in WebDataset shards that hold labels and captions beside each picture; they are not inputs."""


@dataclass(frozen=True)
class Slice:
    """``size`` bytes from ``offset`` of a file."""

    offset: int
    size: int


@dataclass(frozen=True)
class Cell:
    """A cell of a Parquet file; ``field`` is empty, or the field of a struct column that holds the bytes."""

    group: int
    row: int
    column: str
    field: str = ""


def read_part(path: str, part: Slice | Cell) -> bytes:
    """The bytes that ``part`` names.

    Raises:
        OSError: the file can't be read, or is shorter than it was.
    """
    if isinstance(part, Slice):
        with Path(path).open("rb") as stream:
            end = part.offset + part.size
            # asked before reading: a header may claim more than memory holds
            if os.fstat(stream.fileno()).st_size < end:
                raise OSError(f"it ends before byte {end}")
            stream.seek(part.offset)
            return stream.read(part.size)
    try:
        values = _group(path, Path(path).stat().st_mtime_ns, part.group, part.column)
        value: Any = values[part.row].as_py()
        if part.field and value is not None:
            value = value.get(part.field)
    except OSError:
        raise
    except Exception as error:  # a damaged table breaks its decoder in many ways, all of them this cell's
        raise OSError(f"its row can't be read: {error}") from error
    return value if isinstance(value, bytes) else b""


@lru_cache(maxsize=2)
def _group(path: str, changed: int, group: int, column: str) -> Any:
    """One row group's column; the next rows of a shard are read from the same one."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(column)


def tar_members(path: Path) -> Iterator[tuple[str, Slice]]:
    """Name and place of each regular member that may be a picture, in the shard's order.

    Raises:
        SettingsError: not a plain tar file, or one that is cut short.
    """
    try:
        with tarfile.open(path, "r:") as shard:
            headers: Any = shard
            for member in shard:
                headers.members = []  # it keeps every one otherwise
                name = member.name
                hidden = Path(name).name.startswith(".")
                if member.isreg() and not hidden and Path(name).suffix.lower() not in SIDECARS:
                    yield name, Slice(member.offset_data, member.size)
    except Exception as error:  # a damaged header breaks its reader in many ways
        raise SettingsError(f"{path} is not a whole plain tar file: {error}") from error
