"""What the server remembers: bounded, separate, freed."""

from __future__ import annotations

import stat
import time

import pytest

pytest.importorskip("gradio", reason="the ui extra is not installed")

from vlmforensics.ui.state import MOST_MESSAGES, Session, Sessions, Turn, size_of
from vlmforensics.ui.views import Asked


def opened(*keys, **options):
    """Sessions with the tabs of ``keys`` open."""
    sessions = Sessions(**options)
    for key in keys:
        sessions.get(key)
    return sessions


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_one_visitor_cannot_use_anothers_case(report):
    sessions = opened("anna", "bert")
    case = sessions.add("anna", report("splice.jpg"))
    assert sessions.report("anna", case) is not None
    assert sessions.report("bert", case) is None


def test_oldest_case_goes_first(report):
    sessions = opened("anna", most_cases=2)
    first, second, third = (sessions.add("anna", report(f"{number}.jpg")) for number in range(3))
    assert sessions.report("anna", first) is None
    assert sessions.report("anna", second).file == "1.jpg"
    assert sessions.report("anna", third).file == "2.jpg"


def test_sessions_are_bounded(report):
    sessions = opened("anna", most_sessions=2)
    case = sessions.add("anna", report("a.jpg"))
    sessions.get("bert")
    sessions.get("carl")
    assert len(sessions) == 2
    assert sessions.report("anna", case) is None


def test_bytes_are_bounded_but_the_newest_stays(report):
    one = report("a.jpg")
    sessions = opened("anna", "bert", most_bytes=size_of(one) + 1)
    old = sessions.add("anna", one)
    new = sessions.add("bert", report("b.jpg"))
    assert sessions.report("anna", old) is None
    assert sessions.report("bert", new) is not None
    tiny = opened("anna", most_bytes=1)
    assert tiny.report("anna", tiny.add("anna", one)) is one


def test_unused_sessions_expire(report):
    clock = Clock()
    sessions = opened("anna", time_to_live=60, clock=clock)
    case = sessions.add("anna", report("a.jpg"))
    clock.now += 59
    assert sessions.report("anna", case) is not None
    clock.now += 61
    assert sessions.report("anna", case) is None


def test_a_closed_tab_stops_its_run_and_is_freed_with_its_files(report):
    sessions = Sessions(grace=0.05)
    session = sessions.get("anna")
    sessions.add("anna", report("a.jpg"))
    folder = session.folder
    (folder / "report.html").write_text("x")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    sessions.left("anna")
    assert session.stop.is_set()
    deadline = time.monotonic() + 5
    while len(sessions) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(sessions) == 0
    assert not session.cases
    assert not folder.exists()


def test_a_tab_that_comes_back_in_time_keeps_its_pictures(report):
    clock = Clock()
    sessions = opened("anna", grace=30, clock=clock)
    case = sessions.add("anna", report("a.jpg"))
    sessions.left("anna")
    clock.now += 10
    assert case in sessions.get("anna").cases
    clock.now += 25
    assert sessions.report("anna", case) is not None


def test_what_a_run_does_after_its_tab_closed_keeps_nothing(report):
    clock = Clock()
    sessions = opened("anna", grace=30, clock=clock)
    sessions.left("anna")
    clock.now += 10
    case = sessions.add("anna", report("a.jpg"))
    assert sessions.report("anna", case) is not None
    clock.now += 25
    assert sessions.report("anna", case) is None
    sessions.add("anna", report("b.jpg"))
    assert len(sessions) == 0


def test_regions_go_before_pictures_and_the_picture_asked_about_stays(report):
    sessions = opened("anna", most_cases=3)
    first = sessions.add("anna", report("a.jpg"))
    for _ in range(4):
        newest = sessions.add("anna", report("region.jpg"), crop_of=first)
    session = sessions.get("anna")
    assert set(session.cases) == {first, newest, *session.crops}
    assert len(session.cases) == 3
    pictures = [sessions.add("anna", report("b.jpg")) for _ in range(2)]
    assert list(session.cases) == [first, *pictures]
    assert session.crops == set()
    newest = sessions.add("anna", report("region.jpg"), crop_of=first)
    assert list(session.cases) == [first, pictures[1], newest]


def test_masks_of_regions_count_as_memory(report):
    one = report("splice.jpg")
    extra = size_of(one, [Asked(one.mask.boxes[0], one.mask)]) - size_of(one)
    assert extra == one.mask.soft.nbytes + one.mask.binary.nbytes


def test_a_long_conversation_forgets_its_beginning():
    session = Session()
    turns = [Turn(sent={"content": str(number)}) for number in range(MOST_MESSAGES)]
    for turn in turns:
        session.ask(turn, "…")
    session.another_reply(turns[-1])
    assert len(session.messages) == MOST_MESSAGES
    assert session.messages[-1] is turns[-1].reply
