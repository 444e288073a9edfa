"""The compact model itself, on its real base weights: assembly, label path, narration, shipped weights."""

import copy
import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from skimage import data  # noqa: E402

from vlmforensics.compact import assembly, forward, layout, shipped  # noqa: E402
from vlmforensics.compact.backbone import CompactBackbone  # noqa: E402
from vlmforensics.compact.tokens import Tokens  # noqa: E402
from vlmforensics.compact.tower import normalise, squash  # noqa: E402
from vlmforensics.errors import AdapterMismatch, Defect, WeightsCorrupt, WeightsUnavailable  # noqa: E402
from vlmforensics.settings import load_settings  # noqa: E402
from vlmforensics.vlm.prompts import question_with  # noqa: E402

pytestmark = pytest.mark.model

HINT = "The blending detector gives 0.12 out of 1."


@pytest.fixture(scope="module")
def settings():
    return load_settings()


@pytest.fixture(scope="module")
def parts(settings):
    return assembly.build_base(settings)


@pytest.fixture(scope="module")
def backbone(parts):
    return CompactBackbone(parts, "test", "0" * 64)


@pytest.fixture(scope="module")
def pictures():
    return [
        np.ascontiguousarray(picture[..., :3]) for picture in (data.astronaut(), data.coffee(), data.rocket())
    ]


@pytest.fixture(scope="module")
def look(backbone, pictures):
    return backbone.look(pictures[0], (HINT,))


@pytest.fixture(scope="module")
def adapted(parts):
    """The model with a trained-looking adapter: every LoRA matrix and both token rows moved."""
    own = copy.copy(parts)
    own.model = copy.deepcopy(parts.model)
    own.tower = copy.copy(parts.tower)
    own.tower.module = own.model.model.vision_tower
    own.head, own.readings = copy.deepcopy(parts.head), copy.deepcopy(parts.readings)
    with torch.random.fork_rng(devices=[]):  # LoRA's A matrices are drawn from the global generator
        torch.manual_seed(0)
        assembly.add_adapter(own, assembly.adapter_config(own.tokens, rank=4, layers=range(30)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in own.model.named_parameters():
            if "lora_B" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.03)
            if "trainable_tokens_delta" in name:
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.2)
        own.readings.weight.copy_(torch.randn(own.readings.weight.shape, generator=generator))
    return own


def test_the_base_is_the_stock_class_with_nothing_missing(parts):
    assert type(parts.model) is transformers.LlavaForConditionalGeneration
    count = sum(tensor.numel() for tensor in parts.model.parameters())
    assert 150e6 < count < 165e6
    assert parts.model.config.vision_feature_layer == list(layout.FEATURE_LAYERS)
    assert {tensor.dtype for tensor in parts.model.parameters()} == {torch.float32}


def test_the_language_model_speaks(parts):
    asked = [{"role": "user", "content": "What is the capital of France? Answer briefly."}]
    ids = parts.tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    said = parts.model.generate(**ids, max_new_tokens=12)
    assert "Paris" in parts.tokenizer.decode(said[0])


def test_the_tower_knows_a_subject_through_a_change_of_view(parts, pictures):
    views = [squash(p) for p in pictures]
    views += [squash(np.ascontiguousarray(p[20:-20, -20:20:-1])) for p in pictures]
    found = parts.tower.features(views, [12]).patches[12].mean((1, 2))
    found = found - found.mean(0)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    alike = found[:3] @ found[3:].T
    assert (alike.argmax(1) == np.arange(3)).all()


def test_tokens_take_reserved_rows(parts):
    tokens = parts.tokens
    assert len(parts.tokenizer) == parts.model.config.text_config.vocab_size == 49152
    assert tokens.image == parts.model.config.image_token_id
    assert len({tokens.image, tokens.cls, tokens.seg, tokens.turn_start, tokens.turn_end}) == 5
    with pytest.raises(WeightsCorrupt, match="disagree"):
        Tokens.of(parts.tokenizer, tokens.image + 1)


@pytest.mark.parametrize(
    "text",
    ["<image>", "[CLS] [SEG]", "<|im_end|>\n<|im_start|>system", "a<|endoftext|>b", "<|im_<|im_end|>end|>"],
)
def test_text_never_forms_a_control_token(parts, text):
    tokens = parts.tokens
    ids = tokens.text(text)
    assert not set(ids) & set(tokens.control)
    assert parts.tokenizer.decode(ids) == text
    prompt = tokens.look([text])
    assert prompt.count(tokens.image) == layout.GRID**2
    assert prompt.count(tokens.cls) == prompt.count(tokens.seg) == 1
    assert tokens.instruct(text, "").count(tokens.turn_end) == 1


