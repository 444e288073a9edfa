"""The experts on the tower: what they read, how they score, what they refuse."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from vlmforensics.compact import experts, layout
from vlmforensics.compact.tower import Tower
from vlmforensics.errors import WeightsCorrupt
from vlmforensics.imaging import encode, open_case

WIDTH = layout.TOWER_WIDTH


class Block(nn.Module):
    def forward(self, stream):
        return stream + 1


class Embeddings(nn.Module):
    """Patch means of the picture in every channel, after a class token of zeros."""

    calls = 0

    def forward(self, pixels):
        self.calls += 1
        means = nn.functional.avg_pool2d(pixels.mean(1, keepdim=True), layout.PATCH).flatten(1)
        patches = means[..., None].expand(-1, -1, WIDTH)
        return torch.cat([torch.zeros(len(pixels), 1, WIDTH), patches], 1)


@pytest.fixture
def tower():
    module = nn.Module()
    module.embeddings = Embeddings()
    module.encoder = nn.Module()
    module.encoder.layer = nn.ModuleList(Block() for _ in range(12))
    return Tower(module, torch.device("cpu"))


def case(height=300, width=400, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return open_case(encode(pixels, "PNG"))


def weights(size, weight=0.0, bias=0.0):
    return {
        "mean": np.zeros(size, np.float32),
        "scale": np.full(size, 2, np.float32),
        "weight": np.full(size, weight, np.float32),
        "bias": np.array([bias], np.float32),
    }


CROPS, WHOLE = (len(layers) * 3 * WIDTH for layers in (experts.CROP_LAYERS, experts.WHOLE_LAYERS))


@pytest.mark.parametrize(("height", "width", "side"), [(300, 400, 224), (112, 500, 112), (223, 223, 210)])
def test_windows_lie_inside(height, width, side):
    for top, left, own in experts.windows(height, width):
        assert own == side
        assert 0 <= top <= height - own
        assert 0 <= left <= width - own


def test_statistics_of_flat_pictures_are_those_of_the_tower(tower):
    flat = np.full((280, 280, 3), 90, np.uint8)
    level = float(np.mean((90 / 255 - np.array(layout.MEAN)) / np.array(layout.STD)))
    found = experts.whole_statistics(tower, flat).reshape(len(experts.WHOLE_LAYERS), 3, WIDTH)
    for place, layer in enumerate(experts.WHOLE_LAYERS):
        assert np.allclose(found[place, 0], layer)  # class token: zeros, plus one a block
        assert np.allclose(found[place, 1], level + layer, atol=1e-4)
        assert np.allclose(found[place, 2], 0, atol=1e-4)
    assert experts.crop_statistics(tower, flat).shape == (CROPS,)


def test_score_is_the_linear_layer(tower):
    whole = experts.WholeExpert(tower, weights(WHOLE, weight=0.001, bias=0.5))
    picture = case()
    (evidence,) = whole.examine(picture)
    expected = experts.whole_statistics(tower, picture.upright).sum() / 2 * 0.001 + 0.5
    assert evidence.score == pytest.approx(expected, abs=1e-4)
    assert f"{evidence.score:+.2f}" in evidence.statement
    assert "generated" in evidence.statement


def test_small_pictures_have_no_crop(tower):
    assert experts.CropExpert(tower, weights(CROPS)).examine(case(100, 400)) == []


def test_witnesses_of_one_picture_share_a_pass(tower):
    one, other = case(seed=1), case(seed=2)
    first = tower.whole(one.upright).cls[12]
    tower.streams(one.upright)
    assert tower.module.embeddings.calls == 1
    tower.streams(other.upright)
    assert tower.module.embeddings.calls == 2
    assert np.array_equal(tower.whole(one.upright).cls[12], first)


def test_files_are_read_strictly(tower, tmp_path):
    tensors = {f"{name}.{key}": value for name, size in (("crops", CROPS), ("whole", WHOLE))
               for key, value in weights(size).items()}  # fmt: skip
    file = tmp_path / "experts.safetensors"
    save_file(tensors, file)
    assert [expert.name for expert in experts.load_experts(tower, file)] == ["crops", "whole"]
    save_file({key: value for key, value in tensors.items() if key != "whole.bias"}, file)
    with pytest.raises(WeightsCorrupt, match="whole"):
        experts.load_experts(tower, file)
    save_file(tensors | {"other.bias": np.zeros(1, np.float32)}, file)
    with pytest.raises(WeightsCorrupt, match="other"):
        experts.load_experts(tower, file)
