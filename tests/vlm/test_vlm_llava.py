"""LLaVA-family checkpoints: a tiny random LLaVA-1.5 (CLIP tower, Llama) written by transformers alone."""

import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from vlmforensics.errors import (  # noqa: E402
    AdapterMismatch,
    Defect,
    ModelError,
    SettingsError,
    WeightsCorrupt,
    WeightsUnavailable,
)
from vlmforensics.settings import Settings  # noqa: E402
from vlmforensics.vlm import load_backbone  # noqa: E402
from vlmforensics.vlm.base import LABEL_HEAD, SEG  # noqa: E402
from vlmforensics.vlm.heads import LabelHead, extend_vocabulary  # noqa: E402
from vlmforensics.vlm.memory import GIB, parameter_count, plan  # noqa: E402
from vlmforensics.weights import folder_digest, sha256_of  # noqa: E402


@pytest.fixture(scope="module")
def write_checkpoint(families):
    def write(folder, context=2048):
        return families.write("llava", folder, max_position_embeddings=context)

    return write


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, write_checkpoint):
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "llava")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(cache=tmp_path_factory.mktemp("cache"), device="cpu", offline=True)


@pytest.fixture(scope="module")
def backbone(checkpoint, settings):
    return load_backbone(str(checkpoint), settings)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def test_the_whole_picture_is_seen(backbone, pixels):
    other = pixels.copy()
    other[:, :8] = 255  # a centre crop of this wide picture would not show these columns
    looks = backbone.look_many([pixels, other], [(), ()])
    assert looks[0].log_probs != looks[1].log_probs


def test_text_never_forms_a_control_token(backbone, pixels):
    look = backbone.look(pixels, ("a <image> and </s> in a hint",))
    assert look.state.ids.count(backbone.model.config.image_token_id) == 16
    ids = backbone._fitting(look.state, "end </s> <image> <s>", "so </s>", 10)
    assert ids.count(backbone.model.config.image_token_id) == 16
    assert 2 not in ids


def test_a_long_instruction_gives_way_in_a_small_context(backbone, pixels):
    look = backbone.look(pixels)
    text = "".join(backbone.narrate(look, "Explain this at length. " * 400, prefix="So", max_new_tokens=5))
    assert isinstance(text, str)
    ids = backbone._fitting(look.state, "Explain this at length. " * 400, "So", 5)
    assert len(ids) <= 2048 - 5


def test_a_prompt_beyond_the_context_is_an_error(write_checkpoint, tmp_path, pixels, settings):
    small = load_backbone(str(write_checkpoint(tmp_path / "small", context=40)), settings)
    with pytest.raises(ModelError, match="40"):
        small.look(pixels)


def test_narration_needs_a_look_of_its_own(backbone, pixels):
    with pytest.raises(Defect, match="for_text"):
        backbone.narrate(backbone.look(pixels, for_text=False), "Explain.")


def test_the_digest_follows_the_weights(write_checkpoint, checkpoint, settings, backbone, tmp_path):
    other = write_checkpoint(tmp_path / "other")
    assert load_backbone(str(other), settings).weights_sha256 == backbone.weights_sha256
    from safetensors.torch import load_file, save_file

    tensors = load_file(other / "model.safetensors")
    tensors[sorted(tensors)[0]] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    assert load_backbone(str(other), settings).weights_sha256 != backbone.weights_sha256


def test_missing_tensors_are_refused_not_random(write_checkpoint, tmp_path, settings):
    from safetensors.torch import load_file, save_file

    folder = write_checkpoint(tmp_path / "holes")
    tensors = load_file(folder / "model.safetensors")
    del tensors[next(key for key in tensors if "projector" in key)]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsCorrupt, match="would be random"):
        load_backbone(str(folder), settings)


def test_folders_without_safetensors_are_refused(tmp_path, settings):
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsUnavailable, match="safetensors"):
        load_backbone(str(tmp_path), settings)


def test_a_folder_that_is_no_checkpoint_says_so(tmp_path, settings):
    with pytest.raises(WeightsUnavailable, match=r"no config\.json"):
        load_backbone(str(tmp_path), settings)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsCorrupt, match="not JSON"):
        load_backbone(str(tmp_path), settings)


