"""Every recipe on a tiny random LLaVA: train, take up again after a kill, export, reload, examine."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from vlmforensics.errors import AdapterMismatch, ModelError, SettingsError, WeightsCorrupt  # noqa: E402
from vlmforensics.finetune.adapters import digests, export, open_adapter, read_manifest  # noqa: E402
from vlmforensics.finetune.recipe import load_recipe  # noqa: E402
from vlmforensics.finetune.samples import read_samples  # noqa: E402
from vlmforensics.finetune.train import (  # noqa: E402
    ADAPTER,
    COMPLETE,
    CURVE,
    Job,
    Tutor,
    last_complete,
    prepare,
    step_size,
    train,
    training_arguments,
)
from vlmforensics.finetune.train_batches import collate, pixels_of  # noqa: E402
from vlmforensics.finetune.train_model import build, fits_whole, load_base, loading  # noqa: E402
from vlmforensics.finetune.train_prompts import LlavaTurns, encode  # noqa: E402
from vlmforensics.settings import Settings  # noqa: E402
from vlmforensics.vlm import load_backbone  # noqa: E402
from vlmforensics.vlm.adapters import TENSORS  # noqa: E402
from vlmforensics.vlm.profiles import PROFILES  # noqa: E402

SETTINGS = Settings(device="cpu", offline=True, threads=1)
CHANGES = {
    "compact-cpu": ["heads.layer=2", "optimiser.batch=2", "optimiser.accumulate=1"],
    "fakevlm-7b": ["optimiser.batch=2", "optimiser.accumulate=2"],
    "fakevlm-7b-full": ["optimiser.batch=2"],
    "sida-7b": ["optimiser.batch=1", "optimiser.accumulate=2"],
    "x2dfd-7b": [],
}


def recipe_of(name, tiny, *changes):
    common = [f'base="{tiny}"', "optimiser.steps=2", "saving.every=1", "saving.log_every=1"]
    return load_recipe(name, [*common, *CHANGES[name], *changes])


@pytest.fixture(scope="module")
def few(lesson, tmp_path_factory):
    """Four of the samples: mask embeddings take a second a picture."""
    file = lesson.with_name("few.jsonl")
    file.write_text("".join(lesson.read_text().splitlines(keepends=True)[2:6]))
    return file


@pytest.fixture(scope="module", params=sorted(CHANGES))
def finished(request, tiny, few, tmp_path_factory):
    """A recipe's name and the folder of its finished run."""
    out = tmp_path_factory.mktemp(request.param)
    train(Job(recipe_of(request.param, tiny), few, out, validation=few, settings=SETTINGS))
    return request.param, out


def logits(model, processor, sample, name):
    """Logits of a whole sample through the stock forward pass."""
    marks = "[CLS][SEG]" if "[CLS]" in processor.tokenizer.get_vocab() else ""
    prompt = load_recipe(name).prompt
    turns = LlavaTurns(processor, PROFILES[prompt.profile], "<image>", 16, marks)
    ids = encode(sample, turns, prompt, seed=0, epoch=0).ids
    picture = processor.image_processor(images=[pixels_of(sample)], return_tensors="pt")
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), **picture).logits[0]


def test_a_recipe_goes_from_data_to_a_folder_that_from_pretrained_opens(finished, few, tmp_path):
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    name, out = finished
    curve = [json.loads(line) for line in (out / CURVE).read_text().splitlines()]
    losses = [line["loss"] for line in curve if "loss" in line]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    measured = next(line for line in curve if "eval_loss" in line)
    assert ("eval_balanced_accuracy" in measured) == load_recipe(name).heads.label
    manifest = read_manifest(out / ADAPTER)
    assert manifest["recipe"]["name"] == name
    assert manifest["data"]["samples"] == 4
    assert set(manifest["versions"]) >= {"torch", "transformers", "peft"}
    assert not list((out / ADAPTER).glob("*.bin"))
    wrapped, processor, recipe = open_adapter(out / ADAPTER, SETTINGS)
    sample = next(iter(read_samples(few)))
    before = logits(wrapped, processor, sample, name)
    merged = export(out / ADAPTER, tmp_path / "merged", SETTINGS, dtype="float32")
    model = LlavaForConditionalGeneration.from_pretrained(merged, dtype=torch.float32)
    after = logits(model.eval(), AutoProcessor.from_pretrained(merged), sample, name)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    bare, _ = load_base(Path(recipe.base), {"dtype": torch.float32})
    if not recipe.heads.label:  # else the bare model has no words for the marks
        assert float((logits(bare, processor, sample, name) - after).abs().max()) > 1e-6, (
            "it learned something"
        )
    look = load_backbone(str(merged), SETTINGS).look(pixels_of(sample))
    assert sum(np.exp(look.log_probs)) == pytest.approx(1)
    with pytest.raises(SettingsError, match="not empty"):
        export(out / ADAPTER, merged, SETTINGS)
    if recipe.learn.language == "lora" and not recipe.heads.label:
        adapted = load_backbone(str(out / ADAPTER), SETTINGS).look(pixels_of(sample))
        np.testing.assert_allclose(adapted.log_probs, look.log_probs, atol=1e-3)


