"""SIDA's original layout, converted: a tiny checkpoint with the true names, against the original's arithmetic."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from vlmforensics.errors import ModelError, SettingsError, WeightsCorrupt, WeightsUnavailable  # noqa: E402
from vlmforensics.settings import Settings  # noqa: E402
from vlmforensics.vlm import LABEL_HEAD, SEG, load_backbone  # noqa: E402
from vlmforensics.vlm.sida_convert import convert_sida, new_name  # noqa: E402

WIDTH, LAYERS = 48, 3


def write_original(folder, families):
    """What SIDA's code saves: LISA's names, no tower, LLaVA 1.0's single projector layer."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    words = families.tokenizer()
    words.add_tokens(["[CLS]", "[SEG]"])
    words.add_special_tokens({"additional_special_tokens": ["<im_start>", "<im_end>"]})
    language = LlamaForCausalLM(families.llama(words))
    tensors = {name: tensor.clone() for name, tensor in language.state_dict().items()}
    draw = torch.Generator().manual_seed(1)

    def linear(name, out, into):
        tensors[f"{name}.weight"] = torch.randn(out, into, generator=draw) / into**0.5
        tensors[f"{name}.bias"] = torch.randn(out, generator=draw) / 10

    linear("model.mm_projector", WIDTH, 32)
    linear("model.cls_head.0.0", WIDTH // 2, WIDTH)
    linear("model.cls_head.0.3", 3, WIDTH // 2)
    linear("model.text_hidden_fcs.0.0", WIDTH, WIDTH)
    linear("model.text_hidden_fcs.0.2", 256, WIDTH)
    linear("model.sida_fc1", 256, 3)
    attention = torch.nn.MultiheadAttention(256, 8, batch_first=True)
    tensors |= {
        f"model.attention_layer.{name}": value.clone() for name, value in attention.state_dict().items()
    }
    tensors["model.visual_model.pixel_mean"] = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    tensors["model.visual_model.mask_decoder.iou_token.weight"] = torch.randn(1, 256, generator=draw)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    folder.mkdir(parents=True)
    names = sorted(tensors)
    for part, some in enumerate((names[::2], names[1::2]), start=1):
        save_file(
            {name: tensors[name].contiguous() for name in some},
            folder / f"model-{part:05d}-of-00002.safetensors",
        )
    config = families.llama(words).to_dict() | {
        "model_type": "llava", "architectures": ["SIDAForCausalLM"], "mm_vision_tower": "openai/clip-vit-large-patch14",
        "mm_hidden_size": 32, "mm_vision_select_layer": -2, "mm_use_im_start_end": True, "out_dim": 256,
        "train_mask_decoder": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    words.save_pretrained(folder)
    return tensors


@pytest.fixture(scope="module")
def made(tmp_path_factory, families):
    from transformers import CLIPVisionModel

    root = tmp_path_factory.mktemp("sida")
    tensors = write_original(root / "original", families)
    tower = CLIPVisionModel(families.clip())
    tower.save_pretrained(root / "clip")
    # the hub's CLIP has its tower under vision_model
    file = root / "clip" / "model.safetensors"
    renamed = {
        name if name.startswith("vision_model.") else f"vision_model.{name}": value
        for name, value in load_file(file).items()
    }
    save_file(renamed, file, metadata={"format": "pt"})
    convert_sida(root / "original", root / "tiny-sida", vision=root / "clip")
    return root, tensors, tower


@pytest.fixture(scope="module")
def backbone(made, tmp_path_factory):
    settings = Settings(cache=tmp_path_factory.mktemp("cache"), device="cpu", offline=True)
    return load_backbone(str(made[0] / "tiny-sida"), settings)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def original_states(made, backbone, pixels, answer):
    """Final hidden states as the original code computes them, with its own tensors and names."""
    from transformers import LlamaForCausalLM

    _, tensors, tower = made
    language = LlamaForCausalLM(backbone.model.config.text_config)
    rows = len(tensors["model.embed_tokens.weight"])
    language.resize_token_embeddings(rows)
    own = {name: value for name, value in tensors.items() if name in language.state_dict()}
    language.load_state_dict(own)
    seen = backbone.processor.image_processor(images=[pixels], return_tensors="pt")["pixel_values"]
    encode = backbone.tokenizer
    profile = backbone.profile
    before, after = profile.template.split("{image}")
    head = encode(before)["input_ids"]
    tail = encode(after.replace("{text}", profile.question), add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        features = tower(seen, output_hidden_states=True).hidden_states[-2][:, 1:]
        picture = torch.nn.functional.linear(
            features, tensors["model.mm_projector.weight"], tensors["model.mm_projector.bias"]
        )
        table = language.get_input_embeddings()
        row = torch.cat(
            [table(torch.tensor([head])), picture, table(torch.tensor([[*tail, *answer]]))], dim=1
        )
        states = language.model(inputs_embeds=row).last_hidden_state[0]
    return states, len(head) + picture.shape[1] + len(tail)


def test_labels_and_mask_prompt_are_those_of_the_original(made, backbone, pixels):
    tensors = made[1]
    states, prompt = original_states(made, backbone, pixels, backbone._answer)
    inner = torch.relu(
        states[prompt - 1] @ tensors["model.cls_head.0.0.weight"].T + tensors["model.cls_head.0.0.bias"]
    )
    logits = inner @ tensors["model.cls_head.0.3.weight"].T + tensors["model.cls_head.0.3.bias"]
    look = backbone.look(pixels)
    assert backbone.capabilities >= {LABEL_HEAD, SEG}
    np.testing.assert_allclose(look.log_probs, torch.log_softmax(logits, -1), atol=1e-4)
    np.testing.assert_allclose(look.seg, states[-1], atol=1e-4)
    assert look.state.ids.count(backbone.model.config.image_token_id) == 16


def test_the_answer_is_the_original_one(backbone):
    assert backbone.tokenizer.convert_ids_to_tokens(backbone._answer[0]) == "[CLS]"
    assert backbone.tokenizer.decode(backbone._answer[1:]) == "The image is tampered"


def test_it_narrates_and_looks_in_batches(backbone, pixels):
    look = backbone.look(pixels)
    assert isinstance("".join(backbone.narrate(look, "Explain.", prefix="The", max_new_tokens=4)), str)
    other = np.ascontiguousarray(pixels[:, ::-1])
    together = backbone.look_many([pixels, other], [(), ()])
    np.testing.assert_allclose(together[0].log_probs, look.log_probs, atol=1e-4)
    np.testing.assert_allclose(together[1].seg, backbone.look(other).seg, atol=1e-4)
    looks = [look, backbone.look(other, ("a hint",))]
    asked, begun = ["Explain.", "Why is that?"], ["The", ""]
    alone = [
        "".join(backbone.narrate(seen, ask, prefix=prefix, max_new_tokens=6))
        for seen, ask, prefix in zip(looks, asked, begun, strict=True)
    ]
    assert backbone.narrate_many(looks, asked, begun, max_new_tokens=6) == alone


def test_everything_of_the_original_is_kept(made):
    root, tensors, _ = made
    heads = root / "tiny-sida" / "heads"
    assert load_file(heads / "label.safetensors").keys() == {
        "inner.weight",
        "inner.bias",
        "outer.weight",
        "outer.bias",
    }
    prompt = load_file(heads / "prompt.safetensors")
    assert torch.equal(prompt["attention.in_proj_weight"], tensors["model.attention_layer.in_proj_weight"])
    assert len(prompt) == 10
    assert set(load_file(heads / "sam.safetensors")) == {"pixel_mean", "mask_decoder.iou_token.weight"}


def test_the_digest_covers_the_heads(made, backbone, tmp_path):
    import shutil

    copy = tmp_path / "tiny-sida"
    shutil.copytree(made[0] / "tiny-sida", copy)
    head = load_file(copy / "heads" / "label.safetensors")
    head["outer.bias"] += 1
    save_file(head, copy / "heads" / "label.safetensors")
    other = load_backbone(str(copy), Settings(cache=tmp_path, device="cpu", offline=True))
    assert other.weights_sha256 != backbone.weights_sha256


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.layers.3.mlp.up_proj.weight", ("model", "language_model.model.layers.3.mlp.up_proj.weight")),
        (
            "model.vision_tower.vision_tower.vision_model.pre_layrnorm.bias",
            ("model", "vision_tower.vision_model.pre_layrnorm.bias"),
        ),
        ("model.mm_projector.0.weight", ("model", "multi_modal_projector.linear_1.weight")),
        ("model.visual_model.image_encoder.neck.0.weight", ("sam", "image_encoder.neck.0.weight")),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", None),
    ],
)  # fmt: skip
def test_names(old, new):
    assert new_name(old) == new


def test_unknown_tensors_are_refused():
    with pytest.raises(WeightsCorrupt, match="does not belong"):
        new_name("model.head_of_another.weight")


def test_what_can_not_be_converted_is_said(made, tmp_path, families):
    root = made[0]
    with pytest.raises(SettingsError, match="exists already"):
        convert_sida(root / "original", root / "tiny-sida", vision=root / "clip")
    with pytest.raises(WeightsUnavailable, match="--vision"):
        convert_sida(root / "original", tmp_path / "out")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text('{"mm_vision_tower": "clip"}')
    (tmp_path / "pickled" / "pytorch_model-00001-of-00002.bin").write_bytes(b"")
    with pytest.raises(WeightsUnavailable, match="pickles"):
        convert_sida(tmp_path / "pickled", tmp_path / "out")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="original LLaVA code"):
        convert_sida(tmp_path / "plain", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="convert-sida"):
        load_backbone(str(root / "original"), Settings(cache=tmp_path, device="cpu", offline=True))
