"""Stored predictions in, figures and a report out: a broken model is exposed, a good one is not accused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from vlmforensics.errors import SettingsError
from vlmforensics.eval import score as figures
from vlmforensics.eval.report import write
from vlmforensics.eval.report.words import verdict_lines
from vlmforensics.eval.run import Plan, write_plan
from vlmforensics.eval.samples import Sample

TRUTH = ["real", "synthetic", "tampered"] * 40


def probabilities(strength, seed=0):
    """Posteriors of a calibrated model that sees the truth through Gaussian noise, float (n, 3)."""
    rng = np.random.default_rng(seed)
    own = np.array([["real", "synthetic", "tampered"].index(label) for label in TRUTH])
    seen = strength * np.eye(3)[own] + rng.normal(size=(len(TRUTH), 3))
    logits = strength * seen
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def scored(folder):
    return figures.rounded(figures.score(folder, unseen=True))


def reported(folder):
    figures.save(figures.score(folder, unseen=True), folder / figures.RESULTS)
    return write(folder)


def test_a_good_model_raises_no_alarm(stored):
    result = scored(stored(TRUTH, probabilities(3.0)))
    assert result["alarms"] == []
    table = result["conditions"]["equalised"]
    assert table["detection"]["synthetic"]["auc"]["value"] > 0.95
    assert table["labels"]["balanced_accuracy"]["low"] < table["labels"]["balanced_accuracy"]["value"]
    aims = {aim["figure"]: aim for aim in result["aims"]}
    assert aims["ece"]["reached"]
    assert aims["coverage"]["reached"]
    assert aims["right_of_decided"]["reached"]


def test_a_constant_model_is_exposed(stored):
    result = scored(stored(TRUTH, np.tile([0.5, 0.3, 0.2], (len(TRUTH), 1))))
    text = " ".join(result["alarms"])
    assert "does not look at the picture" in text
    assert "same verdict (real)" in text
    assert "better than chance" in text
    assert result["conditions"]["equalised"]["detection"]["tampered"]["auc"]["value"] == 0.5


def test_a_random_model_is_exposed(stored):
    p = np.random.default_rng(1).dirichlet(np.ones(3), len(TRUTH))
    result = scored(stored(TRUTH, p))
    assert sum("better than chance" in alarm for alarm in result["alarms"]) == 2
    assert any("Cllr" in alarm for alarm in result["alarms"])
    missed = {aim["figure"] for aim in result["aims"] if not aim["reached"]}
    assert {"ece", "right_of_decided", "false_accusations"} <= missed


def test_swapped_labels_are_exposed(stored):
    result = scored(stored(TRUTH, probabilities(3.0)[:, [1, 0, 2]]))
    text = " ".join(result["alarms"])
    assert "wrong way round" in text
    assert "in another order" in text
    assert any(line.startswith("ALARM") for line in verdict_lines(result))


def test_swapping_the_two_manipulations_is_exposed(stored):
    result = scored(stored(TRUTH, probabilities(3.0)[:, [0, 2, 1]]))
    assert any("in another order" in alarm for alarm in result["alarms"])


def test_aims_that_are_missed_stand_at_the_top(stored, tmp_path):
    said = ["inconclusive"] * (len(TRUTH) - 4) + ["real", "synthetic", "tampered", "synthetic"]
    folder = stored(TRUTH, probabilities(1.0), said)
    result = reported(folder)
    aims = {aim["figure"]: aim for aim in result["aims"]}
    assert not aims["coverage"]["reached"]
    assert aims["coverage"]["count"] == 4
    page = (folder / "report.html").read_text()
    assert page.index("Not reached") < page.index("Condition:")
    assert "decided" in page[page.index("Not reached") : page.index("</p>", page.index("Not reached"))]
    assert (folder / "report.md").read_text().index("Not reached") < 400


def test_a_page_needs_nothing_from_elsewhere(stored):
    folder = stored(TRUTH, probabilities(2.0))
    reported(folder)
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("<svg") >= 4
    assert "data:image" not in page


def test_names_of_files_are_not_markup(stored, record, tmp_path):
    nasty = "<img src=x onerror=alert(1)>|`*.png"
    out = tmp_path / "nasty"
    samples = [
        Sample(nasty, Path("a.png"), "real", "<b>s</b>", "f"),
        Sample("b.png", Path("b.png"), "synthetic", "t", "g"),
    ]
    write_plan(out, Plan("shared", "stored", 0, ("as-found",)), samples)
    rows = [
        record(
            f"as-found/{nasty}",
            [0.1, 0.8, 0.1],
            "synthetic",
            [],
            {"explanation": "<script>alert(2)</script>"},
        ),
        record("as-found/b.png", [0.1, 0.8, 0.1], "synthetic", [], {}),
    ]
    (out / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reported(out)
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert "<img src=x" not in page
    assert "<img" not in text.replace("\\<img", "")
    assert "<script>" not in page
    assert "&lt;b&gt;s&lt;/b&gt;" in page


def test_scoring_repeats_to_the_byte(stored):
    folder = stored(TRUTH, probabilities(1.5))
    reported(folder)
    first = [(folder / name).read_bytes() for name in ("results.json", "report.html", "report.md")]
    reported(folder)
    assert first == [(folder / name).read_bytes() for name in ("results.json", "report.html", "report.md")]


def test_two_label_sets_are_scored_with_two_labels(stored):
    truth = ["real", "fake"] * 30
    fake = np.tile([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6]], (30, 1))
    table = scored(stored(truth, fake))["conditions"]["equalised"]
    assert table["binary"]["accuracy"]["value"] == 1.0
    assert table["selective"]["right_of_decided"]["count"] == 60
    assert "calibration" not in table


def test_a_tie_of_the_odds_is_at_two_thirds_fake(stored):
    # three labels with equal priors: real against the rest is even where real has a third
    result = scored(stored(["real", "fake"] * 4, [[0.34, 0.33, 0.33], [0.32, 0.34, 0.34]] * 4))
    assert result["conditions"]["equalised"]["binary"]["accuracy"]["value"] == 1.0


def test_figures_that_are_not_defined_are_null(stored):
    folder = stored(["real"] * 8, [[0.6, 0.2, 0.2]] * 8)
    result = scored(folder)
    assert result["conditions"]["equalised"]["detection"] == {}
    assert result["conditions"]["equalised"]["binary"]["auc"]["value"] is None
    assert all(math.isfinite(aim["value"]) for aim in result["aims"])


def test_nothing_to_score(tmp_path, stored):
    with pytest.raises(SettingsError, match="eval run"):
        figures.score(tmp_path)
    with pytest.raises(SettingsError, match="nothing to score"):
        figures.score(stored(["real"], None, records=[]))


def test_literature_is_marked_with_its_source(stored):
    result = scored(stored(TRUTH, probabilities(2.0)))
    assert {"FakeVLM (7B)", "SIDA-7B", "TruFor", "people"} <= {row["system"] for row in result["literature"]}
    assert all(row["source"] for row in result["literature"])
