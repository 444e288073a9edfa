"""A report as Markdown: the page's contents without pictures, with every borrowed string escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from vlmforensics.report import text as words
from vlmforensics.report.html import check_picture, exhibit_facts, method_facts
from vlmforensics.report.record import digest, to_record
from vlmforensics.types import LABELS, CaseImage, Report

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&$])")
_BLOCK = re.compile(r"^(\s*)([-+=]|\d+[.)])")


def escape(text: str, limit: int = 2000) -> str:
    """Text from elsewhere as inert Markdown: one line, no markup, no HTML, no links, no bare addresses."""
    shown = _SPECIAL.sub(r"\\\1", words.printable(text, limit))
    # a zero-width no-break space would change copies; an escaped colon stops auto-links and stays readable
    shown = shown.replace("://", "\\://").replace("www.", "www\\.").replace("@", "\\@")
    return _BLOCK.sub(r"\1\\\2", shown)


def to_markdown(report: Report, *, written: datetime | None = None) -> str:
    """Render the report; ``written`` as in :func:`vlmforensics.report.to_html`."""
    return record_to_markdown(to_record(report), report.case, written=written)


def record_to_markdown(
    record: Mapping[str, Any], case: CaseImage | None, *, written: datetime | None = None
) -> str:
    """Render a stored record; ``case`` adds its second digest where the picture is at hand.

    Raises:
        InputError: ``case`` is another picture than the record's.
    """
    check_picture(record, case)
    lines = [f"# {words.HEADLINES[record['verdict']]}", "", escape(record["file"], 300), ""]
    if written:
        lines += [f"Report written {written:%Y-%m-%d %H:%M} UTC.", ""]
    if record.get("abstention"):
        lines += [f"**Why no verdict:** {escape(record['abstention'])}", ""]
    lines += ["| alternative | meaning | calibrated probability |", "|---|---|---|"]
    lines += [
        f"| {label} | {words.MEANINGS[label]} | {words.percent(record['probabilities'][label])} |"
        for label in LABELS
    ]
    if record["guarantee"]:
        lines += ["", escape(record["guarantee"])]
    if record.get("mask_agreement"):
        lines += ["", escape(record["mask_agreement"])]
    if record["explanation"]:
        lines += ["", "## Explanation", "", *_cited(record["explanation"])]
    lines += ["", "## Evidence", "", *_evidence(record)]
    if record["conversation"]:
        lines += ["", "## Questions and answers"]
        for answer in record["conversation"]:
            lines += ["", f"**{escape(answer['question'])}**", "", *_cited(answer["text"])]
    lines += [
        "",
        "## The exhibit",
        "",
        *(f"- {escape(name)}: {escape(value)}" for name, value in exhibit_facts(record, case)),
    ]
    lines += [f"- Conversion: {escape(note)}" for note in record["notes"]]
    lines += ["", "## What this cannot see", "", *(f"- {line}" for line in words.LIMITS)]
    lines += [
        "",
        "## Other explanations for traces like these",
        "",
        *(f"- {line}" for line in words.ALTERNATIVES),
    ]
    lines += ["", "## Worth doing next", "", *(f"- {line}" for line in words.NEXT_STEPS)]
    lines += [
        "",
        "## How to repeat it",
        "",
        *(f"- {escape(name)}: {escape(value)}" for name, value in method_facts(record)),
    ]
    lines += ["", f"Verification: SHA-256 of the canonical record {digest(record)}", ""]
    return "\n".join(lines)


def _cited(text: str) -> list[str]:
    """Paragraphs with their citations left readable and everything else escaped."""
    out = []
    for paragraph in filter(str.strip, text.split("\n")):
        parts = [
            f"\\[{', '.join(ids)}\\]" if ids else escape(part, 4000)
            for part, ids in words.split_citations(paragraph)
        ]
        out += ["".join(parts), ""]
    return out[:-1]


def _evidence(record: Mapping[str, Any]) -> list[str]:
    head = (
        "id",
        "finding",
        "source",
        "status",
        "support",
        "llr r / s / t",
        "contribution r / s / t",
        "error rate",
    )
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    rows += [f"| {' | '.join(_cells(item))} |" for item in record["evidence"]]
    rows.append(f"| – | Prior, before any evidence | | | | | {_numbers(record['prior'])} | |")
    for failure in record["failures"]:
        said = escape(failure.get("message", ""), 300)
        rows += ["", f"Failed: {escape(failure['source'])} ({escape(failure['code'])}) {said}".rstrip()]
    return rows


def _cells(item: Mapping[str, Any]) -> tuple[str, ...]:
    support = escape(item["strength"])
    numbers = _numbers(item["llr"]), _numbers(item["contribution"])
    known = escape(words.error_rate(item["reliability"]))
    return (
        escape(item["id"]),
        escape(item["statement"]),
        escape(item["source"]),
        escape(item["status"]),
        support,
        *numbers,
        known,
    )


def _numbers(values: Mapping[str, float]) -> str:
    return " / ".join(f"{round(values.get(label, 0.0), 2) + 0.0:+.2f}" for label in LABELS)
