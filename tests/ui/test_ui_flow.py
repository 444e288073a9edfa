"""One assistant for all: loaded in the background, one run at a time, stoppable, never blocked by who left."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="the ui extra is not installed")

from vlmforensics.errors import WeightsUnavailable
from vlmforensics.settings import Settings
from vlmforensics.types import Report
from vlmforensics.ui import server
from vlmforensics.ui.app import MOST_QUESTION, Page
from vlmforensics.ui.flow import Model, Stopped
from vlmforensics.ui.state import MOST_ASKED, Session, Sessions, Turn
from vlmforensics.ui.uploads import Message, Upload


@pytest.fixture
def assistant(fake_assistant):
    return fake_assistant(Settings(), stage_seconds=0.01, word_seconds=0.01)


@pytest.fixture
def site(assistant):
    """The page without a server: ``page``, and a visitor's ``request``."""
    assistant.stage_seconds = assistant.word_seconds = 0.0
    now = [0.0]
    page = Page(Model(lambda: assistant).start(), Sessions(grace=30, clock=lambda: now[0]), Settings())
    page.build()
    yield SimpleNamespace(page=page, request=SimpleNamespace(session_hash="anna"), now=now)
    page.sessions.clear()


def test_a_tab_closed_during_a_run_leaves_nothing_behind(site, pictures):
    site.page.begin_file(Upload(pictures("a.jpg"), "a.jpg"), site.request)
    session = site.page.sessions.get("anna")
    run = site.page.run("", site.request)
    next(run)
    site.page.left(site.request)
    for _ in run:
        pass
    site.page.settle(site.request)
    site.now[0] += 31
    site.page.sessions.sweep()
    assert len(site.page.sessions) == 0
    assert session.messages == []


def test_many_questions_about_regions_keep_their_picture(site, pictures):
    site.page.begin_file(Upload(pictures("splice.jpg"), "splice.jpg"), site.request)
    list(site.page.run("", site.request))
    session = site.page.sessions.get("anna")
    (case_id,) = session.cases
    event = SimpleNamespace(case=case_id, box=(10, 10, 90, 90), point=None, question="")
    for _ in range(14):
        site.page.begin_region(event, site.request)
        *_, last = site.page.run(case_id, site.request)
        assert last[site.page.parts.case_id] == case_id
    assert len(session.cases) == site.page.sessions.most_cases
    assert len(session.asked[case_id]) == MOST_ASKED


def test_a_question_has_a_length(site):
    site.page.begin_message(Message("why " * 10_000, ()), site.request)
    (turn,) = site.page.sessions.get("anna").waiting
    assert len(turn.question) == MOST_QUESTION


def test_stages_come_before_the_report(assistant, pictures):
    *stages, report = (
        Model(lambda: assistant).start().examine(pictures("a.jpg"), "mine.jpg", threading.Event())
    )
    assert isinstance(report, Report)
    assert report.file == "mine.jpg"
    assert [stage for stage in stages if stage != "loading"] == [
        "decoding", "signals", "blending", "looking", "mask", "judging"
    ]  # fmt: skip


def test_a_picture_may_come_before_the_model(assistant, pictures):
    there = threading.Event()
    model = Model(lambda: there.wait(10) and assistant).start()
    assert model.state == "loading"
    items = model.examine(pictures("a.jpg"), "a.jpg", threading.Event())
    assert next(items) == "loading"
    there.set()
    assert next(items) == "decoding"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (WeightsUnavailable("the weights are not in the cache; run vlmforensics models pull"), "models pull"),
        (RuntimeError("secret"), "RuntimeError"),
    ],
)
def test_a_model_that_cannot_load_says_so(pictures, error, said):
    def loader():
        raise error

    model = Model(loader).start()
    with pytest.raises(WeightsUnavailable, match=said):
        list(model.examine(pictures("a.jpg"), "a.jpg", threading.Event()))
    assert model.state == "failed"


