"""Gates let photographs through and stop what nothing is calibrated for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage import data

from vlmforensics.fusion.gates import pixel_gates


def rgb(plane: np.ndarray) -> np.ndarray:
    plane = np.clip(plane, 0, 255).astype(np.uint8)
    return np.repeat(plane[:, :, None], 3, axis=2) if plane.ndim == 2 else plane


def codes(pixels: np.ndarray) -> set[str]:
    return {gate.code for gate in pixel_gates(pixels)}


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
def test_photographs_pass(name):
    assert codes(getattr(data, name)()) == set()


@pytest.mark.parametrize("name", ["camera", "moon", "page", "coins", "grass", "gravel", "brick"])
def test_grey_scenes_and_texts_pass(name):
    assert "blank" not in codes(rgb(getattr(data, name)()))


def test_noisy_photograph_passes():
    noisy = data.astronaut() + np.random.default_rng(0).normal(0, 25, (512, 512, 3))
    assert codes(rgb(noisy)) == set()


def test_tiny_blank_and_noise_are_stopped():
    generator = np.random.default_rng(1)
    assert codes(data.astronaut()[:40, :300]) == {"tiny"}
    assert codes(np.full((200, 300, 3), 127, np.uint8)) == {"blank"}
    assert codes(rgb(127 + generator.normal(0, 0.5, (200, 300, 3)))) == {"blank"}
    assert codes(rgb(generator.uniform(0, 255, (256, 256, 3)))) == {"noise"}
    grey = generator.normal(127, 40, (512, 512))
    assert codes(rgb(grey)) == {"noise"}
    smooth = ndimage.gaussian_filter(grey, 1.5)
    assert codes(rgb(127 + (smooth - smooth.mean()) * 8)) == {"noise"}


def test_reasons_are_sentences_with_their_numbers():
    for pixels in (np.zeros((10, 10, 3), np.uint8), np.full((90, 90, 3), 9, np.uint8)):
        (gate,) = pixel_gates(pixels)
        assert gate.reason.endswith(".")
        assert any(character.isdigit() for character in gate.reason)
