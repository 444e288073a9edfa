"""JSON lines that grow while work goes on, so that a run that broke off goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlmforensics.errors import SettingsError


def read_journal(file: Path) -> list[dict[str, Any]]:
    """All rows; none where the file is absent. A last line that was torn by a crash is cut off the file.

    Raises:
        SettingsError: the file can't be read, or a line before the last is broken.
    """
    if not file.exists():
        return []
    rows = []
    try:
        # Bytes: a tear may go through a character, and as text a line would also end at U+2028.
        data = file.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            os.truncate(file, len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise SettingsError(f"{file}, line {number} is no JSON object")
            rows.append(row)
    except (OSError, ValueError) as error:
        raise SettingsError(f"can't go on from {file}: {error}; remove it to begin anew") from error
    return rows


def append(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows; they have left this process when it returns.

    Raises:
        SettingsError: the file can't be written.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise SettingsError(f"can't write {file}: {error.strerror}") from error