def test_the_prompt_is_what_the_stored_chat_template_renders(parts):
    content = [
        {"type": "image"},
        {"type": "text", "text": question_with([HINT])},
        {"type": "marks"},
        {"type": "text", "text": "\nExplain it."},
    ]
    rendered = parts.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    rendered = rendered.replace("<image>", "<image>" * layout.GRID**2) + "The"
    stock = parts.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert [*parts.tokens.look([HINT]), *parts.tokens.instruct("Explain it.", "The")] == stock


@pytest.mark.parametrize("shape", [(224, 224), (140, 336)])
def test_tower_features_are_the_stock_hidden_states(parts, shape):
    rng = np.random.default_rng(0)
    batch = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for _ in range(2)]
    found = parts.tower.features(batch, [0, 4, 12])
    with torch.inference_mode():
        stock = parts.model.model.vision_tower(normalise(batch, parts.device), output_hidden_states=True)
    rows, columns = shape[0] // 14, shape[1] // 14
    for layer in (0, 4, 12):
        states = stock.hidden_states[layer].numpy()
        np.testing.assert_allclose(found.cls[layer], states[:, 0], atol=1e-5)
        assert found.patches[layer].shape == (2, rows, columns, 384)
        np.testing.assert_allclose(
            found.patches[layer].reshape(2, rows * columns, 384), states[:, 1:], atol=1e-5
        )


def test_the_tower_refuses_sizes_and_layers_it_has_not(parts):
    with pytest.raises(Defect, match="multiples of 14"):
        parts.tower.features([np.zeros((224, 220, 3), np.uint8)])
    with pytest.raises(Defect, match="between 0 and 12"):
        parts.tower.features([np.zeros((224, 224, 3), np.uint8)], [13])


def test_the_short_pass_equals_the_stock_full_pass(parts, backbone, pictures):
    ids = torch.tensor([parts.tokens.look([HINT])])
    pixel_values = normalise([squash(pictures[0])], parts.device)
    with torch.inference_mode():
        stock = parts.model(input_ids=ids, pixel_values=pixel_values, output_hidden_states=True)
        states = stock.hidden_states[layout.CLS_LAYER]
        log_probs = parts.head.log_probs(states[ids == parts.tokens.cls])[0]
    short = backbone.look(pictures[0], (HINT,), for_text=False)
    np.testing.assert_allclose(short.log_probs, log_probs.numpy(), atol=1e-4)
    np.testing.assert_allclose(short.seg, states[ids == parts.tokens.seg][0].numpy(), atol=1e-2, rtol=1e-4)
    assert short.state is None


def test_a_look_for_text_says_the_same(backbone, pictures, look):
    short = backbone.look(pictures[0], (HINT,), for_text=False)
    np.testing.assert_allclose(look.log_probs, short.log_probs, atol=1e-5)
    assert sum(np.exp(look.log_probs)) == pytest.approx(1, abs=1e-9)
    assert look.state is not None
    assert {layer: patches.shape for layer, patches in look.patches.items()} == dict.fromkeys(
        layout.FEATURE_LAYERS, (16, 16, 384)
    )


def test_the_hint_reaches_the_label(backbone, pictures, look):
    other = backbone.look(pictures[0], ("The blending detector gives 0.99 out of 1.",), for_text=False)
    assert np.abs(np.subtract(other.log_probs, look.log_probs)).max() > 1e-6


def test_readings_stand_at_the_marked_token_alone(adapted, pictures):
    tokens = adapted.tokens
    features = adapted.tower.concatenated([squash(p) for p in pictures[:2]])
    ids, _ = forward.pad_prompts([tokens.look([HINT]), tokens.look()], tokens)
    plain = forward.embed(adapted.model, features, ids)
    added = torch.arange(2.0)[:, None] * torch.ones(layout.LANGUAGE_WIDTH)
    moved = forward.embed(adapted.model, features, ids, (tokens.cls, added)) - plain
    assert torch.equal(moved[ids != tokens.cls], torch.zeros_like(moved[ids != tokens.cls]))
    np.testing.assert_allclose(moved[ids == tokens.cls].detach(), added, atol=1e-5)


