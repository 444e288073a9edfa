"""The expert on the frozen tower: what it reads, how it scores, what it refuses."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from vlmforensics.compact import layout, whole
from vlmforensics.compact.tower import Tower
from vlmforensics.errors import WeightsCorrupt
from vlmforensics.imaging import encode, open_case

WIDTH = layout.TOWER_WIDTH


class Block(nn.Module):
    def forward(self, stream):
        return stream + 1


class Embeddings(nn.Module):
    """Patch means of the picture in every channel, after a class token of zeros."""

    def forward(self, pixels):
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


WHOLE = len(whole.LAYERS) * 3 * WIDTH


def test_statistics_of_flat_pictures_are_those_of_the_tower(tower):
    flat = np.full((280, 280, 3), 90, np.uint8)
    level = float(np.mean((90 / 255 - np.array(layout.MEAN)) / np.array(layout.STD)))
    found = whole.whole_statistics(tower, flat).reshape(len(whole.LAYERS), 3, WIDTH)
    for place, layer in enumerate(whole.LAYERS):
        assert np.allclose(found[place, 0], layer)  # class token: zeros, plus one a block
        assert np.allclose(found[place, 1], level + layer, atol=1e-4)
        assert np.allclose(found[place, 2], 0, atol=1e-4)


def test_score_is_the_linear_layer(tower):
    expert = whole.WholeExpert(tower, weights(WHOLE, weight=0.0001, bias=0.5))
    picture = case()
    (evidence,) = expert.examine(picture)
    expected = whole.whole_statistics(tower, picture.upright).sum() / 2 * 0.0001 + 0.5
    assert evidence.score == pytest.approx(expected, abs=1e-4)
    assert f"{evidence.score:+.2f}" in evidence.statement
    assert "generated" in evidence.statement


def test_a_strong_reading_that_the_second_view_shares_stands(tower):
    expert = whole.WholeExpert(tower, weights(WHOLE, bias=whole.STRONG + 2))
    (evidence,) = expert.examine(case())
    assert evidence.score == pytest.approx(whole.STRONG + 2)
    assert evidence.recompute["second_view"] == pytest.approx(evidence.score, abs=1e-3)


def test_a_strong_reading_that_the_second_view_does_not_share_is_withheld(tower):
    pixels = np.zeros((400, 400, 3), np.uint8)
    pixels[:20] = pixels[-20:] = 255  # all of it outside the second view
    picture = open_case(encode(pixels, "PNG"))
    layers = weights(WHOLE, weight=0.05)
    level = whole.WholeExpert(tower, layers).score(
        whole.whole_statistics(tower, whole.second_view(picture.upright))
    )
    expert = whole.WholeExpert(tower, layers | {"bias": np.array([-level], np.float32)})
    (evidence,) = expert.examine(picture)
    first, second = evidence.recompute["first_view"], evidence.recompute["second_view"]
    assert (evidence.score, evidence.code, evidence.vector) == (None, "", ())
    assert abs(first) > whole.STRONG
    assert second == pytest.approx(0, abs=1e-2)
    assert f"{first:+.2f} on the log-odds scale for the whole picture but {second:+.2f}" in evidence.statement


def test_a_reading_beyond_all_that_was_seen_is_withheld(tower):
    expert = whole.WholeExpert(tower, weights(WHOLE, bias=-whole.FARTHEST - 1))
    (evidence,) = expert.examine(case())
    assert evidence.score is None
    assert evidence.recompute["first_view"] == pytest.approx(-whole.FARTHEST - 1)
    assert "further out" in evidence.statement


def test_the_second_view_is_the_mirrored_centre():
    pixels = np.arange(40 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 60, 3)
    assert np.array_equal(whole.second_view(pixels), pixels[2:38, 57 - 1 : 2 : -1])
    assert whole.second_view(np.zeros((1, 1, 3), np.uint8)).shape == (1, 1, 3)


def test_files_are_read_strictly(tower, tmp_path):
    tensors = weights(WHOLE)
    file = tmp_path / "whole.safetensors"
    save_file(tensors, file)
    assert whole.load_whole(tower, file).examine(case())[0].source == "whole"
    save_file({key: value for key, value in tensors.items() if key != "bias"}, file)
    with pytest.raises(WeightsCorrupt, match="whole"):
        whole.load_whole(tower, file)
    save_file(tensors | {"other": np.zeros(1, np.float32)}, file)
    with pytest.raises(WeightsCorrupt, match="other"):
        whole.load_whole(tower, file)
