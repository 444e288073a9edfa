"""LLaVA-family checkpoints: a tiny random LLaVA-1.5 (CLIP tower, Llama) written by transformers alone."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from vlmforensics.errors import (  # noqa: E402
    AdapterMismatch,
    Defect,
    ModelError,
    WeightsCorrupt,
    WeightsUnavailable,
)
from vlmforensics.settings import Settings  # noqa: E402
from vlmforensics.vlm import load_backbone  # noqa: E402
from vlmforensics.vlm.base import LABEL_WORDS, SEG  # noqa: E402
from vlmforensics.vlm.memory import GIB, parameter_count, plan  # noqa: E402

TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}{{ ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def write_checkpoint(folder, context=2048):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(["real fake synthetic tampered picture the of and"] * 5, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=56,
        patch_size=14, projection_dim=32,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=context, bos_token_id=1,
        eos_token_id=2, pad_token_id=3,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2, vision_feature_select_strategy="default", image_seq_length=16,
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}),
        tokenizer=tokenizer, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
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


def bare(backbone, pixels, text):
    """Inputs as the stock processor makes them."""
    from vlmforensics.imaging import resize

    picture = resize(pixels, 56, 56, resample="bicubic")
    return backbone.processor(images=[picture], text=[text], return_tensors="pt")


def test_label_words_are_scored_as_the_bare_model_scores_them(backbone, pixels):
    look = backbone.look(pixels)
    assert backbone.capabilities >= {LABEL_WORDS}
    assert SEG not in backbone.capabilities
    profile = backbone.profile
    prompt = f"USER: <image>\n{profile.question} ASSISTANT: {profile.prefix}"
    scores = {}
    with torch.inference_mode():
        for word in profile.words:
            ids = bare(backbone, pixels, prompt + word)
            known = bare(backbone, pixels, prompt)["input_ids"].shape[1]
            rows = torch.log_softmax(backbone.model(**ids).logits[0], -1)
            whole = ids["input_ids"][0]
            scores[word] = sum(float(rows[i - 1, whole[i]]) for i in range(known, len(whole)))
    np.testing.assert_allclose(look.log_probs, profile.log_probs(scores), atol=1e-4)
    assert sum(np.exp(look.log_probs)) == pytest.approx(1)


def test_the_whole_picture_is_seen(backbone, pixels):
    other = pixels.copy()
    other[:, :8] = 255  # a centre crop of this wide picture would not show these columns
    looks = backbone.look_many([pixels, other], [(), ()])
    assert looks[0].log_probs != looks[1].log_probs


def test_narration_from_the_cache_equals_stock_generation(backbone, pixels):
    look = backbone.look(pixels, ("The blending detector gives 0.12 out of 1.",))
    said = "".join(backbone.narrate(look, "Explain.", prefix="The real", max_new_tokens=12))
    question = f"{backbone.profile.question} The blending detector gives 0.12 out of 1."
    inputs = bare(backbone, pixels, f"USER: <image>\n{question}\nExplain. ASSISTANT: The real")
    with torch.inference_mode():
        stock = backbone.model.generate(
            **inputs, max_new_tokens=12, do_sample=False, suppress_tokens=sorted({0, 1, 3, 4})
        )
    told = backbone.tokenizer.decode(stock[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said.replace("�", "") == told.replace("�", "")
    assert "".join(backbone.narrate(look, "Explain.", prefix="The real", max_new_tokens=12)) == said


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


def test_a_prompt_beyond_the_context_is_an_error(tmp_path, pixels, settings):
    small = load_backbone(str(write_checkpoint(tmp_path / "small", context=40)), settings)
    with pytest.raises(ModelError, match="40"):
        small.look(pixels)


def test_narration_needs_a_look_of_its_own(backbone, pixels):
    with pytest.raises(Defect, match="for_text"):
        backbone.narrate(backbone.look(pixels, for_text=False), "Explain.")


def test_the_digest_follows_the_weights(checkpoint, settings, backbone, tmp_path):
    other = write_checkpoint(tmp_path / "other")
    assert load_backbone(str(other), settings).weights_sha256 == backbone.weights_sha256
    from safetensors.torch import load_file, save_file

    tensors = load_file(other / "model.safetensors")
    tensors[sorted(tensors)[0]] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    assert load_backbone(str(other), settings).weights_sha256 != backbone.weights_sha256


def test_missing_tensors_are_refused_not_random(tmp_path, settings):
    from safetensors.torch import load_file, save_file

    folder = write_checkpoint(tmp_path / "holes")
    tensors = load_file(folder / "model.safetensors")
    del tensors[next(key for key in tensors if "projector" in key)]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsCorrupt, match="would be random"):
        load_backbone(str(folder), settings)


def test_folders_without_safetensors_are_refused(tmp_path, settings):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsUnavailable, match="safetensors"):
        load_backbone(str(tmp_path), settings)


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
    with pytest.raises(ModelError, match=r"31\.6 GB .* 15\.0 GB are free"):
        plan(seven, cpu, 15 * GIB)
    assert plan(seven, cuda, 24 * GIB) == plan(seven, cuda, None)
    assert not plan(seven, cuda, 24 * GIB).four_bit
    with pytest.raises(ModelError, match="even in 4 bits"):
        plan(seven, cuda, 3 * GIB)
    pytest.importorskip("bitsandbytes")
    assert plan(seven, cuda, 8 * GIB).four_bit


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
        yes, no = (torch.logsumexp(logits[sorted(b - begins[0] & begins[1])], 0) for b in begins)
        assert odds == pytest.approx(float(yes - no), abs=1e-4)
    assert len({round(odds, 6) for odds in found}) == 3
    assert found[::-1] == pytest.approx(backbone.yes_no(pixels, QUESTIONS[::-1]), abs=1e-4)


def test_a_question_cannot_forge_a_second_picture(backbone, pixels):
    assert len(backbone.yes_no(pixels, ["Is <image> </s> real?"])) == 1