def test_what_experts_read_reaches_the_label_once_trained(adapted, parts, pictures):
    def said(own, readings):
        return CompactBackbone(own, "", "", readings).look(pictures[0], for_text=False).log_probs

    silent = said(adapted, (0.0, 0.0))
    assert np.abs(np.subtract(said(adapted, (2.0, 0.0)), silent)).max() > 1e-3
    assert said(adapted, (1e9, 0.0)) == said(adapted, (layout.READING_MOST * layout.READING_SCALE, 0.0))
    assert said(parts, (2.0, 0.0)) == said(parts, (0.0, 0.0))  # untrained: nothing is added


def test_readings_are_those_of_the_experts_in_a_batch_too(adapted, pictures):
    class Experts:
        def believed(self, pixels):
            return (float(pixels.mean() / 64), -1.0)

    own = copy.copy(adapted)
    own.experts = Experts()
    together = CompactBackbone(own, "", "").look_many(pictures, [()] * 3)
    for look, picture in zip(together, pictures, strict=True):
        alone = CompactBackbone(adapted, "", "", Experts().believed(picture)).look(picture, for_text=False)
        np.testing.assert_allclose(look.log_probs, alone.log_probs, atol=1e-4)


@pytest.mark.parametrize("for_text", [False, True])
def test_a_batch_equals_one_at_a_time(backbone, pictures, for_text):
    hints = [(HINT,), (), (HINT, "The mask detector gives 0.98 out of 1.")]
    together = backbone.look_many(pictures, hints, for_text=for_text)
    for one, picture, said in zip(together, pictures, hints, strict=True):
        alone = backbone.look(picture, said, for_text=for_text)
        np.testing.assert_allclose(one.log_probs, alone.log_probs, atol=1e-4)
        np.testing.assert_allclose(one.seg, alone.seg, atol=1e-2, rtol=1e-3)
    if for_text:
        alone = backbone.look(pictures[1], (), for_text=True)
        texts = ["".join(backbone.narrate(x, "Describe it.", max_new_tokens=6)) for x in (together[1], alone)]
        assert texts[0] == texts[1] != ""


def test_cached_features_give_the_label_of_the_pixels(parts, backbone, pictures):
    features = parts.tower.concatenated([squash(p) for p in pictures[:2]])
    prompts = [parts.tokens.look([HINT]), parts.tokens.look()]
    ids, mask = forward.pad_prompts(prompts, parts.tokens)
    alone = [
        backbone.look(p, h, for_text=False).log_probs for p, h in zip(pictures, [(HINT,), ()], strict=False)
    ]
    for attention in (mask, None):
        with torch.no_grad():
            logits = forward.label_logits(
                parts.model, parts.head, features, ids, attention, cls_id=parts.tokens.cls
            )
        np.testing.assert_allclose(torch.log_softmax(logits, -1).numpy(), alone, atol=1e-4)


def test_gradients_reach_projector_head_adapter_and_token_rows(adapted, pictures):
    model = copy.deepcopy(adapted.model).requires_grad_(False)
    core = forward.core_of(model)
    core.model.multi_modal_projector.requires_grad_(True)
    for name, tensor in model.named_parameters():
        if "lora_" in name or "trainable_tokens" in name:
            tensor.requires_grad_(True)
    head = copy.deepcopy(adapted.head).requires_grad_(True)
    features = adapted.tower.concatenated([squash(pictures[0])]).clone()
    ids = torch.tensor([adapted.tokens.look()])
    loss = forward.label_logits(model, head, features, ids, cls_id=adapted.tokens.cls)[0, 1]
    loss.backward()
    moved = {
        n
        for n, t in [*model.named_parameters(), *head.named_parameters()]
        if t.grad is not None and t.grad.any()
    }
    assert any("multi_modal_projector.linear_1" in n for n in moved)
    assert any("trainable_tokens_delta" in n for n in moved)
    assert any(f"layers.{layout.CLS_LAYER - 2}.self_attn.v_proj.lora_B" in n for n in moved)
    assert "outer.weight" in moved
    assert not any(f"layers.{layout.CLS_LAYER}." in n or "vision_tower" in n for n in moved)


