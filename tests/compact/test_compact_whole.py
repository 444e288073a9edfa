"""The experts on a frozen tower: what they read, how they score, what they refuse."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from vlmforensics.compact import clip, whole
from vlmforensics.errors import WeightsCorrupt
from vlmforensics.imaging import encode, open_case


class Blocks(nn.Module):
    """Its class token after block n is the mean of what it is given, plus n."""

    def forward(self, pixel_values, output_hidden_states):
        assert output_hidden_states
        level = pixel_values.mean((1, 2, 3)).view(-1, 1, 1).expand(-1, 197, clip.WIDTH)
        return SimpleNamespace(hidden_states=tuple(level + n for n in range(clip.DEPTH + 1)))


@pytest.fixture
def tower():
    return clip.Clip(Blocks(), torch.device("cpu"))


def case(height=300, width=400, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return open_case(encode(pixels, "PNG"))


def weights(size, weight=0.0, bias=0.0, edited=0.0):
    """Of ``whole``; the other expert scores ``edited`` whatever it reads."""
    whole_own = {"weight": np.full(size, weight, np.float32), "bias": np.array([bias], np.float32)}
    other = {"weight": np.zeros(size, np.float32), "bias": np.array([edited], np.float32)}
    shared = {"mean": np.zeros(size, np.float32), "scale": np.full(size, 2, np.float32)}
    parts = (("whole", shared | whole_own), ("edited", shared | other))
    return {f"{name}.{key}": value for name, own in parts for key, value in own.items()}


WHOLE = clip.DEPTH * clip.WIDTH


def test_a_flat_picture_reads_as_its_level_after_every_block(tower):
    flat = np.full((300, 200, 3), 90, np.uint8)
    level = float(np.mean((90 / 255 - np.array(clip.MEAN)) / np.array(clip.STD)))
    found = tower.read(flat).reshape(clip.DEPTH, clip.WIDTH)
    assert np.allclose(found, level + np.arange(1, clip.DEPTH + 1)[:, None], atol=1e-4)


def test_score_is_the_linear_layer(tower):
    expert = whole.WholeExpert(tower, weights(WHOLE, weight=0.0001, bias=0.5))
    picture = case()
    evidence, _ = expert.examine(picture)
    expected = tower.read(picture.upright).sum() / 2 * 0.0001 + 0.5
    assert evidence.score == pytest.approx(expected, abs=1e-4)
    assert f"{evidence.score:+.2f}" in evidence.statement
    assert "generated" in evidence.statement


def test_a_strong_reading_that_the_second_view_shares_stands(tower):
    expert = whole.WholeExpert(tower, weights(WHOLE, bias=whole.STRONG + 2))
    evidence, _ = expert.examine(case())
    assert evidence.score == pytest.approx(whole.STRONG + 2)
    assert evidence.recompute["second_view"] == pytest.approx(evidence.score, abs=1e-3)


def test_a_strong_reading_that_the_second_view_does_not_share_is_withheld(tower):
    pixels = np.zeros((400, 400, 3), np.uint8)
    pixels[:20] = pixels[-20:] = 255  # all of it outside the second view
    picture = open_case(encode(pixels, "PNG"))
    layers = weights(WHOLE, weight=0.05)
    level = whole.WholeExpert(tower, layers).scores(whole.second_view(picture.upright))["whole"]
    expert = whole.WholeExpert(tower, layers | {"whole.bias": np.array([-level], np.float32)})
    evidence, _ = expert.examine(picture)
    first, second = evidence.recompute["first_view"], evidence.recompute["second_view"]
    assert (evidence.score, evidence.code, evidence.vector) == (None, "", ())
    assert abs(first) > whole.STRONG
    assert second == pytest.approx(0, abs=1e-2)
    assert f"{first:+.2f} on the log-odds scale for the whole picture but {second:+.2f}" in evidence.statement


def test_a_reading_beyond_all_that_was_seen_is_withheld(tower):
    expert = whole.WholeExpert(tower, weights(WHOLE, bias=-whole.FARTHEST - 1))
    evidence, _ = expert.examine(case())
    assert evidence.score is None
    assert evidence.recompute["first_view"] == pytest.approx(-whole.FARTHEST - 1)
    assert "further out" in evidence.statement


def test_each_expert_speaks_for_itself(tower):
    """A strong reading of one is checked; the other, weak one stands as it is."""
    expert = whole.WholeExpert(tower, weights(WHOLE, bias=whole.STRONG + 1, edited=-0.4))
    generated, edited = expert.examine(case())
    assert (generated.source, edited.source) == ("whole", "edited")
    assert edited.score == pytest.approx(-0.4)
    assert "untouched" in edited.statement
    assert "second_view" in generated.recompute
    assert "second_view" not in edited.recompute


def test_the_second_view_is_the_mirrored_centre():
    pixels = np.arange(40 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 60, 3)
    assert np.array_equal(whole.second_view(pixels), pixels[2:38, 57 - 1 : 2 : -1])
    assert whole.second_view(np.zeros((1, 1, 3), np.uint8)).shape == (1, 1, 3)


def test_files_are_read_strictly(tower, tmp_path):
    tensors = weights(WHOLE)
    file = tmp_path / whole.FILE
    save_file(tensors, file)
    assert [item.source for item in whole.load_experts(tower, file).examine(case())] == ["whole", "edited"]
    save_file({key: value for key, value in tensors.items() if key != "edited.bias"}, file)
    with pytest.raises(WeightsCorrupt, match="experts"):
        whole.load_experts(tower, file)
    save_file(tensors | {"other": np.zeros(1, np.float32)}, file)
    with pytest.raises(WeightsCorrupt, match="other"):
        whole.load_experts(tower, file)


def test_what_an_expert_withholds_is_not_told_to_the_language_model(tower):
    expert = whole.WholeExpert(tower, weights(WHOLE, bias=-whole.FARTHEST - 1, edited=0.7))
    assert expert.believed(case().upright) == pytest.approx((0.0, 0.7))


def test_a_picture_is_read_once_however_often_it_is_asked_about(tower, monkeypatch):
    expert = whole.WholeExpert(tower, weights(WHOLE, weight=0.0001))
    read = []
    monkeypatch.setattr(tower, "read", lambda pixels: read.append(1) or np.zeros(WHOLE, np.float32))
    one, other = case(seed=1), case(seed=2)
    first = expert.examine(one)
    assert expert.believed(one.upright) == (first[0].score, first[1].score)
    first.clear()  # the caller's own list
    assert len(expert.examine(one)) == 2
    assert len(read) == 1
    turned = np.ascontiguousarray(one.upright.reshape(one.upright.shape[1], -1, 3))  # the same bytes
    for pixels in (other.upright, turned):
        expert.believed(pixels)
    assert len(read) == 3
    for seed in range(3, 3 + whole.KEPT):
        expert.believed(case(8, 8, seed).upright)
    expert.believed(one.upright)
    assert len(read) == 4 + whole.KEPT
