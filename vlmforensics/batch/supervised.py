"""A lane in a process of its own, supervised: what breaks it costs the picture that broke it, nothing else.

When the process dies, the pictures it had begun are suspects. A fresh process takes them one at a time; one that
kills it again, alone, gets an error record, and the others get their verdicts. So a process that is killed for
reasons that are not a picture's (an impatient operator, another program's memory) costs nothing at all.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from vlmforensics import errors
from vlmforensics.batch.inputs import Job
from vlmforensics.batch.work import Record, WorkFactory, failed_record
from vlmforensics.errors import Defect, InputError, LimitExceeded, ModelError, VlmForensicsError
from vlmforensics.types import ModelInfo

BOOT = (
    "import sys; sys.path.extend(p for p in sys.argv.pop().split({sep!r}) if p not in sys.path); "
    "from vlmforensics.batch.child import main; main()"
)
GIVE_UP = 50
"""Deaths in a row, with no picture finished in between, after which the batch ends."""
_TICK = 0.2
_log = logging.getLogger(__name__)


@dataclass
class _Ward:
    """One job in the process's care."""

    job: Job
    stage: str = "sent"
    since: float = 0.0
    together: int = 1
    tries: int = 0


class ChildLane:
    """See ``lanes.Lane``.

    Args:
        factory: a ``LoadWorker``, or another class with ``to_json`` and ``from_json``.
        workers: threads of the process.
        picture_seconds: how long one picture may take.
        boot: the process's program (for tests).
    """

    def __init__(
        self, factory: WorkFactory, workers: int, picture_seconds: float, boot: str | None = None
    ) -> None:
        self.results: queue.Queue[tuple[int, Record | None] | Exception] = queue.Queue()
        self.group = 1
        self._factory, self._workers, self._limit = factory, workers, picture_seconds
        self._boot = boot or BOOT
        self._wards: dict[int, _Ward] = {}
        self._suspects: deque[int] = deque()
        self._held: list[int] = []
        self._alone: int | None = None
        self._overdue: int | None = None
        self._model: ModelInfo | None = None
        self._deaths = 0
        self._ended = False
        self._lock = threading.RLock()
        self._ready = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._start()
        self._ready.wait()
        threading.Thread(target=self._watch, name="batch-clock", daemon=True).start()

    @property
    def pid(self) -> int | None:
        """Id of the process."""
        return None if self._process is None else self._process.pid

    # ------------------------------------------------------------ what the engine asks for

    def submit(self, number: int, job: Job) -> None:
        """See ``Lane``."""
        with self._lock:
            self._wards[number] = _Ward(job)
            if self._alone is None and not self._suspects:
                self._send_job(number)
            else:
                self._held.append(number)

    def flush(self) -> None:
        """See ``Lane``."""
        self._send({"order": "flush"})

    def cancel(self) -> None:
        """See ``Lane``."""
        with self._lock:
            for number in self._held:
                self._settle(number, None)
            self._held.clear()
            self._send({"order": "cancel"})

    def close(self, *, now: bool) -> None:
        """See ``Lane``."""
        with self._lock:
            self._ended = True
            process = self._process
            if not now:
                self._send({"order": "end"})
        if process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            if not now:
                process.wait(10)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    # ------------------------------------------------------------ the process

    def _start(self) -> None:
        boot = self._boot.format(sep=os.pathsep)
        # a session of its own: Ctrl-C in the terminal is the parent's to handle
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", boot, os.pathsep.join(path for path in sys.path if path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._process = process
        kind = type(self._factory)
        self._send(
            {
                "factory": f"{kind.__module__}:{kind.__qualname__}",
                "arguments": self._factory.to_json(),  # type: ignore[attr-defined]
                "workers": self._workers,
            }
        )
        threading.Thread(target=self._listen, args=(process,), name="batch-ear", daemon=True).start()

    def _send(self, message: dict[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        # a process that died is noticed by its listener, which sends again what was lost
        with self._lock, contextlib.suppress(OSError, ValueError):
            process.stdin.write(json.dumps(message, ensure_ascii=True).encode("ascii") + b"\n")
            process.stdin.flush()

    def _send_job(self, number: int) -> None:
        self._send({"number": number, "job": self._wards[number].job.to_json()})

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        loaded = False
        fatal: VlmForensicsError | None = None
        if process.stdout is not None:
            with contextlib.suppress(ValueError, OSError):
                for line in process.stdout:
                    message = json.loads(line)
                    if "fatal" in message:
                        fatal = _error(*message["fatal"])
                        break
                    loaded = loaded or "ready" in message
                    with self._lock:
                        self._hear(message)
        code = process.wait()
        with self._lock:
            if self._ended or process is not self._process:
                return
            try:
                self._died(code, loaded=loaded, fatal=fatal)
            except VlmForensicsError as error:
                self._ended = True
                self.results.put(error)
                self._ready.set()

    def _hear(self, message: dict[str, Any]) -> None:
        if "model" in message:
            values = dict(message["model"])
            values["parts"] = tuple(values["parts"].items())
            self._model = ModelInfo(**values)
        elif "ready" in message:
            self.group = message["group"]
            self._ready.set()
        elif "stage" in message:
            for number in message["numbers"]:
                ward = self._wards.get(number)
                if ward is not None:
                    ward.stage, ward.since = message["stage"], time.monotonic()
                    ward.together = len(message["numbers"])
        elif "number" in message:
            self._deaths = 0
            self._settle(message["number"], message["record"])

    def _settle(self, number: int, record: Record | None) -> None:
        """Hand over what is done, and go on with the next suspect where they are tried one at a time."""
        if self._wards.pop(number, None) is None:
            return
        self.results.put((number, record))
        if number == self._alone:
            self._alone = None
            self._next_suspect()

    def _died(self, code: int, *, loaded: bool, fatal: VlmForensicsError | None) -> None:
        if fatal is not None:
            raise fatal
        how = _ending(code)
        if not loaded:
            raise ModelError(
                f"the process that examines pictures ended while it loaded the model ({how}); free some memory, or "
                "choose a smaller model",
                code="model.process",
            )
        self._deaths += 1
        if self._deaths > GIVE_UP:
            raise Defect(
                f"the process that examines pictures ended {self._deaths} times in a row ({how}) without "
                "finishing one; what is recorded is whole, and --resume goes on from there"
            )
        _log.warning("the process that examines pictures ended (%s); it is started again", how)
        overdue, self._overdue = self._overdue, None
        begun = [number for number, ward in self._wards.items() if ward.stage != "sent"]
        alone, self._alone = self._alone, None
        for number, ward in self._wards.items():
            ward.stage = "sent"
            ward.tries += number in begun
        if overdue is not None and overdue in self._wards:
            said = f"it was not examined within {self._limit:g} seconds and was given up"
            self._fail(overdue, LimitExceeded(said, code="worker.time"))
        elif alone is not None and alone in begun:
            said = f"examining it ended the process twice ({how}): it may need too much memory, or break a decoder"
            self._fail(alone, InputError(said, code="worker.died"))
        suspects = [number for number in begun if number in self._wards and number not in self._suspects]
        self._suspects.extendleft(reversed(suspects))
        rest = [number for number in self._wards if number not in self._suspects]
        self._held = sorted(rest)
        self._start()
        self._next_suspect()

    def _fail(self, number: int, error: VlmForensicsError) -> None:
        model = self._model
        if model is None:
            raise Defect("the process that examines pictures did not say which model it loaded")
        record = failed_record(self._wards[number].job, error, model)
        del self._wards[number]
        self.results.put((number, record))

    def _next_suspect(self) -> None:
        """Send the next suspect alone; when there is none, everything that had to wait."""
        while self._suspects and self._alone is None:
            number = self._suspects.popleft()
            if number in self._wards:
                self._alone = number
                self._send_job(number)
                self.flush()
        if self._alone is None:
            held, self._held = self._held, []
            for number in held:
                self._send_job(number)
            self.flush()

    def _watch(self) -> None:
        """Kill the process when a picture takes longer than it may."""
        while not self._ended:
            time.sleep(_TICK)
            now = time.monotonic()
            with self._lock:
                late = [
                    number
                    for number, ward in self._wards.items()
                    if ward.stage in {"begun", "telling"} and now - ward.since > self._limit * ward.together
                ]
                if late and self._overdue is None and self._process is not None:
                    # who is late in a group can't be known: all of them are tried again, alone
                    lone = len(late) == 1 or self._wards[late[0]].stage == "begun"
                    self._overdue = late[0] if lone else -1
                    self._process.kill()


def _ending(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _error(kind: str, code: str, message: str) -> VlmForensicsError:
    """The error that ended the process, as it was raised there."""
    found = getattr(errors, kind, ModelError)
    known = isinstance(found, type) and issubclass(found, VlmForensicsError)
    chosen: type[VlmForensicsError] = found if known else ModelError
    return chosen(message, code=code)
