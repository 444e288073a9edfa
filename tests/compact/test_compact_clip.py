"""The CLIP tower: weights out of an 8-bit ONNX file, strictly; class tokens of all blocks."""

import numpy as np
import pytest
import torch

from vlmforensics.compact import clip
from vlmforensics.errors import WeightsCorrupt

onnx = pytest.importorskip("onnx")
MODULES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
)


@pytest.fixture
def stock(monkeypatch):
    """A random tower of the true layout but one block of sixteen numbers."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    monkeypatch.setattr(clip, "DEPTH", 1)
    monkeypatch.setattr(clip, "WIDTH", 48)
    config = CLIPVisionConfig(
        hidden_size=48, intermediate_size=192, num_hidden_layers=1, num_attention_heads=12, patch_size=16,
        hidden_act="quick_gelu",
    )  # fmt: skip
    torch.manual_seed(0)
    return CLIPVisionModel(config).eval()


def exported(model, file, leave_out=""):
    """As the wheel's file: named biases and norms, anonymous int8 products with a scale an output."""
    from onnx import TensorProto, helper, numpy_helper

    state = {
        clip.PREFIX + name.removeprefix(clip.PREFIX): t.numpy() for name, t in model.state_dict().items()
    }
    nodes, arrays = [], {}
    for number, module in enumerate([*(f"encoder.layers.0.{m}" for m in MODULES), clip.PROJECTION]):
        path = (
            f"/{clip.PROJECTION}"
            if module == clip.PROJECTION
            else f"/vision_model/{module.replace('.', '/')}"
        )
        # the graph keeps the dots of a list's place: encoder/layers.0/self_attn/q_proj
        path = path.replace("layers/0", "layers.0")
        weight = state.pop(f"{clip.PREFIX}{module}.weight", np.ones((4, 48), np.float32))
        scale = np.abs(weight).max(1) / 127
        name = f"onnx::MatMul_{number}"
        arrays[f"{name}_quantized"] = np.rint(weight / scale[:, None]).astype(np.int8).T
        arrays[f"{name}_scale"] = scale.astype(np.float32)
        arrays[f"{name}_zero_point"] = np.zeros(len(scale), np.int8)
        inputs = ["in", f"{name}_quantized", "in_zero_point", f"{name}_zero_point"]
        nodes.append(helper.make_node("MatMulInteger", inputs, [f"out{number}"], name=f"{path}/MatMul_quant"))
    arrays |= {name: array for name, array in state.items() if name != leave_out}
    entries = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()]
    inputs = [helper.make_tensor_value_info("in", TensorProto.UINT8, [1])]
    onnx.save(helper.make_model(helper.make_graph(nodes, "tower", inputs, [], entries)), str(file))
    return file


def test_a_converted_tower_says_what_the_original_says(stock, tmp_path, monkeypatch):
    folder = tmp_path / "made"
    folder.mkdir()
    clip.convert({clip.PACKAGE: exported(stock, tmp_path / "tower.onnx")}, folder)
    monkeypatch.setattr(clip.weights, "pull", lambda name, settings: folder)
    made = clip.load()
    squares = torch.rand(2, 3, clip.SIDE, clip.SIDE)
    with torch.inference_mode():
        one, other = clip.Clip(stock, torch.device("cpu")).class_tokens(squares), made.class_tokens(squares)
    assert one.shape == (2, 48)
    assert torch.allclose(one, other, atol=0.03)
    assert not torch.allclose(other[0], other[1], atol=1e-4)


def test_a_file_without_a_tensor_is_refused_by_its_name(stock, tmp_path):
    lost = f"{clip.PREFIX}encoder.layers.0.layer_norm1.bias"
    with pytest.raises(WeightsCorrupt, match=r"layer_norm1\.bias"):
        clip.convert({clip.PACKAGE: exported(stock, tmp_path / "tower.onnx", leave_out=lost)}, tmp_path)


@pytest.mark.model
def test_the_pinned_tower_sees_what_is_in_a_picture():
    """Two views of one photograph are closer than photographs of different things: the weights are no noise."""
    from skimage import data

    tower = clip.load()
    pictures = [data.chelsea(), data.chelsea()[20:, 30:], data.coffee(), data.astronaut()]
    last = np.stack([tower.read(np.ascontiguousarray(p))[-clip.WIDTH :] for p in pictures])
    last /= np.linalg.norm(last, axis=1, keepdims=True)
    alike = last @ last.T
    assert alike[0, 1] > 0.9
    assert alike[0, 1] > alike[0, 2:].max() + 0.1


@pytest.mark.model
def test_patch_tokens_lie_where_the_patches_lie():
    tower = clip.load()
    pixels = np.full((200, 400, 3), 90, np.uint8)
    pixels[:50, 300:] = (240, 30, 30)
    tokens = tower.patch_tokens(pixels, 336, (3, 12))
    assert tokens.shape == (21, 21, 2 * clip.WIDTH)
    early = tokens[..., : clip.WIDTH]
    apart = np.linalg.norm(early - np.median(early, axis=(0, 1)), axis=-1)
    rows, columns = np.nonzero(apart > np.quantile(apart, 0.97))
    assert rows.mean() < 6
    assert columns.mean() > 14
    with torch.inference_mode():
        square = torch.from_numpy(clip.squash(pixels, clip.SIDE)).permute(2, 0, 1)[None].float() / 255
        whole = tower.class_tokens(square)
        again = tower.module(
            pixel_values=clip._normalised(square), output_hidden_states=True, interpolate_pos_encoding=True
        )
    last = again.hidden_states[12][0, 0]
    torch.testing.assert_close(whole[0, -clip.WIDTH :], last, atol=1e-4, rtol=1e-4)
