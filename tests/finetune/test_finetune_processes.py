"""Two processes under ``accelerate launch`` (gloo, CPU) learn what one learns.

``--multi_gpu`` is accelerate's name for its launcher of several local processes; ``--cpu`` would start one alone.
"""

import json
import os
import socket
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from vlmforensics.finetune.recipe import load_recipe  # noqa: E402
from vlmforensics.finetune.train import CURVE, Job, train  # noqa: E402
from vlmforensics.settings import Settings  # noqa: E402


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def curve(out):
    lines = [json.loads(line) for line in (out / CURVE).read_text().splitlines()]
    return [
        (line["loss"], line["grad_norm"], line["language"], line["label"]) for line in lines if "loss" in line
    ]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tiny, lesson, tmp_path):
    changes = [
        f'base="{tiny}"', "heads.layer=-1", "optimiser.steps=3", "optimiser.accumulate=1", "saving.log_every=1",
        "saving.every=100",
    ]  # fmt: skip
    two = tmp_path / "two"
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu",
        "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1",
        "--main_process_port", str(free_port()), "-m", "vlmforensics.finetune.cli", "train",
        "--recipe", "compact-cpu", "--data", str(lesson), "--out", str(two), "--device", "cpu", "--threads", "1",
    ]  # fmt: skip
    for change in [*changes, "optimiser.batch=2"]:
        command += ["--set", change]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "ACCELERATE_CONFIG_FILE": str(tmp_path / "none.yaml")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((two / "checkpoint-3").glob("rng_state_*.pth"))) == 2, "there were two processes"
    one = tmp_path / "one"
    recipe = load_recipe("compact-cpu", [*changes, "optimiser.batch=4"])
    train(Job(recipe, lesson, one, settings=Settings(device="cpu", offline=True, threads=1)))
    assert len(curve(one)) == 3
    for mine, theirs in zip(curve(one), curve(two), strict=True):
        assert theirs == pytest.approx(mine, rel=1e-4)
