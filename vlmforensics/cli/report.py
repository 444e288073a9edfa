"""``vlmforensics report``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlmforensics.cli.common import DONE, complain, load_assistant, stdout
from vlmforensics.errors import InputError, VlmForensicsError
from vlmforensics.report import (
    SCHEMA_ID,
    check_ending,
    check_picture,
    digest,
    record_to_html,
    record_to_markdown,
    save,
    to_json,
    to_record,
    write_atomically,
)
from vlmforensics.settings import Settings
from vlmforensics.types import CaseImage

_ENOUGH = 64 << 20


def run(source: str, out: Path, image: Path | None, settings: Settings) -> int:
    """Write the report and print the record's digest; returns the exit code."""
    check_ending(out)
    record = _record(Path(source))
    if record is None:
        assistant = load_assistant(settings)
        made = assistant.examine(source)
        for _ in assistant.explain(made):
            pass
        save(made, out)
        record = to_record(made)
    else:
        if record["error"] is not None:
            raise InputError(
                f"this record has no verdict to report: {record['error']['message']}", file=source
            )
        case = _picture(record, image, Path(source).parent, settings)
        now = datetime.now(UTC)
        if out.suffix.lower() == ".json":
            text = to_json(record, indent=2) + "\n"
        elif out.suffix.lower() == ".md":
            text = record_to_markdown(record, case, written=now)
        else:
            text = record_to_html(record, case, written=now)
        write_atomically(out, text)
    stdout().print(f"{digest(record)}  canonical record", soft_wrap=True)
    return DONE


def _record(path: Path) -> dict[str, Any] | None:
    """The record in a ``.json`` file, or None where ``path`` is something else, so a picture."""
    if path.suffix.lower() != ".json":
        return None
    try:
        if path.stat().st_size > _ENOUGH:
            raise InputError("this is too large for one record", file=str(path))
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"can't read it: {error.strerror}", file=str(path)) from error
    except ValueError as error:
        raise InputError("this is not JSON", file=str(path)) from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA_ID or "container" not in record:
        if isinstance(record, dict) and record.get("schema") == SCHEMA_ID and record.get("error"):
            return record
        raise InputError(f"this is not a whole {SCHEMA_ID} record", file=str(path))
    return record


def _picture(
    record: Mapping[str, Any], image: Path | None, beside: Path, settings: Settings
) -> CaseImage | None:
    """The record's picture, from where it was or from beside the record; only if its bytes are the same."""
    from vlmforensics.imaging import open_case

    if image is not None:
        case = open_case(image, settings=settings)
        check_picture(record, case)
        return case
    for place in (Path(record["file"]), beside / Path(record["file"]).name):
        try:
            case = open_case(place, settings=settings)
        except VlmForensicsError:
            continue
        if case.sha256 == record["sha256"]:
            return case
    complain("the record's picture is not at hand: the report is written without pictures (--image names it)")
    return None
