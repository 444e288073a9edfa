"""The page's behaviour: what a dropped picture, a question, a region, a click or a download sets in motion."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from vlmforensics import imaging, report
from vlmforensics.errors import InputError, VlmForensicsError
from vlmforensics.settings import Settings
from vlmforensics.types import Report
from vlmforensics.ui import cards, compare, layout, regions, routes, views
from vlmforensics.ui.api import add_endpoint
from vlmforensics.ui.batches import BatchTab
from vlmforensics.ui.display import Display, attach, ids, name_of, other_case, remember
from vlmforensics.ui.flow import Model, Stopped
from vlmforensics.ui.language import preferred
from vlmforensics.ui.layout import EXAMPLES, HERE, QUESTIONS, Labels, Parts
from vlmforensics.ui.options import OptionsTab
from vlmforensics.ui.state import MOST_ASKED, Place, Session, Sessions, Turn
from vlmforensics.ui.uploads import Message, Upload
from vlmforensics.ui.whole import WholeUpdates
from vlmforensics.ui.words import chat_text, error_sentence, stage_name

if TYPE_CHECKING:
    from vlmforensics.assistant import Assistant

_LOG = logging.getLogger(__name__)

TITLE = "vlmforensics"
MODEL_QUEUE = "model"
"""Concurrency group of everything that runs the network."""
MOST_QUESTION = 2000
"""Characters of a question that are kept."""
Changes = dict[Any, Any]

WAITING = "Waiting for a free place…"
STOPPED = "Stopped."


class Page:
    """Handlers of one page; all visitors share it, so it holds nothing about any of them."""

    def __init__(self, model: Model, sessions: Sessions, settings: Settings) -> None:
        self.model = model
        self.sessions = sessions
        self.settings = settings
        self.labels = Labels()
        self.batch = BatchTab(model, sessions, settings)
        self.options = OptionsTab(model, sessions, settings)
        self.parts: Parts
        self.opened: list[Any] = []

    def build(self) -> gr.Blocks:
        """Lay the page out and connect it."""
        # delete_cache: sweep files older than an hour, every ten minutes
        with WholeUpdates(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
            self.header = gr.HTML(cards.header(self.model.status, self.model.state), elem_id="vf-header")
            self.timer = gr.Timer(1.5)
            with gr.Tabs(elem_id="vf-tabs") as self.tabs:
                with self.labels(gr.Tab(id="examine"), label="Examine"):
                    self.parts = layout.place(self.settings, self.labels)
                    self.display = Display(self.parts, self.sessions, self.settings)
                with self.labels(gr.Tab(id="batch", render_children=True), label="Batch"):
                    self.batch.place(self.labels)
                with self.labels(gr.Tab(id="settings", render_children=True), label="Settings"):
                    self.options.place(self.labels)
            self._connect()
            add_endpoint(blocks, self.model, MODEL_QUEUE)
            blocks.load(self.greet, None, self.opened, **_quiet())
            blocks.unload(self.left)
        blocks.queue(max_size=16, default_concurrency_limit=1, api_open=False)
        blocks.vlmforensics_routes = routes.routes(self.sessions, self.model)
        return blocks

    def _connect(self) -> None:
        p = self.parts
        state = [self.header, self.timer]
        self.timer.tick(self.status, None, state, **_quiet())
        asked = [p.chat, p.drop, p.box]
        starts = [
            p.drop.upload(self.begin_file, p.drop, asked, **_quiet()),
            p.another.upload(self.begin_file, p.another, asked, **_quiet()),
            p.box.submit(self.begin_message, p.box, asked, **_quiet()),
            p.viewer.submit(self.begin_region, None, asked, **_quiet()),
            p.compare.click(self._question(compare.QUESTION), None, asked, **_quiet()),
            self.batch.table.click(self.begin_row, None, [*asked, self.tabs], **_quiet()),
        ]
        for button, (name, file) in zip(p.examples, EXAMPLES, strict=True):
            starts.append(button.click(self._example(name, file), None, asked, **_quiet()))
        for button, question in zip(p.questions, QUESTIONS, strict=True):
            starts.append(button.click(self._question(question), None, asked, **_quiet()))
        changed = [
            p.chat, p.box, p.case_id, p.verdict, p.intro, p.panel, p.cases, p.viewer, p.table, p.below, p.facts,
            p.metadata, p.credentials, p.generation, p.preview, p.suggestions, p.compare, p.save_mask, *p.files,
        ]  # fmt: skip
        for start in starts:
            run = start.then(
                self.run, p.case_id, changed, concurrency_id=MODEL_QUEUE, show_progress="hidden",
                api_visibility="private",
            )  # fmt: skip
            run.then(self.settle, None, [p.chat, p.box], **_quiet())
        p.box.stop(self.stop, None, [p.chat, p.box], **_quiet())
        p.cases.input(self.switch, p.cases, changed, **_quiet())
        cited = p.table.select(self.switch_to, None, changed, **_quiet())
        cited.then(None, None, None, js="() => window.vlmforensics.flashLater()")
        saves = ((p.save_html, "html"), (p.save_json, "json"), (p.save_mask, "mask"))
        for (button, kind), file in zip(saves, p.files, strict=True):
            written = button.click(self._save(kind), p.case_id, file, **_quiet())
            written.success(None, None, None, js=f"() => window.vlmforensics.download('vf-file-{kind}')")
        self.batch.connect(_quiet())
        loaded = self.options.connect(_quiet(), MODEL_QUEUE)
        loaded.then(self.status, None, state, **_quiet())
        everything = _unique([*self.labels.components, *changed, *state, self.options.language,
                              self.batch.progress, self.batch.table])  # fmt: skip
        self.options.language.input(self.speak, [self.options.language, p.case_id], everything, **_quiet())
        self.opened = everything

    def status(self, request: gr.Request) -> Changes:
        """The model's state; asks again until it is settled."""
        t = self.sessions.known(_key(request)).t
        header = cards.header(self._state(t), self.model.state, t)
        return {self.header: header, self.timer: gr.Timer(active=self.model.state == "loading")}

    def _state(self, t: Any) -> str:
        if self.model.state == "loading":
            return str(t("Loading the model…"))
        return self.model.status

    def greet(self, request: gr.Request) -> Changes:
        """A tab was opened: in the language of its address or of the browser."""
        query = dict(getattr(request, "query_params", None) or {})
        language = preferred(query.get("lang"), request.headers.get("accept-language"))
        session = self.sessions.get(_key(request))
        if language == session.language:
            return self.status(request)
        return self.speak(language, "", request)

    def speak(self, language: str, case_id: str, request: gr.Request) -> Changes:
        """Another language was chosen: everything on the page, the conversation so far excepted."""
        session = self.sessions.get(_key(request))
        session.language = language
        changes = self.labels.said(session.t)
        for part, change in self.display.current(_key(request), case_id).items():
            # texts and state of one part are one update
            changes[part] = (
                {**changes[part], **change} if part in changes and isinstance(change, dict) else change
            )
        return {
            **changes,
            **self.batch.redrawn(session),
            **self.status(request),
            self.options.language: language,
        }

    def left(self, request: gr.Request) -> None:
        """A tab was closed."""
        self.sessions.left(_key(request))

    # -- what a visitor asks for -------------------------------------------------------------------------------

    def begin_file(self, upload: Upload | None, request: gr.Request) -> Changes:
        """A picture was dropped or chosen."""
        return self._begin(Turn((upload,)) if upload else None, request)

    def begin_message(self, message: Message, request: gr.Request) -> Changes:
        """A message was sent: text, pictures or both."""
        question = message.text.strip()[:MOST_QUESTION]
        return self._begin(Turn(message.files, question) if question or message.files else None, request)

    def begin_row(self, event: gr.EventData, request: gr.Request) -> Changes:
        """A picture of the batch was opened: it is examined here, with everything to look at."""
        upload = self.batch.upload(int(getattr(event, "row", -1)), request)
        turn = Turn((upload,)) if upload is not None and upload.path.is_file() else None
        return {**self._begin(turn, request), self.tabs: gr.Tabs(selected="examine")}

    def begin_region(self, event: gr.EventData, request: gr.Request) -> Changes:
        """A box was drawn, a spot clicked, or corners typed."""
        key = _key(request)
        session = self.sessions.get(key)
        case_id = str(getattr(event, "case", ""))
        current = self.sessions.report(key, case_id)
        if current is None:
            raise gr.Error(
                session.t("This picture has been forgotten; examine it again."), print_exception=False
            )
        case = current.case
        try:
            box = regions.region_box(getattr(event, "box", ()), case.width, case.height)
        except InputError as error:
            raise gr.Error(error_sentence(error, "", session.t), print_exception=False) from error
        spot = [int(number) for number in list(getattr(event, "point", None) or ())[:2]]
        point = None
        if len(spot) == 2 and box.x0 <= spot[0] < box.x1 and box.y0 <= spot[1] < box.y1:
            point = (spot[0], spot[1])
        question = str(getattr(event, "question", "") or "")[:500].strip()
        return self._begin(Turn((), question, Place(case_id, box, point)), request)

    def _example(self, name: str, file: str) -> Callable[[gr.Request], Changes]:
        def begin(request: gr.Request) -> Changes:
            t = self.sessions.get(_key(request)).t
            shown = t("Example: {name}", name=t(name).lower())
            return self._begin(Turn((Upload(HERE / "examples" / file, shown),)), request)

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
            content = [name_of(upload.name) for upload in turn.uploads]
            if turn.place is not None:
                content.append(chat_text(f"{session.t('Region')} {views.place(turn.place.box)}"))
            if turn.question:
                content.append(chat_text(session.t(turn.question)))
            turn.sent = {"role": "user", "content": content}
        session.ask(turn, session.t(WAITING))
        if turn is None:
            return {p.chat: session.messages}
        return {p.chat: session.messages, p.drop: None, p.box: _busy()}

    def stop(self, request: gr.Request) -> Changes:
        """End the run, or the waiting for it."""
        session = self.sessions.known(_key(request))
        for turn in session.cancel():
            turn.reply["content"] = session.t(STOPPED)
        return {self.parts.chat: session.messages}

    def settle(self, request: gr.Request) -> Changes:
        """After a run, or where the queue was full and none took place."""
        session = self.sessions.known(_key(request))
        for turn in session.settle():
            turn.reply["content"] = session.t(
                "Too many people are waiting just now. Please try again in a minute."
            )
        done = {self.parts.chat: session.messages}
        return done if session.chains else {**done, self.parts.box: _idle()}

    # -- the run ---------------------------------------------------------------------------------------------

    def run(self, case_id: str, request: gr.Request) -> Iterator[Changes]:
        """Examine the pictures of the visitor's next turn, explain them, answer the question."""
        key = _key(request)
        session = self.sessions.known(key)
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
            if turn.place is not None:
                yield from self._look_at(key, session, turn, turn.place, stop)
            elif turn.question and not stop.is_set():
                if turn.uploads:
                    session.another_reply(turn)
                yield from self._answer(key, session, turn, case_id, stop)
        except Stopped:
            turn.reply["content"] = session.t(STOPPED)
            yield {self.parts.chat: session.messages, **self.display.current(key, case_id)}

    def _examine(
        self, key: str, session: Session, turn: Turn, upload: Upload, stop: threading.Event
    ) -> Iterator[Changes]:
        p, t = self.parts, session.t
        stages: list[str] = []
        result: Report | None = None
        before = next(reversed(session.cases), "")
        try:
            for item in self.model.examine(upload.path, upload.name, stop):
                if isinstance(item, Report):
                    result = item
                    continue
                stages.append(item)
                turn.reply["content"] = f"{stage_name(item, t)}…"
                yield {p.chat: session.messages, **self.display.progress(upload.name, stages, session)}
            if result is None or stop.is_set():
                raise Stopped
            case_id = self.sessions.add(key, result)
            attach(session, turn, result, case_id)
            turn.reply["content"] = t("Writing the explanation…")
            yield {p.chat: session.messages, **self.display.panel(key, case_id)}
            pieces = self.model.explain(result, stop)
            yield from self._stream(session, turn, result, case_id, pieces, stop)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - boundary: whatever breaks, the visitor reads a sentence
            sentence = _sentence(error, upload.name, session)
            turn.reply["content"] = chat_text(sentence)
            update = {p.chat: session.messages, **self.display.current(key, before)}
            if not before:
                update[p.verdict] = gr.HTML(cards.refused_card(sentence, t), visible=True)
            yield update

    def _look_at(
        self, key: str, session: Session, turn: Turn, place: Place, stop: threading.Event
    ) -> Iterator[Changes]:
        """Examine a region by itself, tell what holds there, and answer the question about it."""
        p, t = self.parts, session.t
        current = self.sessions.report(key, place.case_id)
        if current is None:
            turn.reply["content"] = t("This picture has been forgotten; examine it again.")
            yield {p.chat: session.messages}
            return
        try:
            data, name = regions.crop(current, place.box)
            examined: Report | None = None
            for item in self.model.examine(data, name, stop):
                if isinstance(item, Report):
                    examined = item
                    continue
                turn.reply["content"] = t("Region: {stage}…", stage=stage_name(item, t))
                yield {p.chat: session.messages}
            if examined is None:
                raise Stopped
            marked = self.model.locate(current, place.box, place.point)
            if stop.is_set():
                raise Stopped
            crop_id = self.sessions.add(key, examined, crop_of=place.case_id)
            attach(session, turn, examined, crop_id)
            told = list(regions.answer(current, examined, place.box, marked, t))
            turn.reply["content"] = "\n\n".join(
                chat_text(text, ids(examined if crops else current), crop_id if crops else place.case_id)
                for text, crops in told
            )
            asked = (*session.asked.get(place.case_id, ()), views.Asked(place.box, marked))[-MOST_ASKED:]
            session.asked[place.case_id] = asked
            where = f"{t('Region')} {views.place(place.box)}"
            remember(current, f"{where}: {turn.question}" if turn.question else where, [x for x, _ in told])
            yield {
                p.chat: session.messages,
                **self.display.panel(key, place.case_id, (f"R{len(asked)}",)),
            }
            if turn.question and not stop.is_set():
                session.another_reply(turn)
                box = ", ".join(str(number) for number in place.box.as_list())
                pieces = self.model.ask(current, f"{turn.question} ({box})", stop)
                yield from self._stream(session, turn, current, place.case_id, pieces, stop)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - boundary: as in _examine
            turn.reply["content"] = chat_text(_sentence(error, "", session))
            yield {p.chat: session.messages}

    def _answer(
        self, key: str, session: Session, turn: Turn, case_id: str, stop: threading.Event
    ) -> Iterator[Changes]:
        current = self.sessions.report(key, case_id)
        if current is None:
            turn.reply["content"] = session.t(
                "There is no picture to ask about yet. Drop one, or add it to your question."
            )
            yield {self.parts.chat: session.messages}
            return
        try:
            other = other_case(session, case_id)
            if other is not None and compare.asks(turn.question):
                yield self._compare(key, session, turn, case_id, other)
                return
            pieces = self.model.ask(current, turn.question, stop)
            yield from self._stream(session, turn, current, case_id, pieces, stop)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - boundary: as in _examine
            turn.reply["content"] = chat_text(_sentence(error, "", session))
            yield {self.parts.chat: session.messages}

    def _compare(self, key: str, session: Session, turn: Turn, case_id: str, other: str) -> Changes:
        """Set the picture shown beside the one before it; where they differ is marked on both."""
        names = (other, case_id) if list(session.cases).index(other) < list(session.cases).index(case_id) else (
            case_id, other
        )  # fmt: skip
        pair = tuple(session.cases[name] for name in names)
        t = session.t
        told = list(compare.comparison(pair[0], pair[1], t))
        turn.reply["content"] = "\n\n".join(
            chat_text(text, ids(pair[number]), names[number]) for text, number in told
        )
        chosen: tuple[str, ...] | None = None
        found = compare.difference(pair[0], pair[1])
        if found is not None and found[1] is not None:
            for number, name in enumerate(names):
                kept = [item for item in session.asked.get(name, ()) if not item.name]
                label = t("Difference from {letter}", letter="BA"[number])
                mask = compare.mark(found[0], pair[number])
                session.asked[name] = (*kept, views.Asked(compare.whole(pair[number]), mask, label))
            chosen = (f"R{len(session.asked[case_id])}",)
        for current in pair:
            remember(current, turn.question, [text for text, _ in told])
        return {self.parts.chat: session.messages, **self.display.panel(key, case_id, chosen)}

    def _stream(
        self,
        session: Session,
        turn: Turn,
        current: Report,
        case_id: str,
        pieces: Iterator[str],
        stop: threading.Event,
    ) -> Iterator[Changes]:
        """Show text as it grows, citations linked."""
        known = ids(current)
        text = ""
        for piece in pieces:
            text += piece
            turn.reply["content"] = chat_text(text, known, case_id)
            yield {self.parts.chat: session.messages}
        if stop.is_set():
            said = f"{chat_text(text, known, case_id)}\n\n*{session.t(STOPPED)}*"
            turn.reply["content"] = said.strip()
            yield {self.parts.chat: session.messages}

    # -- what is shown -----------------------------------------------------------------------------------------

    def switch(self, case_id: str, request: gr.Request) -> Changes:
        """Another picture of this conversation was chosen."""
        return self.display.current(_key(request), case_id)

    def switch_to(self, event: gr.EventData, request: gr.Request) -> Changes:
        """A citation of another picture's evidence was followed."""
        case_id = str(getattr(event, "case", ""))
        known = self.sessions.report(_key(request), case_id) is not None
        return self.display.panel(_key(request), case_id) if known else {}

    def _save(self, kind: str) -> Callable[[str, gr.Request], str]:
        def save(case_id: str, request: gr.Request) -> str:
            key = _key(request)
            session = self.sessions.known(key)
            current = self.sessions.report(key, case_id)
            if current is None:
                forgotten = session.t("This picture has been forgotten; examine it again.")
                raise gr.Error(forgotten, print_exception=False)
            # The file's name is ours: the visitor's name for the picture never becomes a path.
            stem = session.folder / f"vlmforensics-{current.case.sha256[:12]}"
            if kind != "mask":
                return str(report.save(current, f"{stem}.{kind}"))
            if current.mask is None:
                raise gr.Error(session.t("No region was marked in this picture."), print_exception=False)
            path = Path(f"{stem}-mask.png")
            path.write_bytes(imaging.to_png(current.mask.binary.astype("uint8") * 255))
            return str(path)

        return save


def build_app(
    assistant_loader: Callable[[], Assistant] | Model, settings: Settings, sessions: Sessions | None = None
) -> gr.Blocks:
    """Build the page; see ``vlmforensics.ui.build_app``. A ``Model`` is started by the caller, in its own time."""
    model = assistant_loader if isinstance(assistant_loader, Model) else Model(assistant_loader).start()
    return Page(model, Sessions() if sessions is None else sessions, settings).build()


def _key(request: gr.Request) -> str:
    return str(request.session_hash or "")


def _quiet() -> dict[str, Any]:
    """Events that are ours alone, quick, and need no place in the queue."""
    return {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def _unique(parts: list[Any]) -> list[Any]:
    return list({id(part): part for part in parts}.values())


def _busy() -> Any:
    return gr.update(value={"text": "", "files": []}, submit_btn=False, stop_btn=True)


def _idle() -> Any:
    return gr.update(submit_btn=True, stop_btn=False)


def _sentence(error: Exception, file: str, session: Session) -> str:
    if not isinstance(error, VlmForensicsError):
        _LOG.exception("a run failed")
    return error_sentence(error, file, session.t)
