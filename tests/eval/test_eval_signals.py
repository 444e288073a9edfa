"""Figures of the sources: made readings give known figures, and a small folder goes through all steps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vlmforensics.errors import SettingsError
from vlmforensics.eval import signals
from vlmforensics.finetune.pictures import load_manifest
from vlmforensics.imaging import encode
from vlmforensics.types import Box, Evidence, Region


def row(
    index: int, label: str, score: float, *, iou: float | None = None, drawn: bool = False, kind: str = ""
):
    reading = {"score": score, "vector": [], "code": "", "drawn": drawn, "iou": iou}
    return signals.Row(f"{label}{index}", label, f"family{index % 40}", kind, {"copy_move": reading})


def test_figures_of_a_perfect_and_of_a_silent_source():
    rows = [row(i, "real", i / 100) for i in range(40)]
    rows += [row(i, "tampered", 1 + i / 100, iou=0.5 if i < 30 else 0.1, drawn=True) for i in range(40)]
    rows += [signals.Row("other", "real", "family0", "", {})]
    figures = signals.figures(rows)["sources"]["copy_move"]
    assert figures["auc"]["value"] == 1
    assert figures["reliability"]["value"] == 1
    assert figures["reliability"]["n"] == 80
    assert (figures["coverage"]["count"], figures["coverage"]["n"]) == (80, 81)
    assert (figures["located"]["count"], figures["located"]["n"]) == (30, 40)
    assert figures["drawn on real"]["count"] == 0


def test_a_source_that_guesses_is_reported_as_guessing():
    rng = np.random.default_rng(0)
    rows = [row(i, label, float(rng.normal())) for label in ("real", "tampered") for i in range(200)]
    figures = signals.figures(rows)["sources"]["copy_move"]
    assert figures["auc"]["low"] < 0.5 < figures["auc"]["high"]
    assert abs(figures["reliability"]["value"] - 0.5) < 0.08


def test_vector_is_read_by_the_other_half_only():
    rng = np.random.default_rng(1)

    def speak(index: int, label: str, vector: list[float]):
        reading = {"score": 0.0, "vector": vector, "code": "", "drawn": False, "iou": None}
        return signals.Row(f"{label}{index}", label, f"family{index % 6}", "", {"texture_contrast": reading})

    noise = [
        speak(i, label, rng.normal(size=30).tolist()) for label in ("real", "synthetic") for i in range(60)
    ]
    told = signals.figures(noise)["sources"]["texture_contrast"]["auc"]["value"]
    assert 0.3 < told < 0.7, "a model that judged its own training pictures would be near 1"


def test_copy_move_counts_copies_and_alarms():
    rows = [row(i, "tampered", 2.0, iou=0.8 if i < 3 else 0.0, kind="copy-move") for i in range(4)]
    rows += [row(9, "tampered", 2.0, iou=0.9, kind="splice")]
    rows += [row(i, "real", 0.1, drawn=i == 0) for i in range(10)]
    found = signals.copy_move(rows)
    assert (found["found"]["count"], found["found"]["n"]) == (3, 4)
    assert (found["false_alarms"]["count"], found["false_alarms"]["n"]) == (1, 10)
    assert found["alarms_on"] == ["real0"]


def test_overlap_by_box_and_of_nothing():
    truth = np.zeros((10, 10), bool)
    truth[:5] = True
    assert signals.overlap(Region(Box(0, 0, 10, 10)), truth) == 0.5
    assert signals.overlap(None, truth) == 0


class Witness:
    name, version, cost = "copy_move", "1", "nothing"

    def examine(self, case):
        mask = np.zeros(case.upright.shape[:2], bool)
        mask[:8] = True
        return [Evidence(self.name, "Made for 1 test.", score=1.0, region=Region(Box(0, 0, 32, 8), mask))]


@pytest.fixture
def folder(tmp_path):
    """A copy-move picture, whose masks mark rows 0–4 as target and 4–8 as source, and its original."""
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    masks = {"a.mask.png": slice(0, 4), "a.mask_source.png": slice(4, 8)}
    for name, rows in masks.items():
        drawn = np.zeros((32, 32), np.uint8)
        drawn[rows] = 255
        (tmp_path / name).write_bytes(encode(np.repeat(drawn[..., None], 3, 2), "PNG"))
    lines = []
    for index, (label, mask) in enumerate((("tampered", "a.mask.png"), ("real", None))):
        (tmp_path / f"{label}.png").write_bytes(encode(noise, "PNG"))
        lines.append(
            {
                "path": f"{label}.png",
                "label": label,
                "source": "made",
                "sha256": str(index),
                "mask": mask,
                "manipulation": "copy-move" if mask else None,
            }
        )
    (tmp_path / "manifest.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return tmp_path


def test_examine_goes_on_where_it_ended(folder):
    pictures = signals.choose(load_manifest(folder), 5, 5)
    assert [p.label for p in pictures] == ["tampered", "real"]
    file = folder / "seen.jsonl"
    for _ in range(2):
        assert list(signals.examine(pictures, folder, file, [Witness()])) == []
    rows = signals.read_rows(file)
    assert len(rows) == 2
    assert rows[0].readings["copy_move"]["iou"] == 1, "source and target both count"
    assert signals.copy_move(rows)["found"]["count"] == 1


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_examining_goes_on_after_a_torn_line(folder, cut):
    pictures = signals.choose(load_manifest(folder), 5, 5)
    file = folder / "seen.jsonl"
    list(signals.examine(pictures, folder, file, [Witness()]))
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole[:-cut], encoding="utf-8")
    list(signals.examine(pictures, folder, file, [Witness()]))
    assert file.read_text(encoding="utf-8") == whole


def test_page_is_written_between_its_marks(folder):
    file = folder / "signals.md"
    file.write_text(f"before\n{signals.BEGIN}\nold\n{signals.END}\nafter\n", encoding="utf-8")
    result = signals.figures([row(i, label, i) for label in ("real", "tampered") for i in range(12)])
    signals.write_page(result | {"cost": {"sources": {"copy_move": 2.0}, "tower": {"look": 1.5}}}, file)
    text = file.read_text(encoding="utf-8")
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| `copy_move` |" in text
    assert "| all together | 2.0 |" in text
    file.write_text("no marks", encoding="utf-8")
    with pytest.raises(SettingsError, match="has no lines"):
        signals.write_page(result, file)


def test_foreign_observations_are_refused(folder):
    file = folder / "seen.jsonl"
    file.write_text('{"something": "else"}\n', encoding="utf-8")
    with pytest.raises(SettingsError, match="delete it"):
        signals.read_rows(file)


def test_only_named_sources_and_no_unknown_ones(folder):
    file = folder / "seen.jsonl"
    assert list(signals.measure(folder, file, 5, 5, "jpeg_tables, thumbnail")) == []
    assert [row.readings for row in signals.read_rows(file)] == [{}, {}], "neither speaks of a small PNG"
    with pytest.raises(SettingsError, match="no source is named guess"):
        list(signals.measure(folder, file, 5, 5, "guess"))
