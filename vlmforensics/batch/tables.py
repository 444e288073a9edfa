"""Flat views of a batch file for spreadsheets and data frames; the JSON lines stay the truth."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmforensics.batch.exports import read_records
from vlmforensics.errors import SettingsError
from vlmforensics.report import printable, replacing, write_atomically
from vlmforensics.types import LABELS

COLUMNS = (
    "file", "sha256", "width", "height", "format", "verdict", "abstention", *(f"p_{name}" for name in LABELS),
    "mask_area", "evidence", "failures", "explanation", "model", "weights_sha256", "seconds", "error_code",
    "error",
)  # fmt: skip


def write_table(records: Path, target: Path) -> Path:
    """Write ``target`` (``.csv`` or ``.parquet``) from a batch file.

    CSV: UTF-8 with byte-order mark, and no cell that a spreadsheet would run as a formula. Parquet: declared
        types.

    Raises:
        SettingsError: another ending.
    """
    check_table(target)
    if target.suffix.lower() == ".csv":
        write_atomically(target, _csv(records))
    else:
        _parquet(records, target)
    return target


def check_table(target: Path) -> None:
    """Raise ``SettingsError`` where :func:`write_table` would not know what to write."""
    if target.suffix.lower() not in {".csv", ".parquet"}:
        raise SettingsError(f"can't tell what table to write to {target}: end it with .csv or .parquet")


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record made flat; names and free text made safe to show, for UTF-8 can't hold every one."""
    chances, mask, error = record["probabilities"], record["mask"], record["error"]
    findings = [f"{item['id']} {item['source']}: {item['strength']}" for item in record["evidence"] or ()]
    return {
        "file": printable(record["file"], 4096),
        **{name: record[name] for name in ("sha256", "width", "height", "format", "verdict")},
        "abstention": record.get("abstention"),
        **{f"p_{label}": None if chances is None else chances[label] for label in LABELS},
        "mask_area": None if mask is None else _area(mask),
        "evidence": "; ".join(findings),
        "failures": "; ".join(failure["source"] for failure in record.get("failures", ())),
        "explanation": None if record["explanation"] is None else _paragraphs(record["explanation"]),
        "model": printable(record["model"]["name"], 4096),
        "weights_sha256": record["model"]["weights_sha256"],
        "seconds": record["timing"].get("total"),
        "error_code": None if error is None else error.get("code"),
        "error": None if error is None else printable(error["message"], 4096),
    }


def _paragraphs(text: str) -> str:
    return "\n".join(printable(line, 32000) for line in text.split("\n"))


def _area(mask: Mapping[str, Any]) -> float:
    from vlmforensics.imaging import rle_decode

    return float(rle_decode(mask).mean())


def _inert(value: Any) -> Any:
    """A cell no spreadsheet takes for a formula: a leading apostrophe where it would."""
    if isinstance(value, str):
        shown = printable(value, 32000)
        return f"'{shown}" if shown.lstrip()[:1] in {"=", "+", "-", "@", "|", "%"} else shown
    return value


def _csv(records: Path) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(
        {name: _inert(value) for name, value in row.items()} for row in map(_row, read_records(records))
    )
    return "\ufeff" + text.getvalue()


def _parquet(records: Path, target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = dict.fromkeys(COLUMNS, pa.string())
    types |= {"width": pa.int32(), "height": pa.int32(), "mask_area": pa.float64(), "seconds": pa.float64()}
    types |= {f"p_{label}": pa.float64() for label in LABELS}
    schema = pa.schema(list(types.items()), metadata={"schema": "vlmforensics.record/1 (flat)"})
    with replacing(target) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        group: list[dict[str, Any]] = []
        for record in read_records(records):
            group.append(_row(record))
            if len(group) == 1000:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
