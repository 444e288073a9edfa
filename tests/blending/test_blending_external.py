"""Third-party detectors: a TorchScript (and ONNX) file with a TOML, and what is refused."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vlmforensics.blending import ExternalDetector
from vlmforensics.errors import MissingExtra, ModelError, SettingsError, WeightsCorrupt, WeightsUnavailable
from vlmforensics.imaging import encode, open_case
from vlmforensics.types import CaseImage

TOML = """
model = "small.pt"
name = "small"
width = 32
height = 24
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
"""


class Small(nn.Module):
    """Two logits (0, mean of the first channel · 4) and a map of the third channel."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        red = x[:, 0].mean(dim=(1, 2)) * 4
        return torch.stack([torch.zeros_like(red), red], dim=1), x[:, 2:3] * 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.jit.trace(Small(), torch.zeros(1, 3, 24, 32)).save(str(tmp_path / "small.pt"))
    (tmp_path / "small.toml").write_text(TOML, encoding="utf-8")
    return tmp_path


def case(red: int, blue: int = 0) -> CaseImage:
    pixels = np.zeros((96, 128, 3), np.uint8)
    pixels[..., 0] = red
    pixels[:, 64:, 2] = blue
    return open_case(encode(pixels, "PNG"), file="x.png")


def test_torchscript_gives_the_documented_score(folder: Path) -> None:
    detector = ExternalDetector.load(folder / "small.toml")
    found = detector.examine(case(red=204))
    assert len(found) == 1
    expected = 1 / (1 + np.exp(-4 * (0.8 - 0.5) / 0.5))  # softmax over (0, z) is the logistic function of z
    assert found[0].score == pytest.approx(expected, abs=1e-5)
    assert found[0].source == "blending"
    assert "small" in found[0].statement
    assert "draws no map" in found[0].statement
    assert found[0].recompute["weights_sha256"] == detector.weights_sha256
    assert detector.weights_sha256 == hashlib.sha256((folder / "small.pt").read_bytes()).hexdigest()
    assert f"{expected:.2f}" in detector.sentence(found[0])


def test_channel_order_and_index(folder: Path) -> None:
    (folder / "bgr.toml").write_text(TOML + 'channels = "bgr"\nindex = 0\n', encoding="utf-8")
    swapped = ExternalDetector.load(folder / "bgr.toml").examine(case(red=204))[0].score
    assert swapped == pytest.approx(
        1 - 1 / (1 + np.exp(4)), abs=1e-3
    )  # blue is 0, and index 0 is the complement


def test_map_becomes_region_and_heatmap(folder: Path) -> None:
    (folder / "map.toml").write_text(TOML + "map_output = 1\nthreshold = 0.6\n", encoding="utf-8")
    found, traces = ExternalDetector.load(folder / "map.toml").examine_map(case(red=0, blue=255))
    assert traces is not None
    assert traces.boundary.shape == (24, 32)
    assert traces.region is None
    assert found[0].region is not None
    assert found[0].region.box.x1 == 128
    assert abs(found[0].region.box.x0 - 64) <= 4
    assert found[0].heatmap is not None


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ('sha256 = "00"\n', WeightsCorrupt, "SHA-256"),
        ("colour = 3\n", SettingsError, "unknown keys"),
        ('channels = "hsv"\n', SettingsError, "channels"),
        ("index = 5\n", ModelError, "no index 5"),
        ('activation = "none"\n', ModelError, "not a score"),
        ("map_output = 4\n", ModelError, "no output 4"),
        ("map_output = 0\n", ModelError, "no map"),
        ('scale = "big"\n', SettingsError, "wrong type"),
    ],
)
def test_wrong_recipes_are_refused(folder: Path, change: str, error: type[Exception], match: str) -> None:
    (folder / "bad.toml").write_text(TOML + change, encoding="utf-8")
    with pytest.raises(error, match=match):
        ExternalDetector.load(folder / "bad.toml").examine(case(red=255))


def test_missing_outside_and_broken_models(folder: Path) -> None:
    (folder / "none.toml").write_text(TOML.replace("small.pt", "none.pt"), encoding="utf-8")
    with pytest.raises(WeightsUnavailable):
        ExternalDetector.load(folder / "none.toml")
    (folder / "out.toml").write_text(TOML.replace("small.pt", "../small.pt"), encoding="utf-8")
    with pytest.raises(SettingsError, match="beside"):
        ExternalDetector.load(folder / "out.toml")
    (folder / "small.pt").write_bytes(b"not a model")
    with pytest.raises(WeightsCorrupt):
        ExternalDetector.load(folder / "small.toml")


def test_onnx_needs_its_runtime_or_runs(folder: Path) -> None:
    from onnx import TensorProto, helper, save

    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["score"], axes=[1, 2, 3], keepdims=0)],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 24, 32])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [1])],
    )
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "m.onnx"
    )
    text = TOML.replace("small.pt", "m.onnx") + 'activation = "sigmoid"\nindex = 0\n'
    (folder / "m.toml").write_text(text, encoding="utf-8")
    if importlib.util.find_spec("onnxruntime") is None:
        with pytest.raises(MissingExtra, match="onnxruntime"):
            ExternalDetector.load(folder / "m.toml")
        return
    found = ExternalDetector.load(folder / "m.toml").examine(case(red=255))
    assert found[0].score == pytest.approx(1 / (1 + np.exp(1 / 3)), abs=1e-4)