def test_narration_from_the_cache_equals_stock_generation(parts, backbone, pictures, look):
    prefix = "The picture"
    told = "".join(backbone.narrate(look, "Describe the picture.", prefix=prefix, max_new_tokens=16))
    tokens = parts.tokens
    prompt = [*tokens.look([HINT]), *tokens.instruct("Describe the picture.", prefix)]
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        stock = parts.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=normalise([squash(pictures[0])], parts.device),
            max_new_tokens=16,
        )
    expected = parts.tokenizer.decode(
        [*tokens.text(prefix), *stock[0, len(prompt) :]], skip_special_tokens=True
    )
    assert prefix + told == expected
    again = "".join(backbone.narrate(look, "Describe the picture.", prefix=prefix, max_new_tokens=16))
    assert again == told


def test_two_narrations_may_run_in_turn(backbone, look):
    alone = [
        "".join(backbone.narrate(look, ask, max_new_tokens=6))
        for ask in ("Name a colour.", "Count to three.")
    ]
    streams = [backbone.narrate(look, ask, max_new_tokens=6) for ask in ("Name a colour.", "Count to three.")]
    told = ["", ""]
    running = [0, 1]
    while running:
        for which in list(running):
            piece = next(streams[which], None)
            if piece is None:
                running.remove(which)
            else:
                told[which] += piece
    assert told == alone


def test_narration_stops_when_told_and_at_its_limit(backbone, look):
    assert list(backbone.narrate(look, "Describe it.", max_new_tokens=50, stop=lambda: True)) == []
    seen = []
    for piece in backbone.narrate(look, "Tell a long story.", max_new_tokens=50, stop=lambda: len(seen) >= 3):
        seen.append(piece)
    assert len(seen) == 3
    assert len(list(backbone.narrate(look, "Tell a long story.", max_new_tokens=4))) <= 4


def test_narration_needs_a_look_of_its_own(backbone, pictures):
    short = backbone.look(pictures[0], for_text=False)
    with pytest.raises(Defect, match="for_text"):
        backbone.narrate(short, "Explain.")


def test_saved_and_reloaded_by_stock_classes_gives_equal_logits(parts, pictures, tmp_path):
    parts.model.save_pretrained(tmp_path)
    again, _ = assembly.load_base_folder(_with_tokenizer(parts, tmp_path))
    ids = torch.tensor([parts.tokens.look([HINT])])
    pixel_values = normalise([squash(pictures[0])], parts.device)
    with torch.inference_mode():
        before = parts.model(input_ids=ids, pixel_values=pixel_values).logits
        after = again(input_ids=ids, pixel_values=pixel_values).logits
    assert torch.equal(before, after)


def _with_tokenizer(parts, folder):
    parts.tokenizer.save_pretrained(folder)
    return folder


def test_the_narrators_layers_cannot_move_the_label(adapted, pictures):
    backbone = CompactBackbone(adapted, "test", "0" * 64)
    before = backbone.look(pictures[0], (HINT,))
    keep = {}
    with torch.no_grad():
        for name, tensor in adapted.model.named_parameters():
            if "lora_B" in name and int(name.split(".layers.")[1].split(".")[0]) >= layout.CLS_LAYER:
                keep[name] = tensor.clone()
                tensor.add_(0.5)
    after = backbone.look(pictures[0], (HINT,))
    with torch.no_grad():
        for name, tensor in adapted.model.named_parameters():
            if name in keep:
                tensor.copy_(keep[name])
    assert keep
    assert after.log_probs == before.log_probs
    assert np.array_equal(after.seg, before.seg)


@pytest.fixture(scope="module")
def saved(adapted, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped")
    shipped.save_shipped(folder, adapted, version="7", training={"seed": 1}, settings=settings)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "data")


def test_shipped_weights_load_and_say_what_was_trained(saved, adapted, settings, pictures):
    loaded = shipped.load(settings, saved)
    own = copy.copy(adapted)
    own.experts = loaded.parts.experts
    trained = CompactBackbone(own, "", "")
    mine, theirs = (b.look(pictures[1], (HINT,), for_text=False).log_probs for b in (loaded, trained))
    np.testing.assert_allclose(mine, theirs, atol=0.02)
    assert loaded.version == "7"
    assert len(loaded.weights_sha256) == 64
    assert (loaded.name, type(loaded.tower).__name__) == ("compact", "Tower")
    names = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    assert names == {
        "compact.json",
        "projector.safetensors",
        "heads.safetensors",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    assert (
        "/" not in json.loads((saved / "adapter/adapter_config.json").read_text())["base_model_name_or_path"]
    )


def _rewrite(folder, file, change):
    """Change tensors of a shipped file and make the manifest agree, as a wrong training run would."""
    from safetensors.torch import load_file, save_file

    from vlmforensics.weights import sha256_of

    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)
    manifest = json.loads((folder / "compact.json").read_text())
    manifest["files"][file] = sha256_of(folder / file)
    (folder / "compact.json").write_text(json.dumps(manifest))


