"""Tables of pictures: CSV, JSON lines or Parquet with a column of paths or of bytes.

Paths are relative to the manifest's folder. Bytes are binary in Parquet (plain, or the ``{bytes, path}`` struct
that Hugging Face datasets write) and base64 in text. A row's label is its path; of bytes, ``MANIFEST::NAME`` by
the column ``name``, ``id``, ``key`` or ``img_id`` where there is one, else by its number from 0.
"""

from __future__ import annotations

import base64
import binascii
import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmforensics.batch.containers import Cell
from vlmforensics.errors import SettingsError

PATHS = ("path", "file", "filename", "file_name", "image_path", "filepath", "image")
BYTES = ("bytes", "image_bytes", "data", "image_data", "content")
NAMES = ("name", "id", "key", "img_id", "image_id")
_LONGEST_CELL = 256 << 20


@dataclass(frozen=True)
class Row:
    """One picture of a manifest: ``path`` as written there, or ``part`` of the table, or ``data``."""

    label: str
    path: str | None = None
    part: Cell | None = None
    data: bytes | None = None


def check(manifest: Path, column: str | None) -> None:
    """Raise ``SettingsError`` where :func:`rows` would find no column to read."""
    next(iter(rows(manifest, column)), None)


def rows(manifest: Path, column: str | None) -> Iterator[Row]:
    """The pictures of a manifest, in its order.

    Args:
        manifest: ``.csv``, ``.jsonl`` or ``.parquet``.
        column: holds path or bytes; None takes the first of ``PATHS``, then of ``BYTES``, that exists.

    Raises:
        SettingsError: it can't be read, or has no such column.
    """
    suffix = manifest.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet(manifest, column)
        elif suffix == ".csv":
            with manifest.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
                csv.field_size_limit(_LONGEST_CELL)
                reader = csv.DictReader(stream)
                yield from _text(manifest, column, reader.fieldnames or (), enumerate(reader))
        else:
            yield from _json_lines(manifest, column)
    except SettingsError:
        raise
    except Exception as error:  # a damaged table breaks its decoder in many ways
        raise SettingsError(f"can't read the manifest {manifest}: {error}") from error


def _choose(manifest: Path, names: Sequence[str], column: str | None) -> str:
    if column is not None:
        if column in names:
            return column
        raise SettingsError(f"{manifest} has no column {column!r}; it has {', '.join(names) or 'none'}")
    for usual in (*PATHS, *BYTES):
        if usual in names:
            return usual
    raise SettingsError(
        f"{manifest} has no column of paths or bytes ({', '.join((*PATHS, *BYTES))}); name it with --column"
    )


def _json_lines(manifest: Path, column: str | None) -> Iterator[Row]:
    def lines() -> Iterator[tuple[int, Mapping[str, Any]]]:
        with manifest.open("rb") as stream:
            for number, line in enumerate(stream):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except ValueError as error:
                    raise SettingsError(f"line {number + 1} of {manifest} is not JSON: {error}") from error
                yield number, value if isinstance(value, dict) else {}

    stream = lines()
    first = next(stream, None)
    if first is None:
        return
    yield from _text(manifest, column, tuple(first[1]), (pair for part in ([first], stream) for pair in part))


def _text(
    manifest: Path, column: str | None, names: Sequence[str], found: Iterable[tuple[int, Mapping[str, Any]]]
) -> Iterator[Row]:
    chosen = _choose(manifest, names, column)
    as_bytes = chosen in BYTES
    for number, row in found:
        value = row.get(chosen)
        text = value if isinstance(value, str) else ""
        if not as_bytes and text:
            yield Row(text, path=text)
        else:
            # an empty or impossible cell is an input too: its record says that there is nothing to examine
            yield Row(_label(manifest, row, number), data=_decoded(text))


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _label(manifest: Path, row: Mapping[str, Any], number: int) -> str:
    named = next((str(row[name]) for name in NAMES if row.get(name) not in (None, "")), str(number))
    return f"{manifest}::{named}"


def _parquet(manifest: Path, column: str | None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(manifest)
    except pa.ArrowInvalid as error:
        raise SettingsError(f"{manifest} is not a Parquet file: {error}") from error
    with file:
        schema = file.schema_arrow
        chosen = _choose(manifest, schema.names, column)
        kind = schema.field(chosen).type
        struct = pa.types.is_struct(kind) and "bytes" in [field.name for field in kind]
        binary = struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        named = [name for name in NAMES if name in schema.names]
        number = 0
        for group in range(file.num_row_groups):
            if not binary:
                for value in file.read_row_group(group, columns=[chosen]).column(chosen).to_pylist():
                    text = str(value or "")
                    yield Row(text, path=text) if text else Row(f"{manifest}::{number}", data=b"")
                    number += 1
                continue
            labels = file.read_row_group(group, columns=named).to_pylist() if named else None
            for place in range(file.metadata.row_group(group).num_rows):
                label = _label(manifest, labels[place] if labels else {}, number)
                yield Row(label, part=Cell(group, place, chosen, "bytes" if struct else ""))
                number += 1
