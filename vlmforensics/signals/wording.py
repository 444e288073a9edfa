"""Hostile metadata made fit for a sentence: short, on one line, in quotation marks where it is quoted."""

from __future__ import annotations

import json
import re
from typing import Any

SCAN = 262_144
"""Characters of any one metadata value that are searched; parsers never see more."""
QUOTE = 60
"""Characters of a quoted value that a statement shows."""


def quote(value: str, cap: int = QUOTE) -> str:
    """Quote a metadata value: white space folded, non-printing characters and brackets replaced, cut at ``cap``.

    Square and angle brackets are replaced because statements cite evidence in square brackets and may be shown
    in HTML or Markdown.
    """
    folded = " ".join(value[: 8 * cap].split())
    plain = "".join(ch if ch.isprintable() else "?" for ch in folded)
    plain = plain.translate(str.maketrans("[]<>“”`|\\", "()()''''/"))
    if len(plain) > cap:
        plain = plain[: cap - 1].rstrip() + "…"
    return f"“{plain}”"


def count(number: int, noun: str) -> str:
    """``1 field``, ``2 fields``: a number with its noun; ``noun`` is regular."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def bounded_json(text: str) -> Any:
    """Parse JSON from a metadata value, or None: too long, too deep, or not JSON.

    Nesting is capped before parsing, so that a hostile value can't exhaust the stack.
    """
    if len(text) > 4 * SCAN or text.lstrip()[:1] not in ("{", "["):
        return None
    depth = deepest = 0
    for bracket in re.finditer(r"[\[\]{}]", text):
        depth += 1 if bracket.group() in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > 64:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def xmp_values(xmp: str | None, name: str, cap: int = 32) -> list[str]:
    """Read the values of one XMP property, whether written as attribute or as element; no XML parser involved.

    Args:
        xmp: the packet; only the first :data:`SCAN` characters are searched.
        name: local name without prefix, e.g. ``DigitalSourceType``.
        cap: most values returned.
    """
    if not xmp:
        return []
    text = xmp[:SCAN]
    if f":{name}" not in text:
        return []
    found = []
    prefixed = rf"[\w.-]{{1,32}}:{re.escape(name)}"
    attribute_form = r"""\s{0,8}=\s{0,8}["']([^"']{0,2048})["']"""
    element_form = rf"[^<>]{{0,256}}>(.{{0,2048}}?)</{prefixed}>"
    pattern = f"{prefixed}(?:{attribute_form}|{element_form})"
    for match in re.finditer(pattern, text, re.DOTALL):
        value = (
            match.group(1) if match.group(1) is not None else re.sub(r"<[^>]{0,512}>", " ", match.group(2))
        )
        attribute = re.search(r"""rdf:resource\s{0,8}=\s{0,8}["']([^"']{1,512})""", match.group(0))
        value = attribute.group(1) if attribute and not value.strip() else value
        if value.strip():
            found.append(" ".join(value.split()))
        if len(found) >= cap:
            break
    return found