def test_fakevlm_is_asked_with_its_raw_string_and_remarks_as_it_was_trained_to(checkpoint, settings, pixels):
    """Image token, then the question, no chat template; the explanation goes on from the scored beginning."""
    from vlmforensics.vlm.llava import PROFILES, LlavaBackbone

    fakevlm = LlavaBackbone.load(checkpoint, settings, name="fakevlm", profile=PROFILES["fakevlm"])
    assert fakevlm._prompt(fakevlm._asked(["a hint"])) == "<image>Does the image looks real/fake?"
    look = fakevlm.look(pixels)
    assert look.log_probs[1] == look.log_probs[2]  # its "fake" means either
    inputs = fakevlm.processor(
        images=[pixels], text=["<image>Does the image looks real/fake? This is a"], return_tensors="pt"
    )
    with torch.inference_mode():
        stock = fakevlm.model.generate(
            **inputs, max_new_tokens=160, do_sample=False, suppress_tokens=sorted({0, 1, 3, *range(4, 10)})
        )
    told = fakevlm.tokenizer.decode(stock[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    said = look.remark.removeprefix("This is a")
    assert said
    assert told.replace("�", "").startswith(said.replace("�", "")[:20])
    assert fakevlm.look(pixels, for_text=False).remark == ""


def test_four_bits_work_where_bitsandbytes_does(checkpoint, settings, backbone, pixels):
    pytest.importorskip("bitsandbytes")
    small = load_backbone(str(checkpoint), replace(settings, quantize="nf4"))
    assert small.version == "1+nf4"
    assert backbone.version == "1+float32"
    kinds = {type(module).__name__ for module in small.model.modules()}
    assert "Linear4bit" in kinds
    found, whole = small.look(pixels), backbone.look(pixels)
    np.testing.assert_allclose(found.log_probs, whole.log_probs, atol=0.5)
    assert found.log_probs != whole.log_probs
    assert isinstance("".join(small.narrate(found, "Explain.", max_new_tokens=3)), str)


@pytest.fixture
def adapter(checkpoint, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(checkpoint)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|v_proj)"))
    with torch.no_grad():
        for name, tensor in wrapped.named_parameters():
            if "lora_B" in name:
                tensor.fill_(0.5)
    wrapped.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_folder_loads_over_its_base_and_acts(adapter, backbone, pixels, settings):
    adapted = load_backbone(str(adapter), settings)
    assert adapted.look(pixels).log_probs != backbone.look(pixels).log_probs
    assert adapted.weights_sha256 != backbone.weights_sha256


def test_adapters_are_swapped_without_reading_the_base_again(adapter, backbone, checkpoint, settings, pixels):
    swapped = load_backbone(str(checkpoint), replace(settings, adapter=adapter))
    bare, digest = backbone.look(pixels).log_probs, backbone.weights_sha256
    assert swapped.name == "llava+adapter"
    assert (
        swapped.look(pixels).log_probs == load_backbone(str(adapter), settings).look(pixels).log_probs != bare
    )
    before = swapped.look(pixels)
    swapped.use_adapter(None)
    assert (swapped.name, swapped.weights_sha256) == ("llava", digest)
    assert swapped.look(pixels).log_probs == bare
    with pytest.raises(Defect, match="for_text"):
        swapped.narrate(before, "Explain.")  # its keys and values are those of other weights
    swapped.use_adapter(adapter)
    assert swapped.look(pixels).log_probs == before.log_probs


def write_manifest(adapter, base, settings):
    files = {path.name: sha256_of(path) for path in adapter.iterdir() if path.name != "adapter.json"}
    found = {"name": "llava", "sha256": folder_digest(base, settings)}
    manifest = {"format": "vlmforensics.adapter/1", "base": found, "files": files}
    (adapter / "adapter.json").write_text(json.dumps(manifest))


def test_an_adapter_of_another_base_is_refused_by_hash(
    adapter, checkpoint, write_checkpoint, settings, tmp_path
):
    from safetensors.torch import load_file, save_file

    (adapter / "vlmforensics.json").write_text('{"profile": "x2dfd"}')
    write_manifest(adapter, checkpoint, settings)
    fitting = load_backbone(str(checkpoint), replace(settings, adapter=adapter))
    assert fitting.profile.name == "x2dfd"
    other = write_checkpoint(tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors[sorted(tensors)[0]] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdapterMismatch, match=r"was trained on llava .* another base"):
        load_backbone(str(other), replace(settings, adapter=adapter))
    (adapter / "vlmforensics.json").write_text('{"profile": "general"}')
    with pytest.raises(AdapterMismatch, match="copy the adapter again"):
        load_backbone(str(checkpoint), replace(settings, adapter=adapter))


def test_heads_beside_an_adapter_read_labels_and_the_mask_prompt(checkpoint, settings, pixels, tmp_path):
    """``[CLS]`` and ``[SEG]`` get rows, stand at the end of the user's turn, and leave no trace when swapped out."""
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(checkpoint)
    tokens = AutoProcessor.from_pretrained(checkpoint).tokenizer
    marks = extend_vocabulary(model, tokens, ("[CLS]", "[SEG]"))
    config = LoraConfig(
        r=2,
        target_modules=r".*language_model.*\.(q_proj|v_proj)",
        trainable_token_indices={"embed_tokens": list(marks)},
    )
    wrapped = get_peft_model(model, config)
    with torch.no_grad():
        for name, tensor in wrapped.named_parameters():
            if "lora_B" in name or "trainable_tokens_delta" in name:
                tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)) / 5)
    folder = tmp_path / "headed"
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    torch.manual_seed(2)
    head = LabelHead(48)
    save_file({f"label.{k}": v for k, v in head.state_dict().items()}, folder / "heads.safetensors")
    note = {
        "profile": "explained",
        "cls": "[CLS]",
        "seg": "[SEG]",
        "layer": 2,
        "label_head": "heads.safetensors",
    }
    (folder / "vlmforensics.json").write_text(json.dumps(note))
    write_manifest(folder, checkpoint, settings)

    bare = load_backbone(str(checkpoint), settings)
    before = bare.look(pixels).log_probs
    bare.use_adapter(folder)
    assert bare.capabilities >= {LABEL_HEAD, SEG}
    look = bare.look(pixels)
    text = bare._prompt(bare._asked(())) + bare._join(bare.profile.prefix)
    assert "tampered with?[CLS][SEG] " in text
    inputs = bare.processor(images=[bare._fit(pixels)], text=[text], return_tensors="pt")
    with torch.inference_mode():
        states = wrapped.eval()(**inputs, output_hidden_states=True).hidden_states[2][0]
        ids = inputs["input_ids"][0].tolist()
        wanted = head.log_probs(states[ids.index(marks[0])][None])[0]
    np.testing.assert_allclose(look.log_probs, wanted, atol=1e-4)
    np.testing.assert_allclose(look.seg, states[ids.index(marks[1])], atol=1e-4)
    other = np.ascontiguousarray(pixels[::-1])
    together = bare.look_many([pixels, other], [(), ("The blending detector gives 0.12 out of 1.",)])
    np.testing.assert_allclose(together[0].log_probs, look.log_probs, atol=1e-4)
    assert isinstance("".join(bare.narrate(look, "a [CLS] of a user", max_new_tokens=3)), str)
    assert bare._fitting(look.state, "a [CLS] of a user", "", 3).count(marks[0]) == 1
    bare.use_adapter(None)
    assert bare.look(pixels).log_probs == before
    assert isinstance("".join(bare.narrate(bare.look(pixels), "Go.", max_new_tokens=3)), str)
    assert SEG not in bare.capabilities

    merged = tmp_path / "merged"  # as training exports it: one folder, heads in it
    wrapped.merge_and_unload().save_pretrained(merged)
    bare.processor.tokenizer.save_pretrained(merged)
    bare.processor.save_pretrained(merged)
    for file in ("heads.safetensors", "vlmforensics.json"):
        shutil.copy(folder / file, merged / file)
    whole = load_backbone(str(merged), settings)
    assert whole.capabilities >= {LABEL_HEAD, SEG}
    np.testing.assert_allclose(whole.look(pixels).log_probs, look.log_probs, atol=1e-4)


