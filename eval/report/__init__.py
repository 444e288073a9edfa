"""The report of a scored run: one self-contained page, the same as Markdown, and the figures as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlmforensics.errors import SettingsError
from vlmforensics.eval.predictions import load_run
from vlmforensics.eval.report.blocks import build
from vlmforensics.eval.report.errors import worst
from vlmforensics.eval.report.render import to_html, to_markdown
from vlmforensics.eval.score import RESULTS
from vlmforensics.report import write_atomically

__all__ = ["write"]


def write(folder: Path, *, gallery: bool = False) -> dict[str, Any]:
    """Write ``report.html`` and ``report.md`` beside a run's ``results.json``; returns the figures.

    Args:
        folder: of a scored run.
        gallery: put small pictures of the worst errors into the page. Without it the page holds no picture.

    Raises:
        SettingsError: the run was not scored.
    """
    try:
        result: dict[str, Any] = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{folder} was not scored: `vlmforensics eval score {folder}`") from error
    blocks = build(result, worst(load_run(folder), str(result["main"]), gallery=gallery))
    title = f"{result['model']['name']} on {result['suite']}"
    write_atomically(folder / "report.html", to_html(title, blocks))
    write_atomically(folder / "report.md", to_markdown(title, blocks))
    return result