def test_the_heads_come_along(finished, tmp_path):
    from vlmforensics.masks import MaskHead

    name, out = finished
    recipe = load_recipe(name)
    note = json.loads((out / ADAPTER / "vlmforensics.json").read_text())
    assert note["profile"] == recipe.prompt.profile
    assert (out / ADAPTER / "heads.safetensors").exists() == recipe.heads.label
    assert (out / ADAPTER / "masks").exists() == recipe.heads.mask
    if recipe.heads.mask:
        head = MaskHead.load(folder=out / ADAPTER / "masks")
        assert head.inputs.seg
        pixels = np.zeros((64, 80, 3), np.uint8)
        seg = np.random.default_rng(0).normal(size=48).astype(np.float32)
        found = head.locate(pixels, seg=seg, label_log_probs=(-3.0, -3.0, -0.1))
        other = head.locate(pixels, seg=-seg, label_log_probs=(-3.0, -3.0, -0.1))
        assert found.soft.shape == (64, 80)
        assert not np.array_equal(found.soft, other.soft), "[SEG] acts"


def test_what_was_changed_after_training_is_refused(finished, tmp_path, tiny):
    from safetensors.torch import load_file, save_file

    name, out = finished
    if load_recipe(name).learn.language != "lora":
        pytest.skip("a full run is a checkpoint, not an adapter")
    folder = tmp_path / "changed"
    shutil.copytree(out / ADAPTER, folder)
    tensors = load_file(folder / TENSORS)
    first = next(key for key in sorted(tensors) if "lora_A" in key)
    save_file({**{k: v for k, v in tensors.items() if k != first}, "wrong": tensors[first]}, folder / TENSORS)
    with pytest.raises(AdapterMismatch, match="not what the manifest says"):
        open_adapter(folder, SETTINGS)
    manifest = json.loads((folder / "adapter.json").read_text())
    (folder / "adapter.json").write_text(json.dumps({**manifest, "files": digests(folder)}))
    with pytest.raises(AdapterMismatch, match="1 keys missing"):
        open_adapter(folder, SETTINGS)
    save_file({key: value * 30 for key, value in tensors.items()}, folder / TENSORS)
    (folder / "adapter.json").write_text(json.dumps({**manifest, "files": digests(folder)}))
    with pytest.raises(AdapterMismatch, match="does not act"):
        open_adapter(folder, SETTINGS)
    moved = {**manifest, "base": {**manifest["base"], "sha256": "0" * 64}}
    (folder / "adapter.json").write_text(json.dumps({**moved, "files": digests(folder)}))
    with pytest.raises(AdapterMismatch, match="another version"):
        open_adapter(folder, SETTINGS)


KILLED = """
import os, signal, sys
from pathlib import Path
from vlmforensics.finetune import train as module
from vlmforensics.finetune.recipe import load_recipe
from vlmforensics.settings import Settings

def kill(self, args, state, control, **more):
    if state.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

module._Marker.on_step_end = kill
recipe = load_recipe("x2dfd-7b", sys.argv[3:])
module.train(module.Job(recipe, Path(sys.argv[1]), Path(sys.argv[2]), settings=Settings(device="cpu", threads=1)))
"""


