import json

import numpy as np
import pytest

from vlmforensics.clues import catalogue
from vlmforensics.errors import ModelError, SettingsError
from vlmforensics.finetune import assess as work
from vlmforensics.finetune.annotate import Labelled
from vlmforensics.finetune.annotators import key_of
from vlmforensics.imaging import decode_trusted
from vlmforensics.vlm import ScriptedBackbone
from vlmforensics.vlm.base import YES_NO

SIGHT = "text-garbled"
"""The one clue that the backbone below sees; of any picture, favours synthetic."""


class Seer:
    """Sees one clue by brightness, says yes to one and no to all others."""

    name, weights_sha256 = "seer", "a" * 64
    capabilities = frozenset({YES_NO})

    def __init__(self):
        self.asked = 0

    def yes_no(self, pixels, questions):
        self.asked += len(questions)
        bright = float(pixels.mean()) > 127
        known = {
            catalogue()[SIGHT].question: 2.0 if bright else -1.0,
            catalogue()["glow-uniform"].question: 5.0,
        }
        return [known.get(question, -3.0) for question in questions]


@pytest.fixture
def pictures(tmp_path, fakes):
    from vlmforensics.imaging import encode

    found = []
    for n in range(12):
        label = ("real", "synthetic", "tampered")[n % 3]
        path = tmp_path / f"{n}.png"
        path.write_bytes(
            encode(np.full((16, 16, 3), 200 + n if label == "synthetic" else 20 + n, np.uint8), "PNG")
        )
        found.append(Labelled(path, label, f"s{n % 2}"))
    return found


def test_ranking_puts_what_is_seen_first_and_constants_at_chance(pictures, tmp_path):
    seer, file = Seer(), tmp_path / "a.jsonl"
    list(work.collect(seer, pictures, file))
    found = work.assess(seer, pictures, file)
    assert found.clues[0].clue == SIGHT
    assert (found.clues[0].balanced_accuracy, found.clues[0].auc, found.clues[0].n) == (1.0, 1.0, 12)
    assert found.clues[0].n_favoured == 4
    assert found.clues[0].low > 0.5
    glow = next(row for row in found.clues if row.clue == "glow-uniform")
    assert (glow.balanced_accuracy, glow.auc, glow.yes) == (0.5, 0.5, 1.0)
    assert glow.low < 0.5 < glow.high
    assert found.pictures == {"real": 4, "synthetic": 4, "tampered": 4}
    assert work.blind_clues(found) == {row.clue for row in found.clues} - {SIGHT}
    assert not any(catalogue()[row.clue].measured or not catalogue()[row.clue].favours for row in found.clues)


def test_a_run_goes_on_where_it_stopped(pictures, tmp_path):
    seer, file = Seer(), tmp_path / "a.jsonl"
    list(work.collect(seer, pictures[:5], file))
    with file.open("a") as stream:
        stream.write('{"weights": "aa')  # torn by a crash
    first = seer.asked
    list(work.collect(seer, pictures, file))
    assert seer.asked == first * 12 / 5
    list(work.collect(seer, pictures, file))
    assert seer.asked == first * 12 / 5
    assert len(file.read_text().splitlines()) == 12


def test_answers_of_other_weights_are_refused(pictures, tmp_path):
    seer, file = Seer(), tmp_path / "a.jsonl"
    list(work.collect(seer, pictures[:1], file))
    seer.weights_sha256 = "b" * 64
    with pytest.raises(SettingsError, match="other weights"):
        list(work.collect(seer, pictures, file))


def test_only_questions_that_suit_a_known_category_are_asked(pictures):
    docs = Labelled(pictures[0].image, "real", category="doc")
    asked = {clue.id for clue in work.asked_of(docs, catalogue())}
    assert "doc-fonts-mixed" in asked
    assert "fur-flow-unnatural" not in asked
    assert asked < {clue.id for clue in work.asked_of(pictures[0], catalogue())}


def test_choice_is_even_over_labels_and_sources_and_repeatable(pictures):
    chosen = work.balanced(pictures, 2, 0)
    assert [p.label for p in chosen] == ["real"] * 2 + ["synthetic"] * 2 + ["tampered"] * 2
    assert {p.source for p in chosen[:2]} == {"s0", "s1"}
    assert chosen == work.balanced(pictures, 2, 0)
    assert work.balanced(pictures, 0, 0) == pictures


def test_auc_with_interval_by_hand():
    area, low, high = work.auc(np.array([2.0, 1.0, 1.0]), np.array([1.0, 0.0]))
    assert area == pytest.approx((2 + 1.5 + 1.5) / 6)
    assert low < area < high <= 1


def test_files_written_can_be_read_and_seen(pictures, tmp_path):
    seer, file, out = Seer(), tmp_path / "a.jsonl", tmp_path / "seer.json"
    list(work.collect(seer, pictures, file))
    found = work.assess(seer, pictures, file)
    work.write_assessment(out, found)
    assert work.read_assessment(out) == found
    plot = decode_trusted(out.with_suffix(".png").read_bytes())
    assert plot.shape[0] > 600
    assert len(np.unique(plot.reshape(-1, 3), axis=0)) > 50
    record = json.loads(out.read_text())
    record["clues"][0]["auc"] = 1.5
    out.write_text(json.dumps(record))
    with pytest.raises(SettingsError, match="auc"):
        work.read_assessment(out)


def test_a_backbone_without_probabilities_is_refused():
    with pytest.raises(ModelError, match="scripted"):
        work.capable(ScriptedBackbone())


def test_one_sided_pictures_are_refused(pictures, tmp_path):
    seer, file = Seer(), tmp_path / "a.jsonl"
    real = [p for p in pictures if p.label == "real"]
    list(work.collect(seer, real, file))
    with pytest.raises(SettingsError, match="with and without"):
        work.assess(seer, real, file)


def test_unreadable_pictures_are_told(pictures, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    seer, file = Seer(), tmp_path / "a.jsonl"
    (line,) = work.collect(seer, [Labelled(tmp_path / "broken.png", "real"), pictures[0]], file)
    assert "broken.png" in line
    assert {key_of(clue) for clue in work.asked_of(pictures[0], catalogue())} == set(
        json.loads(file.read_text())["odds"]
    )


def test_the_command_assesses_a_checkpoint_folder(pictures, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from vlmforensics import vlm
    from vlmforensics.finetune.cli import app

    rows = [
        {"path": p.image.name, "label": p.label, "source": p.source, "sha256": f"{place:064x}"}
        for place, p in enumerate(pictures)
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(vlm, "load_backbone", lambda name, settings: Seer())
    done = CliRunner().invoke(
        app, ["assess", str(tmp_path), "--out", str(tmp_path / "seer.json"), "--limit", "3"]
    )
    assert done.exit_code == 0, done.output
    assert SIGHT in done.output
    assert work.read_assessment(tmp_path / "seer.json").pictures == {"real": 3, "synthetic": 3, "tampered": 3}
