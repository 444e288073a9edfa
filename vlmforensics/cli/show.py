"""A report in the terminal: verdict, bars, findings. Colour only repeats what words say."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vlmforensics.report import HEADLINES, MEANINGS, percent, printable
from vlmforensics.types import LABELS, Report

_COLOURS = {"real": "cyan", "synthetic": "yellow", "tampered": "magenta", "inconclusive": "white"}
_BAR = 28


def show_report(console: Console, report: Report) -> None:
    """Print verdict card and evidence table; the explanation is streamed after it by the caller."""
    console.print(_card(report))
    if report.evidence:
        console.print(_evidence(report))
    for failure in report.failures:
        said = printable(f"{failure.source} failed ({failure.code}): {failure.message}", 300)
        console.print(Text(f"  ! {said}", style="red"))


def _card(report: Report) -> RenderableType:
    verdict, case = report.verdict, report.case
    lines: list[RenderableType] = []
    if verdict.abstention:
        lines += [Text(verdict.abstention), Text()]
    bars = Table.grid(padding=(0, 2))
    for label in LABELS:
        share = verdict.probabilities[label]
        full = round(_BAR * share)
        bar = Text("█" * full + "░" * (_BAR - full), style=_COLOURS[label])
        bars.add_row(
            Text(label, style="bold"),
            bar,
            Text(percent(share), justify="right"),
            Text(MEANINGS[label], style="dim"),
        )
    lines.append(bars)
    if verdict.mask_agreement:
        lines += [Text(), Text(verdict.mask_agreement)]
    facts = f"{case.container.format}, {case.width} × {case.height}, SHA-256 {case.sha256[:16]}…"
    lines += [Text(), Text(facts, style="dim")]
    return Panel(
        Group(*lines),
        title=Text(HEADLINES[verdict.label], style=f"bold {_COLOURS[verdict.label]}"),
        subtitle=Text(printable(report.file, 120), style="dim"),
        title_align="left",
        subtitle_align="left",
        box=box.ROUNDED,
    )


def _evidence(report: Report) -> Table:
    """Findings by weight: id, then source, support and reliability on one line and the statement under it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(ratio=1)
    for item in report.evidence:
        known = item.reliability
        right = "" if known is None else f" · right on {percent(known.balanced_accuracy)} of {known.n}"
        line = Text(f"{printable(item.source, 40)} · {item.strength}{right} · {item.status}", style="dim")
        table.add_row(item.id, Group(line, Text(printable(item.statement, 600))))
    return table
