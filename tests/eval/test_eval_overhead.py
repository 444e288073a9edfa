"""The measurement of what protection costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmforensics.errors import SettingsError
from vlmforensics.eval import overhead


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
