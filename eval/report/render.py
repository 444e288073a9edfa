"""Blocks as one self-contained page, or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from vlmforensics.eval.report.blocks import Bars, Block, Chart, Gallery, Heading, Table, Text


@cache
def _environment() -> Environment:
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """One page: no script, no request to anywhere, every string escaped; SVGs are our own."""
    template = (files("vlmforensics.eval") / "templates" / "report.html").read_text(encoding="utf-8")
    shown = [
        {
            "kind": type(block).__name__,
            "block": block,
            "svg": Markup(block.svg) if isinstance(block, Chart) else "",  # noqa: S704 - drawn by charts
        }
        for block in blocks
    ]
    return _environment().from_string(template).render(title=title, shown=shown)


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The same without charts, which the page has."""
    lines = [f"# {title}", ""]
    for block in blocks:
        if isinstance(block, Heading):
            lines += ["#" * block.level + f" {block.text}", ""]
        elif isinstance(block, Text):
            lines += [f"**{_cell(block.text)}**" if block.kind == "alarm" else _cell(block.text), ""]
        elif isinstance(block, Table):
            lines += [*_table(block.head, block.rows), ""]
        elif isinstance(block, Bars):
            rows = [(name, note, str(r), str(i), str(w)) for name, note, r, i, w in block.rows]
            lines += [*_table(("source", "", "right", "inconclusive", "wrong"), rows), ""]
        elif isinstance(block, Gallery):
            for miss in block.misses:
                lines += [
                    f"- {_cell(miss.name)} ({_cell(miss.source)}): {miss.truth}, judged {miss.verdict} "
                    f"({miss.probabilities}). {_cell(' '.join(miss.reasons))}"
                ]
            lines.append("")
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(_cell(cell) for cell in head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]


def _cell(text: str) -> str:
    """Text from files can't break out of its cell or become markup."""
    flat = " ".join(text.split())
    for mark in "\\|<>`*_[]":
        flat = flat.replace(mark, f"\\{mark}")
    return flat
