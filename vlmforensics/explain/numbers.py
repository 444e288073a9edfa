"""Numbers in a generated sentence must be numbers of its cited evidence, rounded at most, and mean the same thing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlmforensics.types import LABELS, Evidence, Report

_NUMBER = re.compile(r"(?<![\w.])(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?![\w])\s?(%)?")
_CITED = re.compile(r"\[?E\d{1,3}\]?")
_TOKEN = re.compile(r"[A-Za-z]{3,}|[×°]")
_VALIDATION = re.compile(r"\b(accuracy|validation|right|reliab\w+)\b", re.IGNORECASE)
_EMPTY = {
    "the", "and", "for", "with", "that", "this", "from", "out", "about", "only", "than", "per", "cent",
    "which",
    "gives", "give", "was", "were", "has", "are", "its",
}  # fmt: skip


class _Token:
    """A number in a text with the words around it."""

    def __init__(self, match: re.Match[str], text: str) -> None:
        self.decimals = len(match.group(2) or ".") - 1
        self.value = float(match.group(1).replace(",", "") + (match.group(2) or ""))
        self.percent = match.group(3) is not None
        self.clause = re.split(r"[;:]", text[: match.start()])[-1] + re.split(r"[;:]", text[match.end() :])[0]
        self.before = _content(text[: match.start()], last=True)
        self.after = _content(text[match.end() :], last=False)

    def near(self, value: float) -> bool:
        """True where this is ``value``, rounded to the decimals given, and not to nothing."""
        gap = abs(value - self.value)
        return gap <= 0.5 * 10**-self.decimals + 1e-9 and gap <= 0.06 * abs(value) + 1e-9


def _content(text: str, *, last: bool) -> set[str]:
    """The three nearest words with a meaning of their own."""
    words = [word.lower() for word in _TOKEN.findall(text) if word.lower() not in _EMPTY]
    return set(words[-3:] if last else words[:3])


def _tokens(text: str) -> list[_Token]:
    bare = _CITED.sub(" ", text)
    return [_Token(match, bare) for match in _NUMBER.finditer(bare)]


def numbers_hold(rest: str, cited: Sequence[Evidence], report: Report) -> str:
    """Check every number of a sentence; verbatim statements (already cut from ``rest``) need no check.

    A number taken from a statement must stand beside one of the words that it stands beside there, so that two
    numbers can't trade places; a probability must be that of the label that its clause names; an accuracy must be
    named as one.

    Returns:
        The problem, or an empty string.
    """
    sources = [token for item in cited for token in _tokens(item.statement)]
    for token in _tokens(rest):
        found = any(
            token.percent == other.percent
            and token.near(other.value)
            and (token.before & other.before or token.after & other.after)
            for other in sources
        )
        if not (found or _is_probability(token, report) or _is_reliability(token, cited)):
            return f"gives a number that was not measured ({token.value:g})"
    return ""


def _is_probability(token: _Token, report: Report) -> bool:
    words = {
        "real": r"\breal\b|unmanipulated|no (?:sign of )?manipulation",
        "synthetic": r"synthetic|generat",
        "tampered": r"tamper|edit",
    }
    named = [label for label in LABELS if re.search(words[label], token.clause, re.IGNORECASE)]
    if not token.percent or len(named) > 1 or not re.search(r"\bprobab", token.clause, re.IGNORECASE):
        return False
    label = named[0] if named else report.verdict.leading
    return token.near(100 * report.verdict.probabilities[label])


def _is_reliability(token: _Token, cited: Sequence[Evidence]) -> bool:
    if not _VALIDATION.search(token.clause):
        return False
    for item in cited:
        quality = item.reliability
        if quality is None:
            continue
        shares = (quality.balanced_accuracy, quality.low, quality.high)
        if token.percent and any(token.near(100 * share) for share in shares):
            return True
        if not token.percent and token.value == quality.n:
            return True
    return False
