"""What the server remembers: bounded, separate, freed."""

from __future__ import annotations

import stat
import time

import pytest

pytest.importorskip("gradio", reason="the ui extra is not installed")

from vlmforensics.ui.state import Sessions, size_of


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_one_visitor_cannot_use_anothers_case(report):
    sessions = Sessions()
    case = sessions.add("anna", report("splice.jpg"))
    assert sessions.report("anna", case) is not None
    assert sessions.report("bert", case) is None


def test_oldest_case_goes_first(report):
    sessions = Sessions(most_cases=2)
    first, second, third = (sessions.add("anna", report(f"{number}.jpg")) for number in range(3))
    assert sessions.report("anna", first) is None
    assert sessions.report("anna", second).file == "1.jpg"
    assert sessions.report("anna", third).file == "2.jpg"


def test_sessions_are_bounded(report):
    sessions = Sessions(most_sessions=2)
    case = sessions.add("anna", report("a.jpg"))
    sessions.get("bert")
    sessions.get("carl")
    assert len(sessions) == 2
    assert sessions.report("anna", case) is None


def test_bytes_are_bounded_but_the_newest_stays(report):
    one = report("a.jpg")
    sessions = Sessions(most_bytes=size_of(one) + 1)
    old = sessions.add("anna", one)
    new = sessions.add("bert", report("b.jpg"))
    assert sessions.report("anna", old) is None
    assert sessions.report("bert", new) is not None
    tiny = Sessions(most_bytes=1)
    assert tiny.report("anna", tiny.add("anna", one)) is one


def test_unused_sessions_expire(report):
    clock = Clock()
    sessions = Sessions(time_to_live=60, clock=clock)
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
    sessions = Sessions(grace=30, clock=clock)
    case = sessions.add("anna", report("a.jpg"))
    sessions.left("anna")
    clock.now += 10
    assert sessions.report("anna", case) is not None
    clock.now += 25
    assert sessions.report("anna", case) is not None
