"""Recipes: the shipped ones hold the published numbers, faults are named, memory is arithmetic."""

from pathlib import Path

import pytest

from vlmforensics.errors import SettingsError
from vlmforensics.finetune.recipe import load_recipe, shipped
from vlmforensics.finetune.train_memory import GIB, Shape, estimate, fit, hours, table, trainable


def test_shipped_recipes_hold_the_published_hyper_parameters():
    assert shipped() == ["compact-cpu", "fakevlm-7b", "fakevlm-7b-full", "sida-7b", "x2dfd-7b"]
    full = load_recipe("fakevlm-7b-full")
    assert (full.optimiser.rate, full.optimiser.batch, full.optimiser.epochs) == (2e-5, 32, 2)
    assert full.learn.tower
    assert full.learn.language == "full"
    one = load_recipe("fakevlm-7b").optimiser
    assert one.batch * one.accumulate == 256
    sida = load_recipe("sida-7b")
    assert (sida.learn.rank, sida.learn.alpha, sida.learn.dropout) == (8, 16, 0.05)
    assert sida.learn.modules == ("q_proj", "v_proj")
    assert (sida.loss.language, sida.loss.mask, sida.loss.label) == (1, 0.5, 0.5)
    assert sida.optimiser.betas == (0.9, 0.95)
    x2dfd = load_recipe("x2dfd-7b")
    assert (x2dfd.learn.rank, x2dfd.learn.alpha) == (16, 32)
    assert (x2dfd.optimiser.rate, x2dfd.optimiser.projector_rate) == (2e-4, 2e-5)
    assert x2dfd.prompt.max_length == 2048


def test_single_values_can_be_replaced(tmp_path):
    recipe = load_recipe("x2dfd-7b", ["optimiser.rate=1e-3", "base=/some/folder", 'learn.modules=["v_proj"]'])
    assert recipe.optimiser.rate == 1e-3
    assert recipe.base == "/some/folder"
    assert recipe.learn.modules == ("v_proj",)
    own = tmp_path / "mine.toml"
    own.write_text('name = "mine"\nbase = "compact"\n[optimiser]\nrate = 0.001\n')
    assert load_recipe(str(own)).name == "mine"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optimiser.speed=3", "optimiser.speed"),
        ("optimiser.rate=fast", "optimiser.rate"),
        ("optimiser.rate", "KEY=VALUE"),
        ("name.first=1", "name is a value"),
        ("loss.label=1.0", "heads.label and loss.label"),
        ("heads.mask=true", "mask needs label"),
        ("heads.layer=0", "layer 0"),
        ("learn.language=full", "quantised"),
        ("prompt.profile=nobody", "profile"),
        ("loss.language=0", "all loss weights"),
        ("learn.modules=[]", "LoRA needs modules"),
        ("saving.keep=1", "saving.keep"),
    ],
)
def test_a_fault_is_named(change, said):
    with pytest.raises(SettingsError, match=said):
        load_recipe("x2dfd-7b", [change])


def test_unknown_recipes_name_the_known_ones(tmp_path):
    with pytest.raises(SettingsError, match="compact-cpu"):
        load_recipe("nothing")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(SettingsError, match="is not TOML"):
        load_recipe(str(broken))


def test_parameter_counts_are_those_of_the_bare_models():
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    vision = transformers.CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14,
    )  # fmt: skip
    text = transformers.LlamaConfig(vocab_size=32064)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text)
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(config)
    shape = Shape()
    count = sum(p.numel() for p in model.parameters())
    assert shape.total == count
    assert shape.projector == sum(p.numel() for p in model.model.multi_modal_projector.parameters())
    assert shape.vision == sum(p.numel() for p in model.model.vision_tower.parameters())
    assert shape.lora(16, ("q_proj", "down_proj")) == 32 * 16 * (2 * 4096 + 4096 + 11008)


def test_memory_grows_with_what_is_asked():
    shape, recipe = Shape(), load_recipe("x2dfd-7b")
    small = estimate(recipe, shape, form="nf4", batch=1, tokens=1024)
    large = estimate(recipe, shape, form="nf4", batch=4, tokens=1024)
    whole = estimate(recipe, shape, form="bf16", batch=1, tokens=1024)
    assert large.activations == pytest.approx(4 * small.activations)
    assert small.weights < whole.weights / 2.5
    assert 4 * GIB < small.total < 8 * GIB < whole.total
    assert fit(recipe, 80, shape, 1024)[0] == "bf16"
    assert fit(recipe, 4, shape, 1024) is None
    assert fit(load_recipe("fakevlm-7b-full"), 80, shape, 1024) is None, "one card does not hold a full run"
    assert trainable(load_recipe("sida-7b"), shape) < trainable(recipe, shape)
    one = hours(shape, samples=1000, tokens=1024, tflops=100, form="bf16")
    assert hours(shape, samples=2000, tokens=1024, tflops=100, form="bf16") == pytest.approx(2 * one)
    shown = table(1024)
    assert "estimates" in shown.lower()
    assert shown.count("\n| ") >= 5


def test_the_guide_shows_the_table_that_the_command_prints():
    guide = (Path(__file__).parents[2] / "docs" / "finetuning.md").read_text(encoding="utf-8")
    shown = guide.split("<!-- memory: begin -->\n")[1].split("\n<!-- memory: end -->")[0]
    assert shown == table(1024).split("\n\n")[1]


def test_commands_list_recipes_and_name_faults(tmp_path):
    from typer.testing import CliRunner

    from vlmforensics.finetune.cli import app

    runner = CliRunner()
    listed = runner.invoke(app, ["recipes"])
    assert [line.split()[0] for line in listed.output.splitlines()] == shipped()
    assert "estimates" in runner.invoke(app, ["memory", "--tokens", "800"]).output.lower()
    pytest.importorskip("torch")
    arguments = ["train", "--recipe", "nobody", "--data", str(tmp_path / "x.jsonl"), "--out", str(tmp_path)]
    failed = runner.invoke(app, arguments)
    assert isinstance(failed.exception, SettingsError)
    assert "sida-7b" in str(failed.exception)