def test_stop_ends_an_examination_and_text(assistant, pictures):
    model = Model(lambda: assistant).start()
    stop = threading.Event()
    items = model.examine(pictures("a.jpg"), "a.jpg", stop)
    next(items)
    stop.set()
    with pytest.raises(Stopped):
        list(items)
    *_, report = model.examine(pictures("a.jpg"), "a.jpg", threading.Event())
    stop = threading.Event()
    pieces = model.explain(report, stop)
    first = next(pieces)
    stop.set()
    assert len(list(pieces)) < 5
    assert report.explanation.text.startswith(first)


def test_a_visitor_who_leaves_frees_the_model(assistant, pictures):
    model = Model(lambda: assistant).start()
    *_, report = model.examine(pictures("a.jpg"), "a.jpg", threading.Event())
    assistant.word_seconds = 0.05
    pieces = model.explain(report, threading.Event())
    next(pieces)
    pieces.close()
    assistant.word_seconds = 0
    *_, other = model.examine(pictures("b.jpg"), "b.jpg", threading.Event())
    assert other.file == "b.jpg"
    assert assistant.most_running == 1
    said = report.explanation.text
    assert len(said) < len("".join(model.explain(report, threading.Event()))), "it was not spoken to its end"


def test_turns_run_in_order_and_keep_their_own_replies():
    session = Session()
    first, second = Turn(question="one?", sent={"content": "1"}), Turn(question="two?", sent={"content": "2"})
    session.ask(first, "…")
    session.ask(second, "…")
    assert session.next_turn() is first
    first.reply["content"] = "A"
    session.another_reply(first)
    first.reply["content"] = "A, further"
    assert session.settle() == []
    assert session.next_turn() is second
    second.reply["content"] = "B"
    assert session.settle() == []
    assert [message["content"] for message in session.messages] == ["1", "A", "A, further", "2", "B"]


def test_a_turn_that_found_the_queue_full_is_named_and_only_that():
    session = Session()
    first, second = Turn(), Turn()
    session.ask(first, "…")
    session.ask(second, "…")
    assert session.settle() == [second]
    assert session.next_turn() is first
    assert session.settle() == []


def test_cancelling_stops_the_run_and_empties_the_queue():
    session = Session()
    first, second = Turn(), Turn()
    session.ask(first, "…")
    session.ask(second, "…")
    session.next_turn()
    assert session.cancel() == [second]
    assert session.stop.is_set()
    assert session.next_turn() is None


def test_the_folder_of_temporary_files_is_never_blocked(tmp_path, monkeypatch):
    monkeypatch.setattr(server.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "tmp" / "uploads"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert server.blocked_paths() == [str((tmp_path / "work").resolve())]
    monkeypatch.chdir(tmp_path)
    assert server.blocked_paths() == []


def _luminance(colour):
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [":root", ".dark"])
def test_text_has_contrast(scheme):
    css = (Path(server.__file__).parent / "static" / "page.css").read_text(encoding="utf-8")
    block = re.search(re.escape(scheme) + r" \{(.*?)\}", css, re.DOTALL).group(1)
    colours = dict(re.findall(r"--vf-([a-z-]+): (#[0-9a-f]{6});", block))
    for ground in ("card", "tint"):
        for ink in ("ink", "soft", "accent", "real", "synthetic", "tampered", "inconclusive"):
            light, dark = sorted((_luminance(colours[ground]), _luminance(colours[ink])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, ink, ground)


def test_stop_does_not_wait_for_a_long_stage(assistant, pictures):
    assistant.stage_seconds = 20
    stop = threading.Event()
    items = Model(lambda: assistant).start().examine(pictures("a.jpg"), "a.jpg", stop)
    while next(items) != "decoding":
        pass
    stop.set()
    with pytest.raises(Stopped):
        list(items)
    assert assistant.running == 1, "the stage goes on behind it"
