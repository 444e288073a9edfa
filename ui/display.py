"""What the page shows of a case: verdict, picture, evidence and what the file says, as one update."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vlmforensics import imaging
from vlmforensics.settings import Settings
from vlmforensics.types import Answer, Report
from vlmforensics.ui import cards, panels, thumbnails, views
from vlmforensics.ui.layout import Parts
from vlmforensics.ui.state import Session, Sessions, Turn
from vlmforensics.ui.words import chat_text

Changes = dict[Any, Any]


class Display:
    """Makes the updates; holds nothing about any visitor."""

    def __init__(self, parts: Parts, sessions: Sessions, settings: Settings) -> None:
        self.parts = parts
        self.sessions = sessions
        self.settings = settings

    def current(self, key: str, case_id: str) -> Changes:
        """The panel of a case, or the empty page where there is none."""
        if self.sessions.report(key, case_id) is not None:
            return self.panel(key, case_id)
        p = self.parts
        return {
            p.verdict: gr.HTML("", visible=False),
            p.intro: shown(True),
            **{part: shown(False) for part in (p.panel, p.below, p.suggestions)},
        }

    def panel(self, key: str, case_id: str, chosen: tuple[str, ...] | None = None) -> Changes:
        """Everything about one case, with the ``chosen`` layers on its picture (by default the telling ones)."""
        p = self.parts
        session = self.sessions.known(key)
        t, cases = session.t, session.cases
        current = cases[case_id]
        names = [(f"{number}. {item.file}", name) for number, (name, item) in enumerate(cases.items(), 1)]
        placed = {item.id for item in current.evidence if views.drawable(item)}
        asked = session.asked.get(case_id, ())
        first = views.first_choice(current) if chosen is None else chosen
        return {
            p.case_id: case_id,
            p.verdict: gr.HTML(cards.verdict_card(current, t), visible=True),
            p.intro: shown(False),
            p.panel: shown(True),
            p.cases: gr.update(choices=names, value=case_id, visible=len(names) > 1),
            p.viewer: panels.viewer(current, case_id, asked, first, t),
            p.table: panels.evidence_table(current, placed, case_id, t),
            p.below: shown(True),
            p.facts: panels.details(current, t),
            p.metadata: panels.metadata(current, t),
            p.credentials: panels.credentials(current, t),
            p.generation: panels.generation(current, t),
            p.preview: thumbnails.comparison(thumbnails.preview(current.case, self.settings), t),
            p.suggestions: shown(True),
            p.compare: shown(other_case(session, case_id) is not None),
            p.save_mask: gr.update(visible=current.mask is not None),
            **dict.fromkeys(p.files, None),
        }

    def progress(self, name: str, stages: list[str], session: Session) -> Changes:
        """The stages so far; what was shown belongs to another picture and is hidden."""
        p = self.parts
        changes: Changes = {p.verdict: gr.HTML(cards.stage_card(name, stages, session.t), visible=True)}
        if len(stages) == 1:
            changes.update({part: shown(False) for part in (p.intro, p.panel, p.below, p.suggestions)})
        return changes


def shown(visible: bool) -> Any:
    """An update that shows or hides a part."""
    return gr.update(visible=visible)


def name_of(file: str) -> str:
    """A picture's name in the conversation."""
    return f"**{chat_text(file)}**"


def ids(current: Report) -> set[str]:
    """The evidence that may be cited."""
    return {item.id for item in current.evidence}


def remember(current: Report, question: str, paragraphs: list[str]) -> None:
    """Keep an answer with its report, so that saving one saves both."""
    current.conversation = (*current.conversation, Answer(question, "\n\n".join(paragraphs)))


def other_case(session: Session, case_id: str) -> str | None:
    """The picture to compare with: the whole one before this, or after where there is none before."""
    names = [name for name in session.cases if name not in session.crops]
    if case_id not in names or len(names) < 2:
        return None
    at = names.index(case_id)
    return names[at - 1] if at else names[1]


def attach(session: Session, turn: Turn, current: Report, case_id: str) -> None:
    """Put the picture's thumbnail into the message that sent it."""
    path = session.folder / f"{case_id}.png"
    path.write_bytes(imaging.to_png(views.thumbnail(current)))
    content = turn.sent["content"]
    at = content.index(name_of(current.file)) if name_of(current.file) in content else 0
    content.insert(at, {"path": str(path), "alt_text": current.file})
