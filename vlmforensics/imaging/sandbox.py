"""The parent's side of the decoding process: start it, time it, replace it when it dies.

Decoders are the part of this program that hostile bytes are most likely to break, so they run in a process
of their own, with a cap on its memory and a clock on every picture. One worker lives as long as this
process; it is started on the first picture (about a fifth of a second) and takes pictures one after
another. It is started by ``subprocess``, not ``multiprocessing``: the caller's main module is never
imported, and daemon threads and daemon processes may use it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmforensics import errors
from vlmforensics.errors import CorruptImage, Defect, InputError, LimitExceeded
from vlmforensics.imaging import protocol
from vlmforensics.imaging.decode import Decoded, Job, decode
from vlmforensics.imaging.header import MAX_EXIF, MAX_XMP
from vlmforensics.settings import Settings

_START_SECONDS = 60.0
_PATIENCE = 10
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031  # fcntl's constant of Linux, in the standard library by name since 3.10 on Linux only
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "PYTHONHOME")
# -P keeps the working directory off the path; what the parent can import is appended behind the child's own.
_BOOT = (
    "import sys; sys.path.extend(sys.argv.pop().split({sep!r})); "
    "from vlmforensics.imaging.worker import main; main()"
)


class Worker:
    """One decoding process, made on first use and again after it died; safe to share between threads.

    Args:
        address_space: cap on its memory in bytes.
        command: what to run instead of the usual (for tests).
    """

    def __init__(self, address_space: int, command: Sequence[str] | None = None) -> None:
        self.address_space = address_space
        self._command = list(command) if command else None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the running worker, or None."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def decode(self, data: bytes, job: Job, seconds: float) -> Decoded:
        """Decode one picture in the process.

        A worker that served before may die for reasons that are not this picture's (killed for memory,
        say): the picture then gets a second chance in a fresh one.

        Args:
            data: the file.
            job: what preflight found.
            seconds: wall limit; on a busy machine stretched up to tenfold (see ``_Deadline``).

        Returns:
            As ``decode.decode``.

        Raises:
            InputError: what the decoder said; ``img.crash`` where it died, ``img.time`` where it took too
                long.
            Defect: the process does not start.
        """
        with self._lock:
            process, fresh = self._running()
            for last in (fresh, True):
                reply = self._exchange(process, data, job, seconds)
                if reply is not None:
                    return reply
                if last:
                    break
                process, _ = self._running()
        raise CorruptImage(
            "the decoder crashed on this picture; the file is damaged or made to do harm", code="img.crash"
        )

    def start(self) -> None:
        """Start the process now, so that the first picture needn't wait for it."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._stop()

    def abandon(self) -> None:
        """Forget a process that belongs to the process that forked this one: close our ends, kill nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.returncode = 0  # not ours to wait for
            _close_pipes(process)

    def _running(self) -> tuple[subprocess.Popen[bytes], bool]:
        if self._process is not None and self._process.poll() is None:
            return self._process, False
        self._stop()
        self._process = self._spawn()
        return self._process, True

    def _spawn(self) -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        environment.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")  # threads take address space
        try:
            process = subprocess.Popen(
                self._command or _command(self.address_space),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=environment,
                cwd=Path(os.sep).resolve(),
                start_new_session=True,  # Ctrl-C is for the parent
            )
        except OSError as error:
            raise _no_start(str(error)) from error
        _widen(process)
        ready: dict[str, Any] = {}
        try:
            with _Deadline(process, _START_SECONDS), contextlib.suppress(protocol.ClosedError):
                ready = protocol.read_message(_stdout(process))
        finally:  # also where the user interrupts
            if ready.get("ready") is not True:
                _end(process)
        if ready.get("ready") is not True:
            raise _no_start(f"exit status {process.returncode}")
        return process

    def _exchange(
        self, process: subprocess.Popen[bytes], data: bytes, job: Job, seconds: float
    ) -> Decoded | None:
        """Send one job and read the reply; None where the worker died."""
        outcome: Decoded | InputError | None = None
        try:
            with _Deadline(process, seconds) as deadline, contextlib.suppress(protocol.ClosedError):
                protocol.write_message(_stdin(process), {"job": job.to_json(), "size": len(data)})
                protocol.write_all(_stdin(process), data)
                reply = protocol.read_message(_stdout(process))
                outcome = _relayed(reply["error"]) if "error" in reply else _received(process, reply, job)
        finally:
            if outcome is None:  # dead, late, or interrupted by the user: the pipes are out of step
                self._stop()
        if isinstance(outcome, InputError):
            raise outcome
        if outcome is not None or not deadline.passed:
            return outcome
        raise LimitExceeded(
            f"decoding took longer than {seconds:g} seconds (setting decode_seconds)", code="img.time"
        )

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _end(process)


class _Deadline:
    """Kills a process after a time unless left before; ``passed`` says whether it did.

    The same picture must not pass on an idle machine and fail on a busy one. So where the system tells the processor
    time of a process (Linux), one that has worked since the last look but has not yet had its seconds of processor
    time gets as long again, up to ten times; one that stands still is killed at once.
    """

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self.passed = False
        self._process, self._seconds = process, seconds
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vlmforensics-decode-clock", daemon=True)

    def _watch(self) -> None:
        start = latest = _processor_seconds(self._process.pid)
        for _ in range(_PATIENCE):
            if self._left.wait(self._seconds):
                return
            now = _processor_seconds(self._process.pid)
            if (
                now is None
                or start is None
                or latest is None
                or now <= latest
                or now - start >= self._seconds
            ):
                break
            latest = now
        self.passed = True
        self._process.kill()

    def __enter__(self) -> _Deadline:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()


def _processor_seconds(pid: int) -> float | None:
    """Processor time of a process so far, in steps of 10 ms; None where the system does not tell."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _command(address_space: int) -> list[str]:
    root = str(Path(errors.__file__).resolve().parent.parent)
    folders = [root, *(str(Path(entry or os.curdir).absolute()) for entry in sys.path)]
    boot = _BOOT.format(sep=os.pathsep)
    return [sys.executable, "-P", "-c", boot, str(address_space), os.pathsep.join(dict.fromkeys(folders))]


