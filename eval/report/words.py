"""Numbers and verdicts in words, the same for page, Markdown and terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOTHING = "–"


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where it is not defined."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def ranged(row: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A figure with its interval."""
    if row is None or row.get("value") is None:
        return NOTHING
    if row.get("low") is None:
        return number(row["value"], digits)
    return f"{number(row['value'], digits)} [{number(row['low'], digits)}, {number(row['high'], digits)}]"


def percent(row: Mapping[str, Any] | None) -> str:
    """A counted share in per cent with its interval."""
    if row is None or not row.get("n"):
        return NOTHING
    return (
        f"{row['count']} of {row['n']} = {100 * row['value']:.1f} % "
        f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    )


def aim_value(aim: Mapping[str, Any]) -> str:
    """What was measured for one aim."""
    return percent(aim) if aim.get("n") is not None and aim.get("count") is not None else ranged(aim)


def aim_verdict(aim: Mapping[str, Any]) -> str:
    """Whether an aim is reached, in words."""
    if not aim["reached"]:
        return "not reached"
    return "reached" if aim["secured"] else "reached, but the interval reaches beyond it"


def verdict_lines(result: Mapping[str, Any]) -> list[str]:
    """The top of the report for a terminal."""
    lines = [f"ALARM: {alarm}" for alarm in result["alarms"]]
    for aim in result["aims"]:
        bound = f"{aim['sign']} {aim['aim']:g}"
        lines.append(f"{aim['name']}: {aim_value(aim)} (aim {bound}): {aim_verdict(aim)}")
    if not result["unseen"]:
        lines.append(
            "These sources were not declared unseen: figures on sources that a model knows flatter it."
        )
    return lines
