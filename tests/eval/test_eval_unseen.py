"""Out-of-fold verdicts of the shipped model, stored and scored as a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmforensics.eval import score, unseen
from vlmforensics.eval.card import stored_evidence
from vlmforensics.eval.report import write
from vlmforensics.finetune.calibrate import Row
from vlmforensics.finetune.pictures import Picture
from vlmforensics.fusion import Example, Reading, judge


@pytest.fixture
def rows():
    """Two families a label; brightness speaks for the label, faintly."""
    found = []
    for place, (label, level) in enumerate((("real", 0.1), ("synthetic", 0.5), ("tampered", 0.9)) * 6):
        path = Path("/data") / label / f"{place}.jpg"
        picture = Picture(path, label, f"site{place % 2}_{label}", "", None, f"{place:064d}", "", "data")
        example = Example(label, picture.family, {"brightness": Reading(level)})
        found.append(Row(picture, "equalised", example))
    return found


def test_stored_verdicts_are_those_of_the_judge(fakes, rows, tmp_path):
    calibration = fakes.calibration()
    out = tmp_path / "unseen"
    for _ in range(2):  # a second time replaces the first
        unseen.store(out, Path("/data"), {"equalised": rows}, lambda row: calibration)
    result = score.score(out, unseen=True)
    assert result["conditions"]["equalised"]["n"] == {"real": 6, "synthetic": 6, "tampered": 6}
    assert result["conditions"]["equalised"]["detection"]["tampered"]["auc"]["value"] == 1.0
    said = [judge(stored_evidence(row), calibration)[1].label for row in rows]
    decided = sum(label != "inconclusive" for label in said)
    assert result["conditions"]["equalised"]["selective"]["coverage"]["count"] == decided
    assert result["unseen"]
    score.save(result, out / score.RESULTS)
    write(out)
    assert "not declared unseen" not in (out / "report.html").read_text()
