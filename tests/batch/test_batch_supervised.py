"""What breaks the process that examines costs the picture that broke it, and nothing else."""

import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlmforensics.batch import Inputs, Ledger, LoadWorker, LocalEngine, run_batch
from vlmforensics.batch.inputs import Job
from vlmforensics.batch.supervised import ChildLane
from vlmforensics.errors import ModelError, SettingsError
from vlmforensics.settings import Settings

FACTORY = LoadWorker("compact", Settings(sandbox=False), text="none")


@pytest.fixture
def poisoned(fakes, monkeypatch):
    monkeypatch.setattr("vlmforensics.batch.supervised.BOOT", fakes.boot("load_poisoned"))


def records_of(folder, out, engine, factory=FACTORY):
    with Ledger(out) as ledger:
        return {
            Path(record["file"]).name: record
            for record in run_batch(Inputs([folder]), ledger, engine, factory)
        }


def test_a_picture_that_kills_the_process_costs_only_itself(fakes, poisoned, tmp_path):
    for index, name in enumerate(["a", "b-kill-always", "c", "d-kill-once", "e"]):
        fakes.write(tmp_path / "in" / f"{name}.jpg", index, width=80, height=80)
    found = records_of(tmp_path / "in", tmp_path / "out.jsonl", LocalEngine(2, isolated=True))
    assert len(found) == 5
    errors = {name: record["error"]["code"] for name, record in found.items() if record["error"]}
    assert errors == {"b-kill-always.jpg": "worker.died"}
    assert "SIGKILL" in found["b-kill-always.jpg"]["error"]["message"]
    assert found["b-kill-always.jpg"]["model"]["name"] == "compact"


def test_a_picture_that_never_ends_is_given_up(fakes, poisoned, tmp_path):
    for index, name in enumerate(["a", "b-hang", "c"]):
        fakes.write(tmp_path / "in" / f"{name}.jpg", index, width=80, height=80)
    engine = LocalEngine(1, isolated=True, picture_seconds=8)
    found = records_of(tmp_path / "in", tmp_path / "out.jsonl", engine)
    assert len(found) == 3  # on a machine that is busy enough the others may be late too
    assert found["b-hang.jpg"]["error"]["code"] == "worker.time"


def test_killing_the_process_from_outside_costs_nothing(fakes, monkeypatch, tmp_path):
    monkeypatch.setattr("vlmforensics.batch.supervised.BOOT", fakes.boot("load_slowly"))
    jobs = [Job(str(p), str(p)) for p in (fakes.write(tmp_path / f"{i}.jpg", i, width=64) for i in range(6))]
    lane = ChildLane(FACTORY, 2, 60)
    try:
        for number, job in enumerate(jobs):
            lane.submit(number, job)
        first = lane.results.get(timeout=60)
        os.kill(lane.pid, signal.SIGKILL)
        rest = [lane.results.get(timeout=60) for _ in range(5)]
    finally:
        lane.close(now=True)
    assert sorted(number for number, _ in [first, *rest]) == list(range(6))
    assert all(record["error"] is None for _, record in [first, *rest])


def test_supervised_records_are_those_of_threads(fakes, monkeypatch, tmp_path):
    monkeypatch.setattr("vlmforensics.batch.supervised.BOOT", fakes.boot())
    monkeypatch.setattr("vlmforensics.assistant.Assistant.load", staticmethod(fakes.load))
    for index in range(4):
        fakes.write(tmp_path / "in" / f"{index}.jpg", index, width=80, height=80)
    factory = LoadWorker("compact", Settings(sandbox=False), text="all", group=3)
    child = records_of(tmp_path / "in", tmp_path / "1.jsonl", LocalEngine(2, isolated=True), factory)
    here = records_of(tmp_path / "in", tmp_path / "2.jsonl", LocalEngine(1), factory)
    assert [r | {"timing": {}} for r in child.values()] == [r | {"timing": {}} for r in here.values()]
    assert all(len(record["explanation"]) > 60 for record in child.values())


def test_a_model_that_can_not_be_loaded_ends_the_batch_with_its_reason(monkeypatch):
    code = (
        "import sys; sys.argv.pop(); from vlmforensics.assistant import Assistant\n"
        "from vlmforensics.errors import WeightsUnavailable\n"
        "def load(*a, **k): raise WeightsUnavailable('no weights here')\n"
        "Assistant.load = load\nfrom vlmforensics.batch.child import main; main()"
    )
    lane = ChildLane(FACTORY, 1, 60, boot=code)
    error = lane.results.get(timeout=60)
    lane.close(now=True)
    assert isinstance(error, ModelError)
    assert "no weights here" in str(error)


def test_a_factory_survives_the_trip():
    assert LoadWorker.from_json(FACTORY.to_json()) == FACTORY


SCRIPT = """
import importlib.util
spec = importlib.util.spec_from_file_location("slow_fakes", {fakes!r})
fakes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fakes)
from vlmforensics.batch import supervised
supervised.BOOT = fakes.boot("load_slowly")
from vlmforensics.cli import app
app(["batch", {folder!r}, "--out", {out!r}, "--resume", "--no-text"])
"""


@pytest.mark.slow
def test_sigkill_at_random_moments(fakes, tmp_path):
    """Twenty kills with VLMF_TEST_KILLS=20; three here, for time's sake."""
    kills = int(os.environ.get("VLMF_TEST_KILLS", "3"))
    rng = random.Random(kills)
    folder = tmp_path / "in"
    for index in range(12):
        fakes.write(folder / f"{index:02d}.jpg", index, width=64, height=64)
    (folder / "cut.jpg").write_bytes((folder / "00.jpg").read_bytes()[:200])
    shutil.copy(folder / "03.jpg", folder / "03 copy.jpg")
    out = tmp_path / "out.jsonl"
    script = SCRIPT.format(fakes=str(fakes.__file__), folder=str(folder), out=str(out))
    done = 0
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
        while process.poll() is None and not (out.exists() and out.stat().st_size > done):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
        whole = out.read_bytes().rpartition(b"\n")[0]
        done = len(whole)
        for line in whole.splitlines():
            json.loads(line)
    assert subprocess.run([sys.executable, "-c", script], stderr=subprocess.DEVNULL).returncode == 1
    names = collections.Counter(json.loads(line)["file"] for line in out.read_text().splitlines())
    assert len(names) == 14
    assert set(names.values()) == {1}


def test_a_full_disk_is_said_and_leaves_whole_lines(tmp_path):
    """Needs a file system of its own, so root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount")
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if not mounted or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small tmpfs can't be mounted here")
    try:
        from vlmforensics.errors import CorruptImage
        from vlmforensics.report import error_record
        from vlmforensics.types import ModelInfo

        model = ModelInfo("compact", "1", "a" * 64, "b" * 64, "c" * 64)
        path = disk / "out.jsonl"
        records = [
            error_record(str(index), f"{index:064x}", CorruptImage("cut short here"), model)
            for index in range(100)
        ]
        with Ledger(path) as ledger, pytest.raises(SettingsError, match=r"No space left.*--resume"):
            collections.deque(map(ledger.append, records))
        lines = path.read_bytes()
        assert lines.endswith(b"\n")
        assert len([json.loads(line) for line in lines.splitlines()]) == ledger.count > 3
    finally:
        subprocess.run(["umount", str(disk)], check=True)