def test_a_run_that_was_killed_goes_on_to_the_same_curve(tiny, lesson, tmp_path):
    changes = [
        f'base="{tiny}"', "optimiser.steps=9", "learn.dropout=0.1", "saving.every=2", "saving.log_every=1",
    ]  # fmt: skip
    recipe = load_recipe(
        "x2dfd-7b", changes
    )  # six steps a pass: the kill falls into the first, the end into the second
    straight = tmp_path / "straight"
    train(Job(recipe, lesson, straight, settings=SETTINGS))
    broken = tmp_path / "broken"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(lesson), str(broken), *changes],
        capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (broken / ADAPTER).exists()
    torn = broken / "checkpoint-6"  # as if the kill had come while a checkpoint was written
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    assert last_complete(broken) == broken / "checkpoint-4"
    assert not torn.exists()
    train(Job(recipe, lesson, broken, resume=True, settings=SETTINGS))
    curves = []
    for out in (straight, broken):
        lines = [json.loads(line) for line in (out / CURVE).read_text().splitlines()]
        curves.append([(line["step"], line["loss"], line["grad_norm"]) for line in lines if "loss" in line])
    assert [step for step, _, _ in curves[0]] == list(range(1, 10))
    assert curves[0] == curves[1]
    one, other = ((out / ADAPTER / TENSORS).read_bytes() for out in (straight, broken))
    assert one == other


def test_resuming_needs_the_same_run(tiny, lesson, few, tmp_path):
    recipe = recipe_of("x2dfd-7b", tiny)
    with pytest.raises(SettingsError, match="nothing to resume"):
        train(Job(recipe, few, tmp_path, resume=True, settings=SETTINGS))
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / COMPLETE).write_text("{}")
    from vlmforensics.finetune.train import claim, load

    claim(Job(recipe, few, tmp_path), load(few))
    with pytest.raises(SettingsError, match="--resume"):
        claim(Job(recipe, few, tmp_path), load(few))
    with pytest.raises(SettingsError, match="another data set"):
        claim(Job(recipe, lesson, tmp_path, resume=True), load(lesson))
    other = recipe_of("x2dfd-7b", tiny, "optimiser.rate=1e-3")
    with pytest.raises(SettingsError, match="another recipe"):
        claim(Job(other, few, tmp_path, resume=True), load(few))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(SettingsError, match="no samples"):
        train(Job(recipe, empty, tmp_path / "x", settings=SETTINGS))


def test_the_parts_of_the_loss_are_means_over_the_steps_of_their_line(tiny, lesson, tmp_path):
    recipe = recipe_of("x2dfd-7b", tiny, "optimiser.steps=4", "saving.log_every=2", "saving.keep=4")
    train(Job(recipe, lesson, tmp_path, settings=SETTINGS))
    for last in (3, 4):
        shutil.rmtree(tmp_path / f"checkpoint-{last}")
    lines = (tmp_path / CURVE).read_text().splitlines()
    train(Job(recipe, lesson, tmp_path, resume=True, settings=SETTINGS))
    lines += (tmp_path / CURVE).read_text().splitlines()
    told = [line for line in map(json.loads, lines) if "loss" in line]
    assert [line["step"] for line in told] == [2, 4, 2, 4]
    assert all(line["language"] == pytest.approx(line["loss"], rel=1e-3) for line in told)


def test_validation_measures_each_batch_by_itself(tiny, few, tmp_path):
    recipe = recipe_of("compact-cpu", tiny, "optimiser.accumulate=4", "learn.dropout=0.0")
    job = Job(recipe, few, tmp_path, settings=SETTINGS)
    arguments = training_arguments(job)
    built = build(recipe, SETTINGS, samples=step_size(recipe, arguments))
    samples = prepare(list(read_samples(few)), built, recipe, tmp_path, arguments)
    collator = partial(collate, turns=built.turns)
    tutor = Tutor(model=built.student, args=arguments, eval_dataset=samples, data_collator=collator)
    measured = tutor.evaluate()["eval_loss"]
    with torch.no_grad():
        alone = [
            float(built.student.eval()(**collator([samples[i], samples[i + 1]]))["loss"]) for i in (0, 2)
        ]
    assert measured == pytest.approx(np.mean(alone), rel=1e-4)


def batch_of(built, recipe, samples):
    from vlmforensics.finetune.student import tower_features

    items = []
    for sample in samples:
        encoded = encode(sample, built.turns, recipe.prompt, seed=0, epoch=0)
        tower = next(built.core.model.vision_tower.parameters())
        values = built.pixel_values(pixels_of(sample))[None].to(tower.dtype)
        with torch.no_grad():
            seen = tower_features(built.core, values)[0]
        items.append({"ids": encoded.ids, "labels": encoded.labels, "label": 0, "features": seen})
    return collate(items, built.turns)


def test_cached_features_and_learned_logits_give_the_stock_models_loss(tiny, lesson):
    recipe = recipe_of("x2dfd-7b", tiny, "learn.dropout=0.0")
    built = build(recipe, SETTINGS)
    samples = list(read_samples(lesson))[:3]
    batch = batch_of(built, recipe, samples)
    built.student.eval()
    with torch.no_grad():
        ours = built.student(**batch)["loss"]
        pixels = torch.stack([built.pixel_values(pixels_of(sample)) for sample in samples])
        stock = built.student.llava(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"],
            pixel_values=pixels,
        ).loss  # fmt: skip
    torch.testing.assert_close(ours, stock, atol=1e-4, rtol=1e-4)


