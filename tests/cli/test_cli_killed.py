"""A batch that is killed or interrupted loses no finished record, and resuming finishes the rest once each."""

import collections
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("slow_fakes", {fakes!r})
fakes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fakes)
from vlmforensics.batch import supervised
supervised.BOOT = fakes.boot("load_slowly")
from vlmforensics.cli import app
app(["batch", {folder!r}, "--out", {out!r}, "--resume", "--no-text"])
"""


@pytest.fixture
def batch(fakes, tmp_path):
    """Starts the batch of 24 pictures in a process of its own; each takes at least a tenth of a second."""
    folder = tmp_path / "in"
    for index in range(24):
        fakes.write(folder / f"{index:02d}.jpg", index, width=80, height=80)
    out = tmp_path / "out.jsonl"
    script = SCRIPT.format(fakes=str(Path(fakes.__file__)), folder=str(folder), out=str(out))

    def start():
        return subprocess.Popen(
            [sys.executable, "-c", script], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )

    return start, out


def wait_for(process, out, lines, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if out.exists() and out.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"{lines} records did not come: {process.communicate()}")


def names(out):
    return collections.Counter(Path(json.loads(line)["file"]).name for line in out.read_text().splitlines())


def test_sigkill_loses_nothing_and_resume_repeats_nothing(batch):
    start, out = batch
    for target in (4, 12):
        process = start()
        wait_for(process, out, target)
        process.send_signal(signal.SIGKILL)
        process.wait()
        whole = out.read_bytes().rsplit(b"\n", 1)[0]
        assert whole.count(b"\n") + 1 >= target
    last = start()
    assert last.wait(60) == 0
    found = names(out)
    assert len(found) == 24
    assert set(found.values()) == {1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_drains_and_says_how_to_go_on(batch, number):
    start, out = batch
    process = start()
    wait_for(process, out, 3)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in said
    assert "Traceback" not in said
    done = names(out)
    assert 3 <= len(done) < 24
    assert out.read_bytes().endswith(b"\n")
    assert start().wait(60) == 0
    assert len(names(out)) == 24


def test_records_survive_even_if_the_machine_kills_the_whole_group(batch):
    start, out = batch
    process = start()
    wait_for(process, out, 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(names(out)) >= 2