def _no_start(reason: str) -> Defect:
    return Defect(
        f"the decoding process did not start ({reason}); check that this Python can start itself, "
        "or set sandbox = false if you trust the pictures",
        code="defect.worker",
    )


def _stdin(process: subprocess.Popen[bytes]) -> Any:
    return process.stdin


def _stdout(process: subprocess.Popen[bytes]) -> Any:
    return process.stdout


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    _close_pipes(process)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _widen(process: subprocess.Popen[bytes]) -> None:
    """Ask Linux for pipes of 1 MiB: eight times fewer switches for large pictures."""
    if sys.platform.startswith("linux"):
        import fcntl

        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                fcntl.fcntl(_number(pipe), _F_SETPIPE_SZ, _PIPE_BYTES)


def _number(pipe: Any) -> int:
    return int(pipe.fileno())


def _relayed(error: Any) -> InputError:
    """Rebuild an error that the worker named; only classes of input errors are known."""
    if not isinstance(error, list) or len(error) != 3:
        raise protocol.ClosedError
    name, message, code = (str(part) for part in error)
    cls = getattr(errors, name, None)
    known = isinstance(cls, type) and issubclass(cls, InputError)
    return cls(message, code=code) if known else InputError(message, code=code)  # type: ignore[misc]


def _received(process: subprocess.Popen[bytes], reply: dict[str, Any], job: Job) -> Decoded:
    """Read the parts of a reply.

    The worker may be in an attacker's hands: sizes are checked before memory is taken.

    Raises:
        protocol.ClosedError: the reply is not what a worker says.
    """
    try:
        facts, parts = reply["facts"], [(str(name), tuple(map(int, shape))) for name, shape in reply["parts"]]
    except (KeyError, TypeError, ValueError) as error:
        raise protocol.ClosedError from error
    frame = next((shape[:2] for name, shape in parts if name == "stored"), None)
    arrays: dict[str, Any] = {}
    for name, shape in parts:
        if not _plausible(name, shape, frame, job.max_pixels):
            raise protocol.ClosedError
        array: NDArray[np.uint8] = np.empty(shape, np.uint8)
        protocol.read_exactly(_stdout(process), array.reshape(-1).data)
        arrays[name] = array.tobytes() if name in ("exif", "xmp") else array
    try:
        return Decoded(**facts, **arrays)
    except TypeError as error:
        raise protocol.ClosedError from error


def _plausible(name: str, shape: tuple[int, ...], frame: tuple[int, ...] | None, max_pixels: int) -> bool:
    if name in ("exif", "xmp"):
        return len(shape) == 1 and 0 < shape[0] <= 2 * max(MAX_EXIF, MAX_XMP)
    if frame is None or len(frame) != 2 or min(frame) < 1 or frame[0] * frame[1] > max_pixels:
        return False
    return shape == (frame if name == "alpha" else (*frame, 3)) and name in ("stored", "shown", "alpha")


_shared: Worker | None = None
_shared_lock = threading.Lock()
_registered = False


def shared(settings: Settings) -> Worker:
    """The worker of this process; replaced where the memory limit changed."""
    global _shared, _registered
    with _shared_lock:
        if not _registered:
            _registered = True
            atexit.register(_close_shared)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=_forget)
        if _shared is None or _shared.address_space != settings.decode_bytes:
            old, _shared = _shared, Worker(settings.decode_bytes)
            if old is not None:
                old.close()
        return _shared


def _close_shared() -> None:
    if _shared is not None:
        _shared.close()


def _forget() -> None:
    """After a fork: the worker is the parent's, and its locks may be held by threads that are not here."""
    global _shared, _shared_lock
    _shared_lock = threading.Lock()
    old, _shared = _shared, None
    if old is not None:
        old.abandon()


def warm_up(settings: Settings | None = None) -> None:
    """Start the decoding process ahead of the first picture; does nothing where the sandbox is off."""
    settings = settings or Settings()
    if settings.sandbox:
        shared(settings).start()


def decode_safely(data: bytes, job: Job, settings: Settings) -> Decoded:
    """Decode in the worker, or in this process where ``settings.sandbox`` is off.

    Raises:
        InputError: as ``Worker.decode``.
    """
    if not settings.sandbox:
        return decode(data, job)
    return shared(settings).decode(data, job, settings.decode_seconds)
