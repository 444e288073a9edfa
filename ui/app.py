"""The page's behaviour: what a dropped picture, a question, a click on a finding or a download sets in motion."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from vlmforensics import imaging, report
from vlmforensics.errors import VlmForensicsError
from vlmforensics.settings import Settings
from vlmforensics.types import Report
from vlmforensics.ui import cards, layout, views
from vlmforensics.ui.api import add_endpoint
from vlmforensics.ui.flow import Model, Stopped
from vlmforensics.ui.layout import EXAMPLES, HERE, QUESTIONS, Parts
from vlmforensics.ui.state import Session, Sessions, Turn
from vlmforensics.ui.uploads import Message, Upload
from vlmforensics.ui.words import chat_text, error_sentence, escape, stage_name

if TYPE_CHECKING:
    from vlmforensics.assistant import Assistant

_LOG = logging.getLogger(__name__)

TITLE = "vlmforensics"
MODEL_QUEUE = "model"
"""Concurrency group of everything that runs the network."""
Changes = dict[Any, Any]

WAITING = "Waiting for a free place…"
STOPPED = "Stopped."


class Page:
    """Handlers of one page; all visitors share it, so it holds nothing about any of them."""

    def __init__(self, model: Model, sessions: Sessions, settings: Settings) -> None:
        self.model = model
        self.sessions = sessions
        self.settings = settings
        self.parts: Parts

    def build(self) -> gr.Blocks:
        """Lay the page out and connect it."""
        # delete_cache: sweep files older than an hour, every ten minutes
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
            self.parts = layout.place(self.settings, (self.model.status, self.model.state))
            self._connect()
            add_endpoint(blocks, self.model, MODEL_QUEUE)
            blocks.load(self.status, None, [self.parts.header, self.parts.timer], **_quiet())
            blocks.unload(self.left)
        blocks.queue(max_size=16, default_concurrency_limit=1, api_open=False)
        return blocks

    def _connect(self) -> None:
        p = self.parts
        p.timer.tick(self.status, None, [p.header, p.timer], **_quiet())
        starts = [
            p.drop.upload(self.begin_file, p.drop, [p.chat, p.drop, p.box], **_quiet()),
            p.another.upload(self.begin_file, p.another, [p.chat, p.drop, p.box], **_quiet()),
            p.box.submit(self.begin_message, p.box, [p.chat, p.drop, p.box], **_quiet()),
        ]
        for button, (name, file) in zip(p.examples, EXAMPLES, strict=True):
            starts.append(button.click(self._example(name, file), None, [p.chat, p.drop, p.box], **_quiet()))
        for button, question in zip(p.questions, QUESTIONS, strict=True):
            starts.append(button.click(self._question(question), None, [p.chat, p.drop, p.box], **_quiet()))
        changed = [
            p.chat, p.box, p.case_id, p.verdict, p.intro, p.panel, p.cases, p.overlay, p.picture, p.caption, p.slider,
            p.table, p.table_box, p.facts, p.metadata, p.suggestions, p.save_mask, *p.files,
        ]  # fmt: skip
        for start in starts:
            run = start.then(
                self.run, p.case_id, changed, concurrency_id=MODEL_QUEUE, show_progress="hidden",
                api_visibility="private",
            )  # fmt: skip
            run.then(self.settle, None, [p.chat, p.box], **_quiet())
        p.box.stop(self.stop, None, [p.chat, p.box], **_quiet())
        drawn = [p.picture, p.caption, p.slider, p.overlay]
        p.overlay.input(self.draw, [p.case_id, p.overlay], drawn, **_quiet())
        p.table.click(self.draw_row, p.case_id, drawn, js=None, **_quiet())
        p.cases.input(self.switch, p.cases, changed, **_quiet())
        saves = ((p.save_html, "html"), (p.save_json, "json"), (p.save_mask, "mask"))
        for (button, kind), file in zip(saves, p.files, strict=True):
            written = button.click(self._save(kind), p.case_id, file, **_quiet())
            written.success(None, None, None, js=f"() => window.vlmforensics.download('vf-file-{kind}')")

    def status(self) -> Changes:
        """The model's state; asks again until it is settled."""
        header = cards.header(self.model.status, self.model.state)
        return {self.parts.header: header, self.parts.timer: gr.Timer(active=self.model.state == "loading")}

    def left(self, request: gr.Request) -> None:
        """A tab was closed."""
        self.sessions.left(_key(request))

    # -- what a visitor asks for -------------------------------------------------------------------------------

    def begin_file(self, upload: Upload | None, request: gr.Request) -> Changes:
        """A picture was dropped or chosen."""
        return self._begin(Turn((upload,)) if upload else None, request)

    def begin_message(self, message: Message, request: gr.Request) -> Changes:
        """A message was sent: text, pictures or both."""
        question = message.text.strip()
        return self._begin(Turn(message.files, question) if question or message.files else None, request)

    def _example(self, name: str, file: str) -> Callable[[gr.Request], Changes]:
        def begin(request: gr.Request) -> Changes:
            return self._begin(Turn((Upload(HERE / "examples" / file, f"Example: {name.lower()}"),)), request)

        return begin

    def _question(self, question: str) -> Callable[[gr.Request], Changes]:
        def begin(request: gr.Request) -> Changes:
            return self._begin(Turn((), question), request)

        return begin

    def _begin(self, turn: Turn | None, request: gr.Request) -> Changes:
        """Show at once what was asked for; the run itself may have to wait."""
        p = self.parts
        session = self.sessions.get(_key(request))
        if turn is not None:
            content = [_name(upload.name) for upload in turn.uploads]
            turn.sent = {
                "role": "user",
                "content": [*content, chat_text(turn.question)] if turn.question else content,
            }
        session.ask(turn, WAITING)
        if turn is None:
            return {p.chat: session.messages}
        return {p.chat: session.messages, p.drop: None, p.box: _busy()}

    def stop(self, request: gr.Request) -> Changes:
        """End the run, or the waiting for it."""
        session = self.sessions.get(_key(request))
        for turn in session.cancel():
            turn.reply["content"] = STOPPED
        return {self.parts.chat: session.messages}

    def settle(self, request: gr.Request) -> Changes:
        """After a run, or where the queue was full and none took place."""
        session = self.sessions.get(_key(request))
        for turn in session.settle():
            turn.reply["content"] = "Too many people are waiting just now. Please try again in a minute."
        done = {self.parts.chat: session.messages}
        return done if session.chains else {**done, self.parts.box: _idle()}

    # -- the run ---------------------------------------------------------------------------------------------

    def run(self, case_id: str, request: gr.Request) -> Iterator[Changes]:
        """Examine the pictures of the visitor's next turn, explain them, answer the question."""
        key = _key(request)
        session = self.sessions.get(key)
        turn = session.next_turn()
        if turn is None:
            yield {}
            return
        stop = session.stop
        try:
            for number, upload in enumerate(turn.uploads):
                if number:
                    session.another_reply(turn)
                for update in self._examine(key, session, turn, upload, stop):
                    case_id = update.get(self.parts.case_id, case_id)
                    yield update
            if turn.question and not stop.is_set():
                if turn.uploads:
                    session.another_reply(turn)
                yield from self._answer(key, session, turn, case_id, stop)
        except Stopped:
            turn.reply["content"] = STOPPED
            yield {self.parts.chat: session.messages, **self._current(key, case_id)}

    def _examine(
        self, key: str, session: Session, turn: Turn, upload: Upload, stop: threading.Event
    ) -> Iterator[Changes]:
        p = self.parts
        stages: list[str] = []
        result: Report | None = None
        before = next(reversed(session.cases), "")
        try:
            for item in self.model.examine(upload.path, upload.name, stop):
                if isinstance(item, Report):
                    result = item
                    continue
                stages.append(item)
                turn.reply["content"] = f"{stage_name(item)}…"
                yield {p.chat: session.messages, **self._progress(upload.name, stages)}
            if result is None:
                raise Stopped
            case_id = self.sessions.add(key, result)
            _attach(session, turn, result, case_id)
            turn.reply["content"] = "Writing the explanation…"
            yield {p.chat: session.messages, **self._panel(key, case_id)}
            yield from self._stream(session, turn, result, self.model.explain(result, stop), stop)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - boundary: whatever breaks, the visitor reads a sentence
            if not isinstance(error, VlmForensicsError):
                _LOG.exception("examining a picture failed")
            sentence = error_sentence(error, upload.name)
            turn.reply["content"] = chat_text(sentence)
            update = {p.chat: session.messages, **self._current(key, before)}
            if not before:
                update[p.verdict] = gr.HTML(cards.refused_card(sentence), visible=True)
            yield update

    def _progress(self, name: str, stages: list[str]) -> Changes:
        """The stages so far; what was shown belongs to another picture and is hidden."""
        p = self.parts
        changes: Changes = {p.verdict: gr.HTML(cards.stage_card(name, stages), visible=True)}
        if len(stages) == 1:
            changes.update({part: _shown(False) for part in (p.intro, p.panel, p.table_box, p.suggestions)})
        return changes

    def _answer(
        self, key: str, session: Session, turn: Turn, case_id: str, stop: threading.Event
    ) -> Iterator[Changes]:
        current = self.sessions.report(key, case_id)
        if current is None:
            turn.reply["content"] = (
                "There is no picture to ask about yet. Drop one, or add it to your question."
            )
            yield {self.parts.chat: session.messages}
            return
        try:
            pieces = self.model.ask(current, turn.question, stop)
            yield from self._stream(session, turn, current, pieces, stop)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - boundary: as in _examine
            if not isinstance(error, VlmForensicsError):
                _LOG.exception("answering a question failed")
            turn.reply["content"] = chat_text(error_sentence(error, ""))
            yield {self.parts.chat: session.messages}

    def _stream(
        self, session: Session, turn: Turn, current: Report, pieces: Iterator[str], stop: threading.Event
    ) -> Iterator[Changes]:
        """Show text as it grows, citations linked."""
        known = {item.id for item in current.evidence}
        text = ""
        for piece in pieces:
            text += piece
            turn.reply["content"] = chat_text(text, known)
            yield {self.parts.chat: session.messages}
        if stop.is_set():
            turn.reply["content"] = f"{chat_text(text, known)}\n\n*{STOPPED}*".strip()
            yield {self.parts.chat: session.messages}

    # -- what is shown -----------------------------------------------------------------------------------------

    def _current(self, key: str, case_id: str) -> Changes:
        """The panel of a case, or the empty page where there is none."""
        if self.sessions.report(key, case_id) is not None:
            return self._panel(key, case_id)
        p = self.parts
        return {
            p.verdict: gr.HTML("", visible=False),
            p.intro: _shown(True),
            p.panel: _shown(False),
            p.table_box: _shown(False),
            p.suggestions: _shown(False),
        }

    def _panel(self, key: str, case_id: str) -> Changes:
        """Everything about one case."""
        p = self.parts
        cases = self.sessions.get(key).cases
        current = cases[case_id]
        names = [(f"{number}. {item.file}", name) for number, (name, item) in enumerate(cases.items(), 1)]
        shown = {item.id for item in current.evidence if views.drawable(item)}
        choice = views.first_choice(current)
        return {
            p.case_id: case_id,
            p.verdict: gr.HTML(cards.verdict_card(current), visible=True),
            p.intro: _shown(False),
            p.panel: _shown(True),
            p.cases: gr.Radio(choices=names, value=case_id, visible=len(names) > 1),
            p.table: cards.evidence_table(current, shown),
            p.table_box: _shown(True),
            p.facts: cards.details(current),
            p.metadata: cards.metadata(current),
            p.suggestions: _shown(True),
            p.save_mask: gr.Button(visible=current.mask is not None),
            **dict.fromkeys(p.files, None),
            **self._drawing(current, choice),
        }

    def _drawing(self, current: Report, choice: str) -> Changes:
        p = self.parts
        view = views.draw(current, choice)
        alt = f"{current.file}. {view.caption}"
        return {
            p.picture: gr.Image(value=view.drawn, alt_text=alt),
            p.caption: f'<p class="vf-caption" role="status">{escape(view.caption)}</p>',
            p.slider: (view.plain, view.drawn),
            p.overlay: gr.Radio(choices=views.choices(current), value=choice),
        }

    def draw(self, case_id: str, choice: str, request: gr.Request) -> Changes:
        """Another overlay was chosen."""
        current = self.sessions.report(_key(request), case_id)
        return {} if current is None else self._drawing(current, choice)

    def draw_row(self, case_id: str, event: gr.EventData, request: gr.Request) -> Changes:
        """A finding's “Show” was pressed."""
        return self.draw(case_id, str(getattr(event, "overlay", "")), request)

    def switch(self, case_id: str, request: gr.Request) -> Changes:
        """Another picture of this conversation was chosen."""
        return self._current(_key(request), case_id)

    def _save(self, kind: str) -> Callable[[str, gr.Request], str]:
        def save(case_id: str, request: gr.Request) -> str:
            key = _key(request)
            current = self.sessions.report(key, case_id)
            if current is None:
                raise gr.Error("This picture has been forgotten; examine it again.", print_exception=False)
            # The file's name is ours: the visitor's name for the picture never becomes a path.
            stem = self.sessions.get(key).folder / f"vlmforensics-{current.case.sha256[:12]}"
            if kind != "mask":
                return str(report.save(current, f"{stem}.{kind}"))
            if current.mask is None:
                raise gr.Error("No region was searched for in this picture.", print_exception=False)
            path = Path(f"{stem}-mask.png")
            path.write_bytes(imaging.to_png(current.mask.binary.astype("uint8") * 255))
            return str(path)

        return save


