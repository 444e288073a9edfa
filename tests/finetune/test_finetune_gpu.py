"""What needs a card: nf4, bfloat16, 8-bit paged optimisers, several GPUs, and verdicts that don't depend on the device.

``pytest -m gpu`` runs these alone. ``VLMFORENSICS_TEST_DEVICE=cpu`` runs those that a CPU can do in 32 bits, to try the
tests themselves.
"""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from vlmforensics.finetune.adapters import export  # noqa: E402
from vlmforensics.finetune.recipe import load_recipe  # noqa: E402
from vlmforensics.finetune.train import ADAPTER, CURVE, Job, train  # noqa: E402
from vlmforensics.settings import Settings  # noqa: E402
from vlmforensics.types import LABELS  # noqa: E402
from vlmforensics.vlm import load_backbone  # noqa: E402

DEVICE = os.environ.get("VLMFORENSICS_TEST_DEVICE", "cuda")
ON_CARD = DEVICE.startswith("cuda")
SETTINGS = Settings(device=DEVICE, offline=True)
PLAIN = Settings(device="cpu", offline=True, threads=1)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON_CARD and not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def losses(out):
    lines = [json.loads(line) for line in (out / CURVE).read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("name", ["fakevlm-7b", "sida-7b", "x2dfd-7b"])
def test_a_recipe_learns_in_four_bits_and_its_result_opens(name, tiny, lesson, tmp_path, pixels):
    if ON_CARD:
        pytest.importorskip("bitsandbytes")
    recipe = load_recipe(
        name,
        [
            f'base="{tiny}"', "optimiser.steps=6", "optimiser.batch=2", "optimiser.accumulate=1",
            "optimiser.rate=0.005", "saving.every=3", "saving.log_every=1",
            f'memory.quantisation="{"nf4" if ON_CARD else "none"}"',
        ],
    )  # fmt: skip
    train(Job(recipe, lesson, tmp_path / "run", settings=SETTINGS))
    curve = losses(tmp_path / "run")
    assert len(curve) == 6
    assert np.isfinite(curve).all()
    merged = export(tmp_path / "run" / ADAPTER, tmp_path / "merged", SETTINGS)
    found = load_backbone(str(merged), SETTINGS).look(pixels)
    expected = load_backbone(str(merged), PLAIN).look(pixels)
    np.testing.assert_allclose(np.exp(found.log_probs), np.exp(expected.log_probs), atol=0.05)
    before = load_backbone(str(tiny), PLAIN).look(pixels)
    assert np.abs(np.subtract(expected.log_probs, before.log_probs)).max() > 0.01, "it learned something"


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_a_card_answers_as_a_cpu_does(quantize, tiny, pixels):
    if quantize == "nf4":
        pytest.importorskip("bitsandbytes")
    backbone = load_backbone(str(tiny), replace(SETTINGS, quantize=quantize))
    assert backbone.version == f"1+{'nf4' if quantize == 'nf4' else 'bfloat16' if ON_CARD else 'float32'}"
    look = backbone.look(pixels)
    expected = load_backbone(str(tiny), PLAIN).look(pixels)
    np.testing.assert_allclose(np.exp(look.log_probs), np.exp(expected.log_probs), atol=0.1)
    assert "".join(backbone.narrate(look, "Explain.", max_new_tokens=8))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_cards_learn_together(tiny, lesson, tmp_path, train_in_two):
    changes = [
        f'base="{tiny}"', "optimiser.steps=3", "optimiser.batch=2", "optimiser.accumulate=1", "saving.log_every=1",
    ]  # fmt: skip
    train_in_two(
        "--recipe", "fakevlm-7b", "--data", lesson, "--out", tmp_path, changes=changes, precision="bf16"
    )
    assert len(losses(tmp_path)) == 3


@pytest.mark.model
@pytest.mark.slow
def test_the_compact_model_judges_alike_on_the_card():
    data = pytest.importorskip("skimage.data")
    from vlmforensics import Assistant
    from vlmforensics.imaging import encode

    picture = encode(data.astronaut(), "JPEG")
    first, second = (
        Assistant.load("compact", settings=settings).examine(picture, for_text=False)
        for settings in (Settings(device=DEVICE), Settings(device="cpu"))
    )
    for label in LABELS:
        assert first.probabilities[label] == pytest.approx(second.probabilities[label], abs=1e-3)
    assert first.verdict == second.verdict