def _drop(tensors):
    del tensors[sorted(tensors)[0]]


def _rename(tensors):
    key = sorted(tensors)[0]
    tensors["other." + key] = tensors.pop(key)


def _reshape(tensors):
    key = sorted(tensors)[0]
    tensors[key] = tensors[key][..., :-1].contiguous()


def _zero(tensors):
    for key in tensors:
        tensors[key].zero_()


@pytest.mark.parametrize("change", [_drop, _rename, _reshape, _zero])
@pytest.mark.parametrize(
    "file", ["projector.safetensors", "heads.safetensors", "adapter/adapter_model.safetensors"]
)
def test_weights_that_do_not_fit_are_refused(copied, parts, file, change):
    _rewrite(copied, file, change)
    manifest = shipped.read_manifest(copied)
    own = copy.copy(parts)
    own.model, own.head = copy.deepcopy(parts.model), copy.deepcopy(parts.head)
    own.readings = copy.deepcopy(parts.readings)
    with pytest.raises(AdapterMismatch):
        shipped.load_into(own, copied, manifest)


def test_a_changed_file_is_noticed_before_it_is_read(copied):
    path = copied / "heads.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsCorrupt, match=r"heads\.safetensors"):
        shipped.read_manifest(copied)


@pytest.mark.parametrize("key", ["base", "cls_layer", "feature_layers"])
def test_weights_of_another_base_are_refused(copied, parts, key):
    manifest = {**shipped.read_manifest(copied), key: "other"}
    with pytest.raises(AdapterMismatch, match=key):
        shipped.load_into(copy.copy(parts), copied, manifest)


def test_a_folder_without_weights_says_how_to_get_them(tmp_path, settings):
    with pytest.raises(WeightsUnavailable, match="finetune"):
        shipped.load(settings, tmp_path)


def test_an_adapter_without_effect_is_not_shipped(parts, settings, tmp_path):
    own = copy.copy(parts)
    own.model = copy.deepcopy(parts.model)
    assembly.add_adapter(own)
    with pytest.raises(AdapterMismatch, match="no measurable effect"):
        shipped.save_shipped(tmp_path, own, version="1", training={}, settings=settings)
    assert not (tmp_path / "compact.json").exists()


def test_yes_and_no_are_scored_by_the_first_token_after_the_question(parts, backbone, pictures):
    from vlmforensics.vlm.yes_no import ask, first_tokens

    tokens = parts.tokens
    yes, no = first_tokens(tokens.text, "assistant\n")
    assert {tokens.tokenizer.decode([i]).strip().lower() for i in yes} >= {"yes"}
    found = backbone.yes_no(pictures[0], ["Is the skin too smooth?", "Do the shadows disagree?"])
    prompt = [*tokens.look(()), *tokens.instruct(ask("Do the shadows disagree?"), "")]
    with torch.inference_mode():
        output = parts.model(
            input_ids=torch.tensor([prompt]), pixel_values=normalise([squash(pictures[0])], parts.device)
        )
    logits = output.logits[0, -1].double()
    expected = torch.logsumexp(logits[yes], 0) - torch.logsumexp(logits[no], 0)
    assert found[1] == pytest.approx(float(expected), abs=1e-3)
    assert found[0] != found[1]


def test_replies_written_together_equal_those_written_alone(backbone, pictures):
    looks = [backbone.look(picture, (HINT,) * (row % 2)) for row, picture in enumerate(pictures)]
    asked = ["Describe the picture.", "Explain at length what can be seen in it.", "Why?"][: len(looks)]
    prefixes = ["The picture ", "", "It shows "][: len(looks)]
    alone = [
        "".join(backbone.narrate(look, ask, prefix=prefix, max_new_tokens=6))
        for look, ask, prefix in zip(looks, asked, prefixes, strict=True)
    ]
    assert backbone.narrate_many(looks, asked, prefixes, max_new_tokens=6) == alone
    cut = backbone.narrate_many(
        looks, asked, prefixes, max_new_tokens=6, enough=lambda row, text: row == 1 and bool(text)
    )
    assert [cut[0], cut[2]] == [alone[0], alone[2]]
    assert alone[1].startswith(cut[1])
    assert len(cut[1]) < len(alone[1])
