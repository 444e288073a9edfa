"""The narrator learns the texts that pass the check, and nothing else of the model moves."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from vlmforensics.assistant import Assistant
from vlmforensics.compact import layout, shipped
from vlmforensics.compact.backbone import CompactBackbone
from vlmforensics.compact.forward import core_of
from vlmforensics.errors import SettingsError
from vlmforensics.finetune import compact_narrator as narrator
from vlmforensics.finetune.compact_narrator import Lesson, NarratorRecipe
from vlmforensics.finetune.pictures import Picture
from vlmforensics.settings import load_settings
from vlmforensics.types import LABELS

KEPT = np.arange(12)
SAID = ("The noise residual [E1] speaks for tampering.", "The block grid [E2] says nothing of it.")


def picture(tmp_path, number, label, source):
    return Picture(tmp_path / f"{number}.png", label, source, "", None, f"{number:02x}" * 32, "", "gen")


def lesson(seed=0):
    rng = np.random.default_rng(seed)
    patches = rng.normal(0, 0.3, (layout.GRID**2, len(layout.FEATURE_LAYERS) * layout.TOWER_WIDTH))
    replies = tuple(
        (f"This is tampered ({part} %).", text) for part, text in zip((80, 81), SAID, strict=True)
    )
    return Lesson(patches.astype(np.float16), (1.0, -1.0), ("A hint.",), "Findings: noise, grid.", replies)


@pytest.fixture(scope="module")
def settings():
    return load_settings()


def test_lessons_are_drawn_from_all_labels_and_sources(tmp_path):
    known = [
        picture(tmp_path, number, label, source)
        for number, (label, source) in enumerate(
            [("real", "a")] * 20 + [("real", "b")] * 3 + [("synthetic", "c")] * 9 + [("tampered", "d")] * 2
        )
    ]
    drawn = narrator.drawn(known, 11)
    assert len({p.sha256 for p in drawn}) == 11
    assert [sum(p.label == label for p in drawn) for label in LABELS] == [5, 4, 2]
    assert sum(p.source == "b" for p in drawn) == 2
    assert drawn[:6] == narrator.drawn(known, 6)


@pytest.mark.model
def test_the_loss_is_that_of_the_whole_text_read_at_once(settings):
    parts = shipped.load_parts(settings)
    one = lesson()
    tokens, core = parts.tokens, core_of(parts.model)
    with torch.no_grad():
        found = narrator.loss_of(parts, one, one.replies[0][0], SAID, np.arange(layout.GRID**2))
        each = []
        added = parts.readings(torch.tensor([one.told]))
        for text in SAID:
            asked = [*tokens.look(one.hints), *tokens.instruct(one.instruction, one.replies[0][0])]
            said = [*tokens.text(f" {text}"), tokens.turn_end]
            ids = torch.tensor([asked + said])
            patches = torch.from_numpy(one.patches)[None].float()
            embeddings = narrator.embed(parts.model, patches, ids, (tokens.cls, added))
            states = core.model.language_model(inputs_embeds=embeddings).last_hidden_state
            logits = core.lm_head(states[0, len(asked) - 1 : -1])
            each.append(torch.nn.functional.cross_entropy(logits, torch.tensor(said), reduction="none"))
    assert float(found) == pytest.approx(float(torch.cat(each).mean()), abs=1e-4)


@pytest.mark.model
@pytest.mark.slow
def test_it_learns_goes_on_where_it_stopped_and_leaves_the_label_alone(settings, tmp_path, monkeypatch):
    recipe = NarratorRecipe(epochs=3, texts=2, kept_tokens=12, rate=2e-3)
    monkeypatch.setattr(narrator, "SAVE_EVERY", 1)
    lessons = [lesson(0), lesson(1)]
    whole = narrator.train(
        narrator.untaught(shipped.DATA, settings), lessons, recipe, tmp_path / "a", resume=False
    )
    curve = json.loads((tmp_path / "a/curve.json").read_text())
    assert len(curve) == 6
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]

    class Killed(Exception):
        pass

    steps = iter(range(100))
    loss_of = narrator.loss_of

    def dies(*args):
        if next(steps) == 3:
            raise Killed
        return loss_of(*args)

    monkeypatch.setattr(narrator, "loss_of", dies)
    with pytest.raises(Killed):
        narrator.train(
            narrator.untaught(shipped.DATA, settings), lessons, recipe, tmp_path / "b", resume=True
        )
    monkeypatch.setattr(narrator, "loss_of", loss_of)
    resumed = narrator.train(
        narrator.untaught(shipped.DATA, settings), lessons, recipe, tmp_path / "b", resume=True
    )
    assert all(torch.allclose(whole[key], resumed[key], atol=1e-5) for key in whole)
    reworded = [replace(lesson, instruction=f"{lesson.instruction} Be brief.") for lesson in lessons]
    slower = replace(recipe, rate=1e-3)
    for learned, other, start in (
        (lessons, slower, None),
        (reworded, recipe, None),
        (lessons, recipe, whole),
    ):
        parts = narrator.untaught(shipped.DATA, settings)
        with pytest.raises(SettingsError, match="other settings"):
            narrator.train(parts, learned, other, tmp_path / "b", resume=True, start=start)

    assert all(map(narrator.is_narrators, whole))
    # what goes on begins where it left off: with the narrator once, not on top of itself
    more = replace(recipe, rate=0.0, epochs=1)
    parts = narrator.untaught(shipped.DATA, settings)
    narrator.train(parts, lessons, more, tmp_path / "c", resume=False, start=whole)
    onward = json.loads((tmp_path / "c/curve.json").read_text())
    assert onward[0]["loss"] < 0.7 * curve[0]["loss"]
    parts = narrator.with_narrator(shipped.DATA, whole, settings)
    shipped.save_shipped(tmp_path / "out", parts, version="9", training={}, settings=settings)
    before, after = shipped.load(settings), shipped.load(settings, tmp_path / "out")
    pixels = shipped.fixed_picture()
    looks = [model.look(pixels, one.hints) for model, one in zip((before, after), lessons, strict=True)]
    assert looks[0].log_probs == pytest.approx(looks[1].log_probs, abs=1e-4)
    assert _loss(after, lessons[0]) < 0.7 * _loss(before, lessons[0])


def _loss(backbone: CompactBackbone, one: Lesson) -> float:
    with torch.no_grad():
        return float(narrator.loss_of(backbone.parts, one, one.replies[0][0], SAID, KEPT))


@pytest.mark.model
@pytest.mark.slow
def test_a_lesson_is_what_the_narrator_gets_in_use(settings, tmp_path):
    from skimage import data

    from vlmforensics.imaging import encode

    (tmp_path / "cat.png").write_bytes(encode(np.ascontiguousarray(data.chelsea()), "PNG"))
    (tmp_path / "no.png").write_bytes(b"no picture")
    known = [picture(tmp_path, 1, "synthetic", "a"), picture(tmp_path, 2, "synthetic", "b")]
    known = [replace(p, path=tmp_path / name) for p, name in zip(known, ("cat.png", "no.png"), strict=True)]
    assistant = Assistant.load(settings=settings)
    recipe = NarratorRecipe(replies=3)
    lines = list(narrator.fill(tmp_path / "l", assistant, known, {p.sha256: [] for p in known}, recipe))
    assert any("no.png" in line for line in lines)
    (one,) = narrator.read(tmp_path / "l", known)
    assert one.patches.shape == (256, 1536)
    assert 1 <= len(one.replies) <= 3
    assert one.hints
    assert "The result is settled" in one.instruction
    # a second call examines nothing again, and other texts would need another folder
    assert list(narrator.fill(tmp_path / "l", assistant, known[:1], {}, recipe))
    with pytest.raises(SettingsError):
        list(narrator.fill(tmp_path / "l", assistant, known[:1], {}, replace(recipe, seed=5)))
    told = narrator.validate(assistant, known, tmp_path)
    assert told.pictures == 1
    lines = [json.loads(line) for line in (tmp_path / "sentences.jsonl").read_text().splitlines()]
    assert told.sentences == len(lines) == told.passed + sum(told.problems.values())
    assert told.passed == sum(not line["problem"] for line in lines)
