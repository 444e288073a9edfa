"""Two processes under ``accelerate launch`` (gloo, CPU) learn what one learns."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from vlmforensics.finetune.recipe import load_recipe  # noqa: E402
from vlmforensics.finetune.train import CURVE, Job, train  # noqa: E402
from vlmforensics.settings import Settings  # noqa: E402


def curve(out):
    lines = [json.loads(line) for line in (out / CURVE).read_text().splitlines()]
    return [
        (line["loss"], line["grad_norm"], line["language"], line["label"]) for line in lines if "loss" in line
    ]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tiny, lesson, tmp_path, train_in_two):
    changes = [
        f'base="{tiny}"', "heads.layer=-1", "optimiser.steps=3", "optimiser.accumulate=1", "saving.log_every=1",
        "saving.every=100",
    ]  # fmt: skip
    two = tmp_path / "two"
    train_in_two(
        "--recipe", "compact-cpu", "--data", lesson, "--out", two, "--device", "cpu", "--threads", "1",
        changes=[*changes, "optimiser.batch=2"], precision="no",
    )  # fmt: skip
    assert len(list((two / "checkpoint-3").glob("rng_state_*.pth"))) == 2, "there were two processes"
    one = tmp_path / "one"
    recipe = load_recipe("compact-cpu", [*changes, "optimiser.batch=4"])
    train(Job(recipe, lesson, one, settings=Settings(device="cpu", offline=True, threads=1)))
    assert len(curve(one)) == 3
    for mine, theirs in zip(curve(one), curve(two), strict=True):
        assert theirs == pytest.approx(mine, rel=1e-4)
