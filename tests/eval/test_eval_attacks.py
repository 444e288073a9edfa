"""Attacks on the model: each makes the file that it says, and the counts and intervals are right."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="the model extra is not installed")

from vlmforensics.errors import SettingsError
from vlmforensics.eval import attacks
from vlmforensics.eval.attacks_page import BEGIN, END, render, write_page
from vlmforensics.eval.overhead import scene
from vlmforensics.imaging import encode, open_case
from vlmforensics.settings import Settings
from vlmforensics.signals.generation import find_generation

PIXELS = scene(120, 160)
SETTINGS = Settings(sandbox=False)


class Linear(attacks.Bench):
    """A bench whose margin is the mean of the red channel: what PGD must do to it is known."""

    def __init__(self):
        self.settings = SETTINGS
        self.parts = SimpleNamespace(tokens=SimpleNamespace(look=lambda hints: [1, 2]))

    def examine(self, data, name):
        return SimpleNamespace(evidence=())

    def hints(self, report):
        return ()

    def margin(self, pixels, ids, *, both=False):
        return pixels[:, 0].mean()


@pytest.mark.parametrize(("wanted", "sign"), [("synthetic", 1), ("real", -1)])
def test_pgd_walks_to_the_edge_of_its_ball_and_no_further(wanted, sign):
    changed = Linear().pgd(PIXELS, wanted, 4, 5).astype(int) - PIXELS
    assert np.abs(changed).max() <= 4
    inside = (PIXELS[..., 0] > 4) & (PIXELS[..., 0] < 251)
    assert (changed[..., 0][inside] == sign * 4).mean() > 0.99
    assert abs(changed[..., 1].mean()) < 0.5, "what does not matter keeps its random start"


def test_forged_files_say_what_was_forged_and_show_the_same():
    jpeg = encode(PIXELS, "JPEG")
    forged = open_case(attacks.with_exif(jpeg), settings=SETTINGS)
    assert forged.container.exif["Make"] == "Camera"
    np.testing.assert_array_equal(forged.upright, open_case(jpeg, settings=SETTINGS).upright)
    forged = open_case(attacks.with_parameters(encode(PIXELS, "PNG")), settings=SETTINGS)
    assert find_generation(forged.container)[0].code == "sd-parameters"
    np.testing.assert_array_equal(forged.upright, PIXELS)


def test_text_and_photographed_screens_change_pixels_alone():
    for made in (attacks.with_text(PIXELS, attacks.COMMAND), attacks.rephotographed(PIXELS)):
        assert made.shape == PIXELS.shape
        assert made.dtype == np.uint8
        assert (made != PIXELS).any()
    written = attacks.with_text(PIXELS, attacks.COMMAND)
    assert (written[: int(0.8 * 120)] == PIXELS[: int(0.8 * 120)]).all()
    assert len(attacks.COMMAND) == len(attacks.NEUTRAL), "so that only the meaning differs"


def test_every_listed_attack_makes_a_file():
    for attack in attacks.attacks(Linear(), (2,), 1):
        case = open_case(attack.make(PIXELS, "real"), settings=SETTINGS)
        assert case.upright.shape == PIXELS.shape, attack.name


def figures(head, fused, verdict):
    return {"head": head, "whole": None, "fused": fused, "verdict": verdict}


def row(attack, label, before, after, **more):
    wanted = "real" if label == "synthetic" else "synthetic"
    return {"attack": attack, "label": label, "wanted": wanted, "before": before, "after": after, **more}


def test_counts_and_shifts_are_towards_what_the_attacker_wants():
    before = figures(1.0, 2.0, "synthetic")
    rows = [
        row("x", "synthetic", before, figures(-1.0, -0.5, "real"), jittered=0.2),
        row("x", "synthetic", before, figures(0.5, 1.5, "inconclusive"), jittered=0.4),
        row("x", "real", figures(-1, -1, "real"), figures(-2, -2, "real"), jittered=-2.0),
    ]
    found = attacks.summary("x", "synthetic", rows)
    assert found["n"] == 2
    assert found["head shift"]["mean"] == pytest.approx((2.0 + 0.5) / 2)
    assert found["head turned"]["count"] == 1
    assert found["fused turned"]["count"] == 1
    assert found["verdict as wanted"]["count"] == found["inconclusive"]["count"] == 1
    assert found["head turned, random crops"]["count"] == 0
    assert found["whole turned"]["n"] == 0
    low, high = found["head turned"]["interval"]
    assert 0 < low < 0.5 < high < 1
    assert attacks.summary("x", "real", rows)["head shift"]["mean"] == pytest.approx(-1.0)


def test_a_command_counts_beyond_neutral_text():
    before = figures(0, 0, "real")
    rows = [
        row("text that commands", "real", before, figures(-1.0, 0, "real")),
        row("text that does not", "real", before, figures(-0.25, 0, "real")),
    ]
    assert attacks.text_effect(rows)["mean"] == pytest.approx(0.75)


def test_pictures_come_from_different_sources():
    many = [
        SimpleNamespace(label=label, source=f"s{i % 5}", n=i)
        for label in ("real", "synthetic")
        for i in range(40)
    ]
    chosen = attacks.choose(many, 5, 0)
    for label in ("real", "synthetic"):
        assert len({p.source for p in chosen if p.label == label}) == 5
    with pytest.raises(SettingsError, match="fewer"):
        attacks.choose(many, 50, 0)


def test_the_page_keeps_what_is_written_by_hand(tmp_path):
    rows = [
        row("x", label, figures(1, 1, "real"), figures(-1, -1, "real"), jittered=1.0)
        for label in ("real", "synthetic")
    ]
    result = {
        "pictures": 2, "steps": 1, "model": {"backbone": "a" * 64}, "calibration": "b" * 64,
        "table": [attacks.summary("x", label, rows) for label in ("synthetic", "real")],
        "text": {"n": 0, "mean": 0.0, "low": 0.0, "high": 0.0},
    }  # fmt: skip
    (tmp_path / "f.json").write_text(json.dumps(result))
    page = tmp_path / "attacks.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_page(tmp_path / "f.json", page)
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("\nafter\n")
    assert "old" not in page.read_text()
    assert render(result) in page.read_text()