def test_a_head_of_another_width_is_refused(adapter, checkpoint, settings):
    from safetensors.torch import save_file

    save_file({f"label.{k}": v for k, v in LabelHead(32).state_dict().items()}, adapter / "heads.safetensors")
    note = {"cls": "[CLS]", "seg": "[SEG]", "layer": -1, "label_head": "heads.safetensors"}
    (adapter / "vlmforensics.json").write_text(json.dumps(note))
    with pytest.raises(AdapterMismatch, match="states of 48"):
        load_backbone(str(checkpoint), replace(settings, adapter=adapter))


def test_a_refused_adapter_leaves_everything_as_it_was(adapter, checkpoint, settings, tmp_path, pixels):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(adapter, broken)
    tensors = load_file(broken / "adapter_model.safetensors")
    save_file(
        {key.replace("q_proj", "k_proj"): value for key, value in tensors.items()},
        broken / "adapter_model.safetensors",
    )
    swapped = load_backbone(str(checkpoint), replace(settings, adapter=adapter))
    before = swapped.look(pixels).log_probs
    with pytest.raises(AdapterMismatch, match="unexpected"):
        swapped.use_adapter(broken)
    assert swapped.look(pixels).log_probs == before
    assert swapped.name == "llava+adapter"


@pytest.mark.parametrize(
    ("model", "says"), [("compact", "compact.json"), ("http://127.0.0.1:9/v1", "server")]
)
def test_adapters_that_can_not_go_over_a_model_are_refused(adapter, settings, model, says):
    pytest.importorskip("httpx")
    with pytest.raises((AdapterMismatch, SettingsError), match=says):
        load_backbone(model, replace(settings, adapter=adapter, remote_enabled=True))