def test_the_benchmark_times_both_loops_over_the_same_steps(tiny):
    from vlmforensics.finetune.train_bench import compare

    said = compare(str(tiny), SETTINGS, steps=3, rounds=1)
    found = re.fullmatch(
        r"training step ([\d.]+) s, bare loop ([\d.]+) s, ratio ([\d.]+) .*, medians of 2 and 3 steps", said
    )
    assert found, said
    ours, bare, ratio = (float(value) for value in found.groups())
    assert ratio == pytest.approx(ours / bare, rel=0.05, abs=0.05)


def test_only_what_the_recipe_names_learns(tiny, lesson):
    built = build(recipe_of("x2dfd-7b", tiny), SETTINGS)
    names = set(built.student.trained())
    assert names
    assert all("lora_" in name or "multi_modal_projector" in name for name in names)
    assert not any("vision_tower" in name for name in names)
    frozen = build(recipe_of("sida-7b", tiny), SETTINGS)
    parts = {name.split(".")[0] for name in frozen.student.trained()}
    assert parts == {"llava", "head", "masks"}
    assert not any(
        name.startswith(("masks.encoder", "masks.decoder.prompts")) for name in frozen.student.trained()
    )
    assert any("trainable_tokens" in name for name in frozen.student.trained())
    frozen.student.train()
    assert not frozen.core.model.vision_tower.training
    assert not frozen.student.masks.encoder.training


def test_a_head_beyond_the_last_layer_is_refused(tiny):
    with pytest.raises(SettingsError, match="3 layers"):
        build(recipe_of("compact-cpu", tiny, "heads.layer=8"), SETTINGS)


def test_a_folder_of_compact_weights_is_read_as_such(tmp_path):
    (tmp_path / "compact.json").write_text('{"format": 99, "files": {}}')
    with pytest.raises(WeightsCorrupt, match="format 99"):
        load_backbone(str(tmp_path), SETTINGS)


def test_nf4_without_cuda_says_what_to_do(tiny):
    with pytest.raises(ModelError, match="CUDA"):
        build(recipe_of("x2dfd-7b", tiny, "memory.quantisation=nf4"), SETTINGS)


def test_a_base_in_16_bits_learns_in_32(tiny, lesson, monkeypatch):
    from vlmforensics.finetune import train_model

    monkeypatch.setattr(train_model, "loading", lambda *_: {"dtype": torch.bfloat16})
    recipe = recipe_of("compact-cpu", tiny, "memory.gradient_checkpointing=true")
    built = build(recipe, SETTINGS)
    frozen = {p.dtype for p in built.core.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}
    assert {p.dtype for p in built.student.trained().values()} == {torch.float32}
    samples = list(read_samples(lesson))[:2]
    batch = batch_of(built, recipe, samples)
    built.student.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = built.student(**batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    gradients = {name: p.grad for name, p in built.student.trained().items()}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())


def test_auto_quantises_where_the_base_leaves_too_little_room():
    gib, parameters = 1 << 30, 7_063_427_072
    assert not fits_whole(parameters, 16 * gib)
    assert fits_whole(parameters, 24 * gib)
    assert fits_whole(parameters, None)


def test_nf4_layers_learn_as_far_as_bitsandbytes_runs_here(tiny, lesson, monkeypatch):
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.nn import Linear4bit

    from vlmforensics.finetune import train_model

    anywhere = lambda recipe, folder, device: loading(recipe, folder, device, anywhere=True)  # noqa: E731
    monkeypatch.setattr(train_model, "loading", anywhere)
    recipe = recipe_of("x2dfd-7b", tiny, "memory.quantisation=nf4", "memory.gradient_checkpointing=false")
    built = build(recipe, SETTINGS)
    assert built.four_bit
    quantised = [name for name, module in built.core.named_modules() if isinstance(module, Linear4bit)]
    assert len(quantised) == 3 * 7
    assert all("language_model" in name for name in quantised)
    batch = batch_of(built, recipe, list(read_samples(lesson))[:2])
    built.student.train()
    optimiser = torch.optim.AdamW(list(built.student.trained().values()), lr=1e-2)
    losses = []
    for _ in range(6):
        loss = built.student(**batch)["loss"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1
