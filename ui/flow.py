"""One assistant for all visitors: loaded once in the background, used by one run at a time, each run stoppable."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from vlmforensics.errors import SettingsError, VlmForensicsError, WeightsUnavailable
from vlmforensics.settings import Settings
from vlmforensics.types import Box, Mask, Report

if TYPE_CHECKING:
    from vlmforensics.assistant import Assistant

_LOG = logging.getLogger(__name__)

State = Literal["loading", "ready", "failed"]
T = TypeVar("T")
_PATIENCE = 0.2
"""Seconds between looks at whether the visitor wants to stop."""


class Stopped(Exception):
    """Raised inside an examination at its next stage after the visitor asked to stop."""


class Model:
    """The assistant behind the page.

    One thread loads it and then does all runs in turn: the networks keep their pool of threads, and no two runs meet.

    Args:
        loader: makes the assistant; called once, in that thread, after ``start``.
        reloader: makes another one from other settings, or None where the page may not change them.
    """

    def __init__(
        self,
        loader: Callable[[], Assistant],
        reloader: Callable[[Settings], Assistant] | None = None,
    ) -> None:
        self._loader = loader
        self.reloader = reloader
        self._ready = threading.Event()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._assistant: Assistant | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="vlmforensics-model", daemon=True)

    def start(self) -> Model:
        """Begin to load; returns itself."""
        self._thread.start()
        return self

    def _work(self) -> None:
        self._load()
        while True:
            self._jobs.get()()

    def _load(self) -> None:
        try:
            self._assistant = self._loader()
        except VlmForensicsError as error:
            _LOG.error("the model can't be loaded: %s", error)
            self._error = error
        except Exception as error:  # noqa: BLE001 - boundary: a thread's exception would vanish unsaid
            _LOG.exception("the model can't be loaded")
            self._error = error
        finally:
            self._ready.set()

    @property
    def state(self) -> State:
        """``loading``, ``ready`` or ``failed``."""
        if not self._ready.is_set():
            return "loading"
        return "failed" if self._assistant is None else "ready"

    @property
    def status(self) -> str:
        """The state in words."""
        if self.state == "loading":
            return "Loading the model…"
        if self._assistant is None:
            return f"The model could not be loaded: {self._error}"
        info = self._assistant.model
        return f"Ready · {info.name} {info.version}"

    def wait(self, timeout: float | None = None) -> Assistant:
        """The assistant, as soon as it is loaded.

        Raises:
            VlmForensicsError: why it can't be loaded, or that it is still loading after ``timeout`` seconds.
        """
        if not self._ready.wait(timeout):
            raise WeightsUnavailable("the model is still loading; try again in a minute")
        if self._assistant is None:
            if isinstance(self._error, VlmForensicsError):
                raise self._error
            raise WeightsUnavailable(
                f"the model could not be loaded ({type(self._error).__name__}); the program's log has the details"
            )
        return self._assistant

    def examine(self, path: Path | bytes, name: str, stop: threading.Event) -> Iterator[str | Report]:
        """Examine one file.

        Args:
            path: of the untouched bytes, or the bytes.
            name: what the visitor calls the file.
            stop: ends it at the next stage.

        Yields:
            Names of stages as they begin, then the report.

        Raises:
            VlmForensicsError: as the assistant says it.
            Stopped: ``stop`` was set.
        """
        if self.state == "loading":
            yield "loading"

        def work(emit: Callable[[str | Report], None]) -> None:
            def progress(stage: str) -> None:
                if stop.is_set():
                    raise Stopped
                emit(stage)

            emit(self.wait().examine(path, file=name, progress=progress))

        yield from self._run(work, stop, leave_at_once=True)

    def reload(self, settings: Settings) -> None:
        """Put an assistant with other settings in the place of the present one, which stays where that fails.

        Raises:
            VlmForensicsError: why it can't be loaded, or that this page may not change its model.
        """
        if self.reloader is None:
            raise SettingsError("this page's model is set by who runs it")
        reloader = self.reloader

        def work(emit: Callable[[Assistant], None]) -> None:
            emit(reloader(settings))

        for assistant in self._run(work, threading.Event()):
            self._assistant, self._error = assistant, None

    def call(self, work: Callable[[Assistant], T]) -> T:
        """Have the model's thread do one piece of work between other visitors' runs, and wait for its result."""

        def job(emit: Callable[[T], None]) -> None:
            emit(work(self.wait()))

        (result,) = self._run(job, threading.Event())
        return result

    def locate(self, report: Report, box: Box, point: tuple[int, int] | None) -> Mask | None:
        """What the mask head marks when prompted with a click or a box."""
        points = [] if point is None else [(float(point[0]), float(point[1]))]
        return self.call(
            lambda assistant: assistant.locate(report, box=None if points else box, points=points)
        )

    def explain(self, report: Report, stop: threading.Event) -> Iterator[str]:
        """Stream the explanation piece by piece; it is kept in the report."""

        def work(emit: Callable[[str], None]) -> None:
            for piece in self.wait().explain(report, stop=stop.is_set):
                emit(piece)

        return self._run(work, stop)

    def ask(self, report: Report, question: str, stop: threading.Event) -> Iterator[str]:
        """Stream an answer piece by piece; it is kept in the report."""

        def work(emit: Callable[[str], None]) -> None:
            for piece in self.wait().ask_stream(report, question, stop=stop.is_set):
                emit(piece)

        return self._run(work, stop)

    def _run(
        self,
        work: Callable[[Callable[[T], None]], None],
        stop: threading.Event,
        *,
        leave_at_once: bool = False,
    ) -> Iterator[T]:
        """Have ``work`` done by the model's thread when its turn comes, and yield what it emits.

        The thread holds the turn, not the caller: a visitor who leaves only sets ``stop``, and the next run starts when
        the network has really let go. With ``leave_at_once`` the caller does not wait for that after a stop.
        """
        results: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue()

        def job() -> None:
            try:
                if stop.is_set():
                    raise Stopped
                work(lambda item: results.put(("item", item)))
                results.put(("end", None))
            except Exception as error:  # noqa: BLE001 - boundary: handed to the caller, which raises it
                results.put(("error", error))

        self._jobs.put(job)
        try:
            while True:
                try:
                    kind, value = results.get(timeout=_PATIENCE if leave_at_once else None)
                except queue.Empty:
                    if stop.is_set():
                        raise Stopped from None
                    continue
                if kind == "end":
                    return
                if kind == "error":
                    raise value  # type: ignore[misc]
                yield value  # type: ignore[misc]
        except GeneratorExit:
            stop.set()
            raise
