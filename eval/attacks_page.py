"""The page of attacks, written from the stored figures: ``docs/attacks.md``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def _shift(row: Mapping[str, float]) -> str:
    return f"{row['mean']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"


def _share(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['count']} of {row['n']} [{100 * low:.0f}, {100 * high:.0f} %]"


def render(result: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    lines = [
        f"{result['pictures']} pictures (centre squares of 448 px, half of them synthetic), PGD with {result['steps']} "
        f"steps. Calibration {result['calibration'][:12]}, label head {result['model'].get('backbone', '')[:12]}.",
        "",
    ]
    titles = {"synthetic": "Synthetic pictures, wanted: *real*", "real": "Real pictures, wanted: *synthetic*"}
    for label, title in titles.items():
        lines += [
            f"### {title}",
            "",
            "| attack | label head: shift | turned | whole-picture expert: shift | turned | withheld | "
            "fused: shift | turned | verdict as wanted (before) | inconclusive |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in result["table"]:
            if row["label"] != label:
                continue
            cells = [row["attack"]]
            for key in ("head", "whole", "fused"):
                known = row[f"{key} turned"]["n"] > 0  # nothing to compare where all readings were withheld
                cells += [_shift(row[f"{key} shift"]), _share(row[f"{key} turned"])] if known else ["–", "–"]
                if key == "whole":
                    cells.append(_share(row["whole withheld"]) if "whole withheld" in row else "")
            before = row["as wanted before"]["count"]
            cells += [f"{_share(row['verdict as wanted'])} ({before})", _share(row["inconclusive"])]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    jittered = [row for row in result["table"] if "head turned, random crops" in row]
    if jittered:
        lines += [
            "### A defence tried: the label head on four random crops of nine tenths, averaged",
            "",
            "| attack | pictures | head turned | turned on random crops |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {row['attack']} | {row['label']} | {_share(row['head turned'])} | "
            f"{_share(row['head turned, random crops'])} |"
            for row in jittered
        ]
        lines.append("")
    text = result["text"]
    lines += [
        f"Text in the picture: the command moves the label head by {_shift(text)} towards *real* beyond neutral text "
        f"of the same length in the same place (n = {text['n']}, paired).",
        "",
    ]
    return "\n".join(lines)


def write_page(figures: Path, file: Path) -> None:
    """Put the tables between the page's markers; the words around them are written by hand."""
    before, _, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = render(json.loads(figures.read_text(encoding="utf-8")))
    file.write_text(f"{before}{BEGIN}\n{tables}{END}{after}", encoding="utf-8")
