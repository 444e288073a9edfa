"""What a soak looks at, and when it calls it flat."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from pathlib import Path

import pytest

from vlmforensics.errors import Defect, SettingsError
from vlmforensics.eval import soak
from vlmforensics.eval.soak import Sample, flatness


def run_of(memory, handles=(20,), count=40):
    return [
        Sample(
            float(i),
            memory[min(i * len(memory) // count, len(memory) - 1)],
            handles[i * len(handles) // count],
            9,
            1,
        )
        for i in range(count)
    ]


def test_a_start_that_fills_caches_is_flat_and_a_leak_is_not():
    assert all(row["flat"] for row in flatness(run_of([100, 500, 510, 505])).values())
    assert not flatness(run_of([100, 500, 550, 600]))["mib"]["flat"]
    assert not flatness(run_of([500], [20, 20, 40, 60]))["handles"]["flat"]


def test_few_samples_say_nothing():
    with pytest.raises(SettingsError, match="too few"):
        flatness(run_of([1], count=5))


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="reads /proc")
def test_a_sample_sees_files_and_threads(tmp_path):
    before = soak.sample(os.getpid(), 0.0)
    gate = threading.Event()
    held = [(tmp_path / str(i)).open("w") for i in range(7)]
    threads = [threading.Thread(target=gate.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    during = soak.sample(os.getpid(), 0.0)
    gate.set()
    for file in held:
        file.close()
    assert during.handles == before.handles + 7
    assert during.threads >= before.threads + 3
    assert during.mib > 10
    with pytest.raises(SettingsError, match="Linux"):
        soak.sample(2**31, 0.0)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"verdict": "real", "error": None, "explanation": "x"}, ("judged", "lost")),
        ({"verdict": None, "error": {"type": "CorruptImage"}, "explanation": None}, ("lost", "refused")),
    ],
)
def test_requests_are_lost_where_the_answer_is_the_wrong_one(record, said, tmp_path, monkeypatch):
    traffic = soak._Traffic("", tmp_path, threading.Event(), 0)
    monkeypatch.setattr(traffic, "_examine", lambda *_, **__: record)
    rng = random.Random(0)
    good, bad = said
    assert traffic._small(None, rng).startswith(good)
    assert traffic._damaged(None, rng).startswith(bad)
    assert traffic._no_picture(None, rng).startswith(bad)


def test_an_answer_about_another_picture_is_noticed(tmp_path):
    """Ten users at once must each get their own; the record names the bytes that it is about."""

    class Client:
        def submit(self, handle, text, api_name):
            return self

        def result(self, timeout):
            return {"sha256": self.sha256, "verdict": "real", "error": None}

    client = Client()
    traffic = soak._Traffic("", tmp_path, threading.Event(), 0)
    for sha256 in (hashlib.sha256(b"mine").hexdigest(), None):
        client.sha256 = sha256
        assert traffic._examine(client, "a.png", b"mine")["verdict"] == "real"
    client.sha256 = hashlib.sha256(b"yours").hexdigest()
    with pytest.raises(Defect, match="another picture"):
        traffic._examine(client, "a.png", b"mine")
