"""Ratios of the batch benchmark: which are aimed at, and what stands in each."""

import json

import pytest

from vlmforensics.eval import throughput
from vlmforensics.eval.throughput import Ratio
from vlmforensics.settings import Settings


def test_a_ratio_without_an_aim_neither_holds_nor_misses(tmp_path):
    told = Ratio("a", 1.2, None, True, 8, "x")
    assert told.holds is None
    assert str(told) == "a: 1.20 (n = 8; x)"
    throughput.save([told], tmp_path / "ratios.json")
    (row,) = json.loads((tmp_path / "ratios.json").read_text())
    assert (row["target"], row["holds"]) == (None, None)


def test_a_batch_is_held_to_one_at_a_time_as_the_command_does_it(fakes, tmp_path, monkeypatch):
    for index in range(3):
        fakes.write(tmp_path / f"{index}.jpg", index)
    assistant = fakes.make()
    monkeypatch.setattr(throughput.Assistant, "load", lambda *_, **__: assistant)
    ran = []

    def batch(jobs, settings, engine):
        ran.append(engine)
        chances = {job.file: dict(assistant.examine(job.path).probabilities) for job in jobs}
        return throughput._Run(1e-9, chances)

    monkeypatch.setattr(throughput, "_batch", batch)
    found = {
        ratio.name: ratio
        for ratio in throughput.measure(tmp_path, Settings(sandbox=False), pictures=3, ray=False)
    }
    only = found["batch of verdicts against one at a time, verdicts only"]
    ready = found["batch of verdicts against one at a time as `examine` does it, ready to explain"]
    assert (only.target, ready.target, ready.at_least) == (None, 1.5, True)
    assert ready.holds
    assert found["largest difference of a probability"].value == pytest.approx(0)
    assert ran == ["local"]
    assert set(assistant.backbone.looks) == {False, True}