def test_an_adapter_that_does_not_fit_is_refused(adapter, settings):
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({key.replace("q_proj", "k_proj"): value for key, value in tensors.items()}, path)
    with pytest.raises(AdapterMismatch, match="unexpected"):
        load_backbone(str(adapter), settings)


def test_an_adapter_without_its_base_says_which(adapter, settings):
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "somebody/else-7b"
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsUnavailable, match="somebody/else-7b"):
        load_backbone(str(adapter), settings)


def test_memory_is_counted_before_loading(checkpoint, monkeypatch):
    assert parameter_count(checkpoint) == pytest.approx(130_000, rel=0.5)
    seven = 7_060_000_000
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert plan(seven, cpu, 64 * GIB).dtype == torch.float32
    assert plan(seven, cuda, 24 * GIB) == plan(seven, cuda, None)
    assert plan(seven, cuda, 24 * GIB).label == "bfloat16"
    for device, quantize, free, says in (
        (
            cpu,
            "none",
            15,
            r"needs 31\.6 GB of memory in 32 bits on cpu, 15\.0 GB free: use 4-bit \(--quantize nf4\)",
        ),
        (cpu, "auto", 3, r"needs 4\.9 GB of memory in 4 bits on cpu, 3\.0 GB free: use a GPU, a server"),
        (cuda, "none", 8, r"needs 15\.8 GB of memory in 16 bits on cuda, 8\.0 GB free: use 4-bit"),
        (cuda, "nf4", 3, r"needs 4\.9 GB of memory in 4 bits on cuda, 3\.0 GB free: close what else"),
    ):
        with pytest.raises(ModelError, match=says):
            plan(seven, device, free * GIB, quantize=quantize)


def test_what_does_not_fit_on_the_card_is_quantised_or_spills(monkeypatch):
    pytest.importorskip("bitsandbytes")
    seven, cuda = 7_060_000_000, torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    small = plan(seven, cuda, 8 * GIB, beside=64 * GIB)
    assert small.four_bit
    assert small.arguments(cuda)["device_map"] == {"": "cuda:1"}
    assert plan(seven, torch.device("cpu"), 8 * GIB).label == "nf4"
    spilt = plan(seven, cuda, 8 * GIB, quantize="none", beside=64 * GIB)
    assert spilt.label == "bfloat16"
    assert spilt.placed
    assert spilt.arguments(cuda)["max_memory"][1] == 6 * GIB
    assert plan(seven, cuda, 3 * GIB, beside=64 * GIB).spill
    with pytest.raises(ModelError, match="4 bits"):
        plan(seven, cuda, 3 * GIB, beside=4 * GIB)


def test_without_bitsandbytes_the_way_to_it_is_shown(monkeypatch):
    import vlmforensics.vlm.memory as memory

    monkeypatch.setattr(memory, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"vlmforensics\[train\]") as caught:
        plan(7_060_000_000, torch.device("cpu"), 8 * GIB)
    assert caught.value.code == "extra.train"


