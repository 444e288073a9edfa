"""The decoding process: fast, replaceable, light, and usable from wherever a caller may stand."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmforensics.errors import CorruptImage, Defect, LimitExceeded
from vlmforensics.imaging import open_case, sandbox, warm_up
from vlmforensics.imaging.decode import Job
from vlmforensics.settings import Settings

GIB = 1 << 30


def png(height=64, width=80, seed=0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


JOB = Job("PNG", 80, 64, 8, 1, 10**6)
# A stand-in for the worker: says it is ready, reads a job's length and JSON, then does what it is told.
FAKE = """
import sys, struct, json, os, time
out = sys.stdout.buffer
def say(message):
    body = json.dumps(message).encode()
    out.write(struct.pack("<I", len(body)) + body); out.flush()
say({"ready": True})
size = struct.unpack("<I", sys.stdin.buffer.read(4))[0]
job = json.loads(sys.stdin.buffer.read(size))
"""


def fake(body: str) -> sandbox.Worker:
    return sandbox.Worker(GIB, command=[sys.executable, "-c", FAKE + textwrap.dedent(body)])


def test_worker_killed_between_pictures_is_replaced():
    worker = sandbox.Worker(4 * GIB)
    worker.decode(png(), JOB, 20)
    first = worker.pid
    os.kill(first, signal.SIGKILL)
    assert worker.decode(png(), JOB, 20).stored.shape == (64, 80, 3)
    assert worker.pid not in (None, first)
    worker.close()
    assert worker.pid is None


def test_worker_killed_while_decoding_gives_the_picture_another_chance():
    """A worker that has served and dies (killed for memory by the system, say) does not condemn the picture."""
    worker = sandbox.Worker(4 * GIB)
    worker.start()
    stopped = worker.pid
    os.kill(stopped, signal.SIGSTOP)  # so that it is killed mid-use
    threading.Timer(0.3, lambda: os.kill(stopped, signal.SIGKILL)).start()
    assert worker.decode(png(), JOB, 20).stored.shape == (64, 80, 3)
    worker.close()


def test_crash_is_an_error_of_the_picture():
    worker = fake("os.kill(os.getpid(), 11)")
    for _ in range(2):
        with pytest.raises(CorruptImage) as caught:
            worker.decode(png(), JOB, 20)
        assert caught.value.code == "img.crash"


def test_timeout_kills_and_recovers():
    worker = fake("time.sleep(60)")
    with pytest.raises(LimitExceeded) as caught:
        worker.decode(png(), JOB, 0.3)
    assert caught.value.code == "img.time"
    assert worker.pid is None


def test_an_interrupt_leaves_no_half_read_reply(monkeypatch):
    """Ctrl-C while a reply is read: the next picture must not get the rest of this one."""
    worker = sandbox.Worker(4 * GIB)
    worker.start()
    received = sandbox._received

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sandbox, "_received", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.decode(png(), JOB, 20)
    monkeypatch.setattr(sandbox, "_received", received)
    other = Job("PNG", 30, 20, 8, 1, 10**6)
    assert worker.decode(png(20, 30), other, 20).stored.shape == (20, 30, 3)
    worker.close()


def test_a_busy_loop_is_killed_after_its_processor_time():
    worker = fake("while True: pass")
    with pytest.raises(LimitExceeded) as caught:
        worker.decode(png(), JOB, 0.4)
    assert caught.value.code == "img.time"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs processor time from /proc")
def test_a_starved_worker_gets_more_time():
    """It worked a little within the limit: the machine was busy, and that is not the picture's fault."""
    worker = fake(
        """
        data = sys.stdin.buffer.read(job["size"])
        for _ in range(8):
            end = time.process_time() + 0.03
            while time.process_time() < end: pass
            time.sleep(0.2)
        say({"facts": {"mode": "RGB"}, "parts": [["stored", [64, 80, 3]]]})
        out.write(bytes(64 * 80 * 3)); out.flush()
        """
    )
    assert worker.decode(png(), JOB, 0.8).mode == "RGB"
    worker.close()


def test_open_case_times_out_and_goes_on():
    warm_up()
    with pytest.raises(LimitExceeded) as caught:
        open_case(png(2500, 2500), settings=Settings(decode_seconds=1e-3))  # it takes a hundred times that
    assert caught.value.code == "img.time"
    assert open_case(png()).width == 80


