"""The ablation tells a model that repeats its hints from one that looks."""

import math

import pytest

pytest.importorskip("torch")

from vlmforensics.errors import SettingsError
from vlmforensics.finetune.hint_ablation import ablate
from vlmforensics.finetune.samples import read_samples
from vlmforensics.types import LABELS
from vlmforensics.vlm.base import Look


class Scripted:
    """Says a label by a rule of pixels and hints."""

    name = "scripted"

    def __init__(self, rule):
        self.rule = rule

    def look(self, pixels, hints=(), *, for_text=True):
        said = self.rule(pixels, hints)
        if said is None:
            return Look(None)
        return Look(tuple(math.log(0.8 if label == said else 0.1) for label in LABELS))


@pytest.fixture(scope="module")
def hinted(lesson):
    return [
        sample.model_copy(update={"hints": (f"A detector says {sample.label}.",)})
        for sample in read_samples(lesson)
    ]


def looks(pixels, hints):
    if pixels.std() < 5:
        return "synthetic"
    return "tampered" if (pixels[12:38, 22:48] == 255).all() else "real"


def repeats(pixels, hints):
    return hints[0].split()[-1].rstrip(".") if hints else "real"


def test_a_model_that_looks_is_not_moved(hinted):
    found = ablate(Scripted(looks), hinted)
    assert found["n"] == 12
    assert [found[way]["balanced_accuracy"] for way in ("own", "none", "foreign")] == [1, 1, 1]
    assert (found["followed"], found["moved"]) == (0, 0)


def test_a_model_that_repeats_its_hints_is_found_out(hinted):
    found = ablate(Scripted(repeats), hinted)
    assert found["own"]["balanced_accuracy"] == 1
    assert found["none"]["balanced_accuracy"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["foreign"]["balanced_accuracy"] == 0
    assert found["foreign"]["log_loss"] == pytest.approx(-math.log(0.1), abs=1e-3)
    assert found["followed"] > 0.3
    assert ablate(Scripted(repeats), hinted, seed=0) == found


def test_an_ablation_needs_hints_and_an_opinion(hinted):
    bare = [sample.model_copy(update={"hints": ()}) for sample in hinted]
    with pytest.raises(SettingsError, match="needs samples with hints"):
        ablate(Scripted(looks), bare)
    with pytest.raises(SettingsError, match="no opinion"):
        ablate(Scripted(lambda pixels, hints: None), hinted)
