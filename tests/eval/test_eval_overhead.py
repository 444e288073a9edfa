"""The measurement of what protection costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vlmforensics.errors import SettingsError, WeightsUnavailable
from vlmforensics.eval import overhead
from vlmforensics.imaging import encode, open_case
from vlmforensics.settings import Settings
from vlmforensics.signals import load_sources
from vlmforensics.signals.cfa import ColourFilterArray


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="reads processor time from /proc")
def test_both_processes_are_counted(monkeypatch):
    monkeypatch.setattr(overhead, "ROUNDS", 2)
    found = overhead.sandbox_ratio(400, 400)
    assert found["inside"] > 0
    assert found["start"] > 0, "a Python process does not start for nothing"
    assert found["ratio"] == pytest.approx(found["outside"] / found["inside"])


def test_a_system_without_proc_is_said_so():
    with pytest.raises(SettingsError, match="Linux"):
        overhead.processor_seconds(2**31)


@pytest.mark.parametrize("size", [(300, 400), (301, 399)])
def test_the_photograph_is_what_a_camera_would_write(size):
    picture = overhead.photograph(*size)
    assert picture.shape == (*size, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, overhead.photograph(*size))
    assert not np.array_equal(picture, overhead.photograph(*size, seed=1))
    red, blue = picture[..., 0].mean(), picture[..., 2].mean()
    assert red > 1.1 * blue, "the four photographs are warm: the mosaic's colours are not exchanged"
    case = open_case(encode(picture, "PNG"), settings=Settings(sandbox=False))
    assert "cfa_part" in [evidence.source for evidence in ColourFilterArray().examine(case)]


def test_every_source_and_the_towers_have_a_ratio(monkeypatch):
    monkeypatch.setattr(overhead, "REPEATS", 1)
    monkeypatch.setattr(overhead, "tower_passes", lambda pixels: {"tower": lambda: sorted(range(1000))})
    found = overhead.costs(200, 280)
    assert set(found.sources) == {source.name for source in load_sources()}
    assert found.sources["copy_move"] > 0
    assert found.total == pytest.approx(sum(found.sources.values()))
    assert found.allowed == pytest.approx(overhead.BUDGET + found.tower["tower"])
    assert "the towers' pass =" in found.lines()[-1]


@pytest.mark.parametrize(("signal", "word"), [(3.0, "kept"), (9.0, "exceeded")])
def test_the_budget_is_compared_with_the_total(signal, word):
    costs = overhead.Costs({"noise": signal, "cfa": 1.0}, {"tower": 2.0})
    assert costs.lines()[-1] == f"budget: 6 + the towers' pass = 8.00; {word}"


def test_without_weights_the_towers_are_left_out(monkeypatch, caplog):
    pytest.importorskip("torch")

    def missing():
        raise WeightsUnavailable("no weights here")

    monkeypatch.setattr("vlmforensics.compact.assembly.build_base", missing)
    assert overhead.tower_passes(np.zeros((300, 300, 3), np.uint8)) == {}
    assert "no weights here" in caplog.text
    assert "not measured here" in overhead.Costs({}, {}).lines()[-1]