@pytest.mark.parametrize(
    "reply",
    [
        '{"facts": {"mode": "RGB"}, "parts": [["stored", [100000, 100000, 3]]]}',
        '{"facts": {"mode": "RGB"}, "parts": [["stored", [-1, -80, 3]]]}',
        '{"facts": {"mode": "RGB"}, "parts": [["stored", [64, 80]]]}',
        '{"facts": {"mode": "RGB"}, "parts": [["exif", [99999999999]]]}',
        '{"facts": {"mode": "RGB"}, "parts": [["__class__", [1]]]}',
        '{"facts": {"evil": 1}, "parts": []}',
        '{"facts": 7, "parts": 7}',
        "[1, 2]",
        "not json",
    ],
)
def test_a_taken_over_worker_cannot_make_the_parent_allocate(reply):
    worker = fake(f"body = {reply!r}.encode(); out.write(struct.pack('<I', len(body)) + body); out.flush()")
    with pytest.raises(CorruptImage) as caught:
        worker.decode(png(), JOB, 20)
    assert caught.value.code == "img.crash"


def test_a_worker_that_cannot_start_is_our_defect():
    for command in (["/no/such/python"], [sys.executable, "-c", "raise SystemExit(3)"]):
        with pytest.raises(Defect) as caught:
            sandbox.Worker(GIB, command=command).decode(png(), JOB, 5)
        assert caught.value.code == "defect.worker"
        assert "sandbox" in caught.value.message


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address-space limits work on Linux")
def test_memory_limit():
    data = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(data, "PNG", compress_level=1)
    settings = Settings(decode_bytes=400 << 20)
    with pytest.raises(LimitExceeded) as caught:
        open_case(data.getvalue(), settings=settings)
    assert caught.value.code == "img.memory"
    assert open_case(png(), settings=settings).width == 80, "and goes on"


def test_threads_share_one_worker():
    sources = [png(seed=seed, height=20 + seed) for seed in range(16)]
    with ThreadPoolExecutor(4) as pool:
        cases = list(pool.map(open_case, sources))
    assert [case.height for case in cases] == [20 + seed for seed in range(16)]
    expected = [np.array(Image.open(io.BytesIO(source))) for source in sources]
    for case, pixels in zip(cases, expected, strict=True):
        np.testing.assert_array_equal(case.upright, pixels)


def test_daemon_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(open_case(png()).width), daemon=True)
    thread.start()
    thread.join(30)
    assert found == [80]


def _child(queue) -> None:
    queue.put(open_case(png()).width)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_daemon_process(method):
    """Daemon processes may not have ``multiprocessing`` children; a forked one must not talk to its parent's worker."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    warm_up()
    ours = sandbox.shared(Settings()).pid
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_child, args=(queue,), daemon=True)
    process.start()
    assert queue.get(timeout=60) == 80
    process.join(30)
    assert sandbox.shared(Settings()).pid == ours, "the parent's worker lives on"
    assert open_case(png()).width == 80


def run(script: str, *, cwd, **options) -> subprocess.CompletedProcess:
    path = cwd / "script.py"
    path.write_text(textwrap.dedent(script))
    return subprocess.run(
        [sys.executable, str(path)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def test_script_without_main_guard(tmp_path):
    """The caller's main module must not run twice, and files in its folder must not shadow the library's."""
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "select.py").write_text("raise RuntimeError('shadowed')")
    done = run(
        """
        import sys
        sys.path.remove(sys.path[0])
        print("once")
        from vlmforensics.imaging import open_case
        print(open_case("a.png").width)
        """,
        cwd=tmp_path,
    )
    assert done.stdout.split() == ["once", "80"], done.stderr
    assert done.stderr == ""


def test_the_worker_is_light_and_dies_with_its_parent(tmp_path):
    done = run(
        """
        import os, sys
        from vlmforensics.imaging import sandbox, open_case
        from vlmforensics.settings import Settings
        worker = sandbox.shared(Settings())
        worker.start()
        print(worker.pid)
        maps = open(f"/proc/{worker.pid}/maps").read() if os.path.isdir("/proc") else ""
        print("/torch/" in maps, "/scipy/" in maps, "torch" in sys.modules)
        sys.stdout.flush()
        os._exit(0)
        """,
        cwd=tmp_path,
    )
    pid, *heavy = done.stdout.split()
    assert heavy == ["False", "False", "False"], done.stderr
    for _ in range(100):
        if not _alive(int(pid)):
            break
        time.sleep(0.1)
    assert not _alive(int(pid))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stream:  # noqa: PTH123
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, ProcessLookupError):
        return False
