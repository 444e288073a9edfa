"""``vlmforensics models``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vlmforensics import weights
from vlmforensics.cli.common import DONE, FAILED, complain, stderr, stdout
from vlmforensics.errors import ModelError, WeightsUnavailable
from vlmforensics.settings import Settings


def show(settings: Settings, *, as_json: bool) -> None:
    """Print a table of the pinned models."""
    rows = weights.list_models(settings)
    if as_json:
        plain = [
            {"name": r.name, "about": r.about, "licences": list(r.licences), "state": r.state,
             "path": str(r.path), "bytes": r.bytes, "download_bytes": r.download_bytes}
            for r in rows
        ]  # fmt: skip
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("name", "state", "on disk", "download", "licences", "what"):
        table.add_column(name)
    for r in rows:
        size = f"{r.bytes / 1e6:.0f} MB" if r.bytes else "–"
        table.add_row(
            r.name,
            r.state,
            size,
            f"{r.download_bytes / 1e6:.0f} MB",
            ", ".join(dict.fromkeys(r.licences)),
            r.about,
        )
    stdout().print(table)


def fetch(names: Sequence[str], settings: Settings) -> None:
    """Fetch models, one line of progress per step; the folder of each goes to standard output."""
    console = stderr()
    for name in names:
        folder = weights.pull(name, settings, lambda line: console.print(line, soft_wrap=True))
        stdout().print(f"{name}  {folder}", soft_wrap=True)


def check(names: Sequence[str], settings: Settings) -> int:
    """Hash the named models, or every model in the cache; returns the exit code."""
    wanted = names or [r.name for r in weights.list_models(settings) if r.state != "absent"]
    if not wanted:
        raise WeightsUnavailable("no model is in the cache; `vlmforensics models pull` fetches one")
    code = DONE
    for name in wanted:
        try:
            found = weights.verify(name, settings)
            stdout().print(f"{name}  {len(found.files)} files, {found.bytes / 1e6:.0f} MB: whole")
        except ModelError as error:
            complain(error)
            code = FAILED
    return code


def convert_sida(source: Path, out: Path, vision: Path | None) -> None:
    """Convert, one line of progress per step."""
    from vlmforensics.vlm.sida_convert import convert_sida as convert

    console = stderr()
    convert(source, out, vision=vision, say=lambda line: console.print(line, soft_wrap=True))
    stdout().print(f"{out}", soft_wrap=True)
