"""The page's behaviour: what a dropped picture, a question, a click on a finding or a download sets in motion."""

from __future__ import annotations

import logging
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
        if turn is None:
            return {p.chat: session.messages}
        session.waiting.append(turn)
        content: list[Any] = [f"**{chat_text(upload.name)}**" for upload in turn.uploads]
        if turn.question:
            content.append(chat_text(turn.question))
        session.messages.append({"role": "user", "content": content})
        _reply(session, WAITING, new=True)
        return {p.chat: session.messages, p.drop: None, p.box: _busy()}

    def stop(self, request: gr.Request) -> Changes:
        """End the run, or the waiting for it."""
        session = self.sessions.get(_key(request))
        session.stop.set()
        if session.waiting:
            session.waiting.clear()
            _reply(session, STOPPED)
        return {self.parts.chat: session.messages, self.parts.box: _idle()}

    def settle(self, request: gr.Request) -> Changes:
        """After a run, or where the queue was full and none took place."""
        session = self.sessions.get(_key(request))
        if session.waiting:
            session.waiting.clear()
            _reply(session, "Too many people are waiting just now. Please try again in a minute.")
        return {self.parts.chat: session.messages, self.parts.box: _idle()}

    # -- the run -----------------------------------------------------------------------------------------------

    def run(self, case_id: str, request: gr.Request) -> Iterator[Changes]:
        """Examine the pictures of the visitor's next turn, explain them, answer the question."""
        key = _key(request)
        session = self.sessions.get(key)
        if not session.waiting:
            yield {}
            return
        turn = session.waiting.pop(0)
        session.stop = stop = _fresh_stop()
        try:
            for number, upload in enumerate(turn.uploads):
                if number:
                    _reply(session, "", new=True)
                for update in self._examine(key, session, upload):
                    case_id = update.get(self.parts.case_id, case_id)
                    yield update
            if turn.question and not stop.is_set():
                if turn.uploads:
                    _reply(session, "", new=True)
                yield from self._answer(key, session, case_id, turn.question)
        except Stopped:
            _reply(session, STOPPED)
            yield {self.parts.chat: session.messages, **self._current(key, case_id)}

    def _examine(self, key: str, session: Session, upload: Upload) -> Iterator[Changes]:
        p = self.parts
        stages: list[str] = []
        result: Report | None = None
        before = next(reversed(session.cases), "")
        try:
            for item in self.model.examine(upload.path, upload.name, session.stop):
                if isinstance(item, Report):
                    result = item
                    continue
                stages.append(item)
                _reply(session, f"{stage_name(item)}…")
                card = cards.stage_card(upload.name, stages)
                yield {
                    p.chat: session.messages,
                    p.verdict: gr.HTML(card, visible=True),
                    p.intro: _shown(False),
                }
            if result is None:
                raise Stopped
            case_id = self.sessions.add(key, result)
            _attach(session, result, case_id)
            _reply(session, "Writing the explanation…")
            yield {p.chat: session.messages, **self._panel(key, case_id)}
            yield from self._stream(session, result, self.model.explain(result, session.stop))
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - boundary: whatever breaks, the visitor reads a sentence
            if not isinstance(error, VlmForensicsError):
                _LOG.exception("examining a picture failed")
            sentence = error_sentence(error, upload.name)
            _reply(session, chat_text(sentence))
            update = {p.chat: session.messages, **self._current(key, before)}
            if not before:
                update[p.verdict] = gr.HTML(cards.refused_card(sentence), visible=True)
            yield update

    def _answer(self, key: str, session: Session, case_id: str, question: str) -> Iterator[Changes]:
        current = self.sessions.report(key, case_id)
        if current is None:
            _reply(session, "There is no picture to ask about yet. Drop one, or add it to your question.")
            yield {self.parts.chat: session.messages}
            return
        try:
            yield from self._stream(session, current, self.model.ask(current, question, session.stop))
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - boundary: as in _examine
            if not isinstance(error, VlmForensicsError):
                _LOG.exception("answering a question failed")
            _reply(session, chat_text(error_sentence(error, "")))
            yield {self.parts.chat: session.messages}

    def _stream(self, session: Session, current: Report, pieces: Iterator[str]) -> Iterator[Changes]:
        """Show text as it grows, citations linked."""
        known = {item.id for item in current.evidence}
        text = ""
        for piece in pieces:
            text += piece
            _reply(session, chat_text(text, known))
            yield {self.parts.chat: session.messages}
        if session.stop.is_set():
            _reply(session, "\n\n".join([chat_text(text, known), f"*{STOPPED}*"]).strip())
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
    assistant_loader: Callable[[], Assistant], settings: Settings, sessions: Sessions | None = None
) -> gr.Blocks:
    """Build the page; see ``vlmforensics.ui.build_app``."""
    return Page(Model(assistant_loader), sessions or Sessions(), settings).build()


def _key(request: gr.Request) -> str:
    return str(request.session_hash or "")


def _fresh_stop() -> Any:
    import threading

    return threading.Event()


def _quiet() -> dict[str, Any]:
    """Events that are ours alone, quick, and need no place in the queue."""
    return {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def _shown(visible: bool) -> Any:
    return gr.update(visible=visible)


def _busy() -> Any:
    return gr.update(value={"text": "", "files": []}, submit_btn=False, stop_btn=True)


def _idle() -> Any:
    return gr.update(submit_btn=True, stop_btn=False)


def _reply(session: Session, text: str, *, new: bool = False) -> None:
    """Set the assistant's current message, or begin a new one."""
    if new or not session.messages:
        session.messages.append({"role": "assistant", "content": text})
    else:
        session.messages[-1]["content"] = text


def _attach(session: Session, current: Report, case_id: str) -> None:
    """Put the picture's thumbnail into the message that sent it."""
    path = session.folder / f"{case_id}.png"
    path.write_bytes(imaging.to_png(views.thumbnail(current)))
    sent = next(message for message in reversed(session.messages) if message["role"] == "user")
    name = f"**{chat_text(current.file)}**"
    sent["content"] = [
        part
        for old in sent["content"]
        for part in ([{"path": str(path), "alt_text": current.file}, old] if old == name else [old])
    ]
