"""The overview page of a batch: cards with filters, no script, every string escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from vlmforensics.report import text as words
from vlmforensics.report.html import environment, template
from vlmforensics.types import LABELS

PAGE = 500
"""Cards on one page."""
KINDS = ("tampered", "synthetic", "inconclusive", "real", "error")
_STEPS = (0.9, 0.75, 0.5)


@dataclass(frozen=True)
class Card:
    """One picture of the overview.

    Attributes:
        file: label, safe to show.
        kind: verdict, or ``error``.
        headline: the verdict in words.
        suspicion: 1 - P(real), or None.
        bars: label, per cent and width of each probability.
        detail: reason for abstaining, or the error.
        page: address of the full report, or None.
        thumb: address of the small picture, or None.
        has_mask: a suspected region is marked.
    """

    file: str
    kind: str
    headline: str
    suspicion: float | None
    bars: tuple[tuple[str, str, float], ...]
    detail: str
    page: str | None
    thumb: str | None
    has_mask: bool

    @classmethod
    def of(cls, record: Mapping[str, Any], page: str | None, thumb: str | None) -> Card:
        """The card of a record."""
        chances, error = record["probabilities"], record["error"]
        detail = (error["message"] if error is not None else record.get("abstention")) or ""
        return cls(
            file=words.printable(record["file"], 300),
            kind=record["verdict"] or "error",
            headline=words.HEADLINES[record["verdict"]] if record["verdict"] else "Could not be examined",
            suspicion=None if chances is None else 1.0 - chances["real"],
            bars=()
            if chances is None
            else tuple(
                (label, words.percent(chances[label]), round(100 * chances[label], 1)) for label in LABELS
            ),
            detail=words.printable(detail, 300),
            page=page,
            thumb=thumb,
            has_mask=bool(record["mask"] and record["mask"].get("boxes")),
        )

    @property
    def classes(self) -> str:
        """What the filters select by."""
        steps = [f"over{round(100 * step)}" for step in _STEPS if (self.suspicion or 0.0) >= step]
        return " ".join([self.kind, *steps, *(["masked"] if self.has_mask else [])])


def page_name(page: int) -> str:
    """File name of a page, counted from 0."""
    return "index.html" if page == 0 else f"index-{page + 1}.html"


def index_page(cards: Sequence[Card], *, page: int, pages: int, shown: int, total: int) -> str:
    """Render one page of the overview.

    Args:
        cards: of this page.
        page: its number, from 0.
        pages: how many there are.
        shown: pictures in the gallery.
        total: records in the batch file.
    """
    counts = {kind: sum(card.kind == kind for card in cards) for kind in KINDS}
    return environment().get_template("gallery.html").render(
        css=Markup(template("report.css") + template("gallery.css")),  # noqa: S704 - our own style sheets
        cards=cards,
        kinds=[(kind, counts[kind]) for kind in KINDS if counts[kind]],
        steps=[round(100 * step) for step in reversed(_STEPS)],
        page=page,
        links=[(page_name(number), number + 1) for number in range(pages)],
        shown=shown,
        total=total,
    )  # fmt: skip