def test_the_published_seven_billion_layout_is_the_one_that_is_built():
    """LLaVA-1.5-7B at full size without memory: names and shapes as llava-hf/llava-1.5-7b-hf publishes them."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=32064, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        max_position_embeddings=4096, rms_norm_eps=1e-5,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text))
    built = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("position_ids"):
            continue
        name = re.sub(r"^model\.language_model\.", "language_model.model.", name)
        name = re.sub(r"^lm_head\.", "language_model.lm_head.", name)
        name = re.sub(r"^model\.vision_tower\.(?:vision_model\.)?", "vision_tower.vision_model.", name)
        built[name.removeprefix("model.")] = tuple(tensor.shape)
    assert built == published_layout()
    assert sum(math.prod(shape) for shape in built.values()) == 7_063_427_072


def published_layout():
    d, t = 4096, 1024
    shapes = {
        "language_model.model.embed_tokens.weight": (32064, d),
        "language_model.model.norm.weight": (d,),
        "language_model.lm_head.weight": (32064, d),
        "multi_modal_projector.linear_1.weight": (d, t),
        "multi_modal_projector.linear_1.bias": (d,),
        "multi_modal_projector.linear_2.weight": (d, d),
        "multi_modal_projector.linear_2.bias": (d,),
        "vision_tower.vision_model.embeddings.class_embedding": (t,),
        "vision_tower.vision_model.embeddings.patch_embedding.weight": (t, 3, 14, 14),
        "vision_tower.vision_model.embeddings.position_embedding.weight": (577, t),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"vision_tower.vision_model.{norm}.{part}": (t,) for part in ("weight", "bias")}
    for layer in range(32):
        base = f"language_model.model.layers.{layer}"
        shapes |= {f"{base}.self_attn.{name}_proj.weight": (d, d) for name in "qkvo"}
        shapes |= {f"{base}.mlp.{name}_proj.weight": (11008, d) for name in ("gate", "up")}
        shapes[f"{base}.mlp.down_proj.weight"] = (d, 11008)
        shapes |= {f"{base}.{name}_layernorm.weight": (d,) for name in ("input", "post_attention")}
    for layer in range(24):
        base = f"vision_tower.vision_model.encoder.layers.{layer}"
        for name in ("q", "k", "v", "out"):
            shapes |= {
                f"{base}.self_attn.{name}_proj.weight": (t, t),
                f"{base}.self_attn.{name}_proj.bias": (t,),
            }
        shapes |= {f"{base}.mlp.fc1.weight": (4096, t), f"{base}.mlp.fc1.bias": (4096,)}
        shapes |= {f"{base}.mlp.fc2.weight": (t, 4096), f"{base}.mlp.fc2.bias": (t,)}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{base}.{name}.weight": (t,), f"{base}.{name}.bias": (t,)}
    return shapes


def bare(backbone, pixels, text):
    """Inputs as the stock processor makes them."""
    from vlmforensics.imaging import resize

    picture = resize(pixels, 56, 56, resample="bicubic")
    return backbone.processor(images=[picture], text=[text], return_tensors="pt")


QUESTIONS = ("Is the skin too smooth?", "Do shadows disagree?", "Is writing garbled?")


def test_yes_and_no_are_scored_as_the_bare_model_scores_them(backbone, pixels):
    from vlmforensics.vlm.base import YES_NO
    from vlmforensics.vlm.yes_no import NO, YES

    assert YES_NO in backbone.capabilities
    found = backbone.yes_no(pixels, QUESTIONS)
    for question, odds in zip(QUESTIONS, found, strict=True):
        prompt = f"USER: <image>\n{question} Answer yes or no. ASSISTANT:"
        inputs = bare(backbone, pixels, prompt)
        with torch.inference_mode():
            logits = backbone.model(**inputs).logits[0, -1].double()
        size = inputs["input_ids"].shape[1]
        begins = [
            {int(bare(backbone, pixels, prompt + w)["input_ids"][0, size]) for w in words}
            for words in (YES, NO)
        ]
        yes, no = (torch.logsumexp(logits[sorted(b - (begins[0] & begins[1]))], 0) for b in begins)
        assert odds == pytest.approx(float(yes - no), abs=1e-4)
    assert len({round(odds, 6) for odds in found}) == 3
    assert found[::-1] == pytest.approx(backbone.yes_no(pixels, QUESTIONS[::-1]), abs=1e-4)


def test_a_question_cannot_forge_a_second_picture(backbone, pixels):
    assert len(backbone.yes_no(pixels, ["Is <image> </s> real?"])) == 1