def build_app(
    assistant_loader: Callable[[], Assistant] | Model, settings: Settings, sessions: Sessions | None = None
) -> gr.Blocks:
    """Build the page; see ``vlmforensics.ui.build_app``. A ``Model`` is started by the caller, in its own time."""
    model = assistant_loader if isinstance(assistant_loader, Model) else Model(assistant_loader).start()
    return Page(model, sessions or Sessions(), settings).build()


def _key(request: gr.Request) -> str:
    return str(request.session_hash or "")


def _quiet() -> dict[str, Any]:
    """Events that are ours alone, quick, and need no place in the queue."""
    return {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def _shown(visible: bool) -> Any:
    return gr.update(visible=visible)


def _busy() -> Any:
    return gr.update(value={"text": "", "files": []}, submit_btn=False, stop_btn=True)


def _idle() -> Any:
    return gr.update(submit_btn=True, stop_btn=False)


def _name(file: str) -> str:
    return f"**{chat_text(file)}**"


def _attach(session: Session, turn: Turn, current: Report, case_id: str) -> None:
    """Put the picture's thumbnail into the message that sent it."""
    path = session.folder / f"{case_id}.png"
    path.write_bytes(imaging.to_png(views.thumbnail(current)))
    content = turn.sent["content"]
    at = content.index(_name(current.file)) if _name(current.file) in content else 0
    content.insert(at, {"path": str(path), "alt_text": current.file})
