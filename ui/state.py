"""What the server remembers of a visitor: the pictures examined, the conversation, the files to download.

Components hold identifiers only. Everything else lives here, bounded in number, size and time, and is freed when the
visitor leaves. One visitor's identifier is of no use to another.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmforensics.types import Box, Report
from vlmforensics.ui.language import Words, words
from vlmforensics.ui.uploads import Upload
from vlmforensics.ui.views import Asked

if TYPE_CHECKING:
    from vlmforensics.ui.batches import Batch

MIB = 1 << 20
MOST_MESSAGES = 300
"""Messages kept of a conversation; beyond it the oldest go."""
MOST_ASKED = 12
"""Regions kept of one picture, each with a mask; beyond it the oldest go."""


@dataclass(frozen=True)
class Place:
    """A region of a picture that a question is about.

    Attributes:
        case_id: of the picture.
        box: upright pixels.
        point: the click (x, y) that stands for it, or None where it was drawn.
    """

    case_id: str
    box: Box
    point: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Kept:
    """A report with the regions that its visitor asked about."""

    report: Report
    asked: tuple[Asked, ...]


@dataclass(eq=False)
class Turn:
    """One thing a visitor asked for: pictures to examine, then a question about the last of them.

    Attributes:
        uploads: the pictures.
        question: may be empty.
        place: the region that it is about, or None for the whole picture.
        sent: the visitor's message in the conversation.
        reply: the assistant's message that is being written.
    """

    uploads: tuple[Upload, ...] = ()
    question: str = ""
    place: Place | None = None
    sent: dict[str, Any] = field(default_factory=dict)
    reply: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Session:
    """One browser tab.

    Attributes:
        cases: case id → report, oldest first.
        asked: case id → regions that the visitor asked about.
        crops: ids of the cases that are regions of others.
        language: code of the page's language for this visitor.
        batch: the run of the batch tab, or None.
        messages: the conversation as the chat component takes it.
        waiting: turns that were asked for and have not started.
        chains: chains of events (ask, run, settle) under way; with fewer chains than waiting turns, one was refused.
        stop: set to end the run under way.
        touched: monotonic seconds of the last use.
        closed: monotonic seconds at which the tab went away, or None.
    """

    cases: OrderedDict[str, Report] = field(default_factory=OrderedDict)
    asked: dict[str, tuple[Asked, ...]] = field(default_factory=dict)
    crops: set[str] = field(default_factory=set)
    language: str = "en"
    batch: Batch | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    waiting: list[Turn] = field(default_factory=list)
    chains: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    touched: float = 0.0
    closed: float | None = None
    _folder: tempfile.TemporaryDirectory[str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def t(self) -> Words:
        """The words of the visitor's language."""
        return words(self.language)

    def ask(self, turn: Turn | None, placeholder: str) -> None:
        """Begin a chain of events, with a turn where something was asked for; the reply reads ``placeholder``."""
        with self._lock:
            self.chains += 1
            if turn is not None:
                turn.reply = {"role": "assistant", "content": placeholder}
                self.messages += [turn.sent, turn.reply]
                del self.messages[:-MOST_MESSAGES]
                self.waiting.append(turn)

    def settle(self) -> list[Turn]:
        """End a chain; returns the turns that will never run, for the queue was full."""
        with self._lock:
            self.chains = max(0, self.chains - 1)
            refused = self.waiting[self.chains :]
            del self.waiting[self.chains :]
            return refused

    def next_turn(self) -> Turn | None:
        """The turn to run now, with a fresh ``stop``."""
        with self._lock:
            if not self.waiting:
                return None
            self.stop = threading.Event()
            return self.waiting.pop(0)

    def cancel(self) -> list[Turn]:
        """Stop the run under way; returns the turns that were still waiting."""
        with self._lock:
            self.stop.set()
            cancelled, self.waiting = self.waiting, []
            return cancelled

    def another_reply(self, turn: Turn) -> None:
        """Begin a further message of the assistant, right after the turn's present one."""
        with self._lock:
            at = next((index for index, message in enumerate(self.messages) if message is turn.reply), None)
            turn.reply = {"role": "assistant", "content": ""}
            self.messages.insert(len(self.messages) if at is None else at + 1, turn.reply)
            del self.messages[:-MOST_MESSAGES]

    @property
    def folder(self) -> Path:
        """A folder of mode 0700 for files to download; made when first asked for, removed with the session."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="vlmforensics-")
        return Path(self._folder.name)

    def add(self, report: Report) -> str:
        """Remember a report; returns its new, unguessable id."""
        case_id = secrets.token_urlsafe(12)
        self.cases[case_id] = report
        return case_id

    def drop(self, case_id: str) -> None:
        """Forget one report."""
        self.cases.pop(case_id, None)
        self.asked.pop(case_id, None)
        self.crops.discard(case_id)

    def halt(self) -> None:
        """End the run under way and the batch."""
        self.stop.set()
        if self.batch is not None:
            self.batch.stop.set()

    def free(self) -> None:
        """End the run under way and forget everything."""
        self.halt()
        self.batch = None
        self.waiting.clear()
        self.cases.clear()
        self.asked.clear()
        self.crops.clear()
        self.messages.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


class Sessions:
    """All visitors, least recently used first.

    Args:
        most_sessions: beyond it the least recently used is freed.
        most_cases: pictures and regions kept per session; beyond it the oldest region is freed, then a picture.
        most_bytes: of pixels and files kept over all sessions (an estimate that leaves the networks' state out).
        time_to_live: seconds after which an unused session is freed.
        grace: seconds after which a session whose tab is gone is freed; a reconnecting tab finds it again before.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        most_sessions: int = 64,
        most_cases: int = 12,
        most_bytes: int = 2048 * MIB,
        time_to_live: float = 3600.0,
        grace: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most_sessions = most_sessions
        self.most_cases = most_cases
        self.most_bytes = most_bytes
        self.time_to_live = time_to_live
        self.grace = grace
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, key: str) -> Session:
        """The session of a tab that is open, made where there is none.

        A caller without a key (no browser sends none) gets an empty session that nobody finds again: all such callers
        would otherwise share one.
        """
        if not key:
            return Session()
        with self._lock:
            self._sweep()
            session = self._sessions.setdefault(key, Session())
            session.touched = self._clock()
            session.closed = None
            self._sessions.move_to_end(key)
            while len(self._sessions) > self.most_sessions:
                self._sessions.popitem(last=False)[1].free()
            return session

    def known(self, key: str) -> Session:
        """The session of a tab that may have gone: in use, but neither made nor taken for open again.

        A run may outlast its tab; what it asked for here must not keep the tab's pictures. Where the session was freed,
        this is an empty one that nobody finds again.
        """
        with self._lock:
            self._sweep()
            session = self._sessions.get(key)
            if session is None:
                return Session()
            session.touched = self._clock()
            self._sessions.move_to_end(key)
            return session

    def report(self, key: str, case_id: str | None) -> Report | None:
        """The report that a tab calls ``case_id``, or None where it is unknown or freed."""
        return self.known(key).cases.get(case_id) if case_id else None

    def find(self, case_id: str) -> Kept | None:
        """What is known under an id, whoever holds it: only who was given the id can ask."""
        with self._lock:
            for session in self._sessions.values():
                report = session.cases.get(case_id)
                if report is not None:
                    return Kept(report, session.asked.get(case_id, ()))
        return None

    def forget_looks(self) -> None:
        """Drop the networks' states: another model can't continue from them; it looks again when asked."""
        with self._lock:
            for session in self._sessions.values():
                for report in session.cases.values():
                    report.look = None

    def add(self, key: str, report: Report, crop_of: str = "") -> str:
        """Remember a report in a tab's session, and free what no longer fits.

        Args:
            key: of the tab.
            report: to remember; it stays.
            crop_of: id of the picture that it is a region of, or empty; that picture, being asked about, stays too.
        """
        session = self.known(key)
        with self._lock:
            case_id = session.add(report)
            if crop_of:
                session.crops.add(case_id)
            keep = {case_id, crop_of}
            others = [name for name in session.cases if name not in keep]
            others.sort(key=lambda name: name not in session.crops)
            for name in others[: max(0, len(session.cases) - self.most_cases)]:
                session.drop(name)
            self._fit(keep)
        return case_id

    def left(self, key: str) -> None:
        """A tab was closed or lost its connection: stop its run now, free it after the grace time."""
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                return
            session.halt()
            session.closed = self._clock()
        timer = threading.Timer(self.grace + 0.1, self.sweep)
        timer.daemon = True
        timer.start()

    def sweep(self) -> None:
        """Free what is over its time."""
        with self._lock:
            self._sweep()

    def clear(self) -> None:
        """Free everything; for shutdown."""
        with self._lock:
            for session in self._sessions.values():
                session.free()
            self._sessions.clear()

    def _sweep(self) -> None:
        now = self._clock()
        for key, session in list(self._sessions.items()):
            gone = session.closed is not None and now - session.closed >= self.grace
            if gone or now - session.touched >= self.time_to_live:
                del self._sessions[key]
                session.free()

    def _fit(self, keep: Collection[str]) -> None:
        """Drop the reports of the least recently used sessions until the rest fit; never those of ``keep``."""
        held = [
            (session, name, size_of(report, session.asked.get(name, ())))
            for session in self._sessions.values()
            for name, report in session.cases.items()
        ]
        total = sum(size for _, _, size in held)
        for session, name, size in held:
            if total <= self.most_bytes:
                return
            if name not in keep:
                session.drop(name)
                total -= size


def size_of(report: Report, asked: Sequence[Asked] = ()) -> int:
    """Bytes that a report holds in pixels, file and maps, with the regions that were asked about."""
    case = report.case
    total = len(case.data) + case.upright.nbytes
    if case.stored is not case.upright:
        total += case.stored.nbytes
    for mask in (report.mask, *(region.mask for region in asked)):
        if mask is not None:
            total += mask.soft.nbytes + mask.binary.nbytes
    return total + sum(item.heatmap.nbytes for item in report.evidence if item.heatmap is not None)
