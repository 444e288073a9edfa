"""Tiling: positions, seams, sizes, determinism, with an untrained network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlmforensics.blending.backbone import LiteBackbone
from vlmforensics.blending.model import SHARES, WIDTH, BlendingNet, top_shares
from vlmforensics.blending.tiles import analyse, layout, spread


@pytest.fixture(scope="module")
def net() -> BlendingNet:
    torch.manual_seed(0)
    return BlendingNet().eval()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = 128 + 60 * np.sin(x / 23) * np.cos(y / 31)
    return np.clip(base[..., None] + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


@given(st.integers(1, 400), st.integers(4, 40))
def test_tiles_cover_a_side_and_overlap(blocks: int, tile_blocks: int) -> None:
    length, tile, overlap = 16 * blocks, 16 * tile_blocks, 16
    side, positions = layout(length, tile, overlap)
    assert positions[0] == 0
    assert side <= tile
    assert side % 16 == 0
    assert positions[-1] + side == length
    assert all(p % 16 == 0 for p in positions)
    steps = np.diff(positions)
    assert (steps > 0).all()
    # Positions are rounded to 16 px, so an overlap may fall short by one such step.
    assert (steps <= side - overlap + 16).all()
    assert (steps <= side).all()


def test_a_megapixel_is_hardly_computed_twice() -> None:
    side, positions = layout(1024, 512, 64)
    assert (side * len(positions) / 1024) ** 2 < 1.4


def test_spread_keeps_corners_and_the_bound() -> None:
    grid = [(y, x) for y in range(10) for x in range(20)]
    chosen = spread(grid, 10, 20, 30)
    assert 15 <= len(chosen) <= 30
    assert {(0, 0), (9, 19)} <= set(chosen)


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (65, 700), (530, 512)])
def test_map_has_a_quarter_of_the_size(net: BlendingNet, size: tuple[int, int]) -> None:
    found = analyse(net, picture(*size))
    assert found.boundary.shape == (size[0] // 4, size[1] // 4)
    assert found.region.shape == found.boundary.shape
    assert np.isfinite(found.boundary).all()
    assert found.features.shape == (WIDTH + 2 * len(SHARES),)
    assert found.covered == 1.0


def test_tiles_agree_with_the_whole_away_from_borders(net: BlendingNet) -> None:
    pixels = picture(256, 640)
    whole = analyse(net, pixels, tile=640)
    tiled = analyse(net, pixels, tile=256, overlap=128, batch=2)
    assert whole.tiles == 1
    assert tiled.tiles > 2
    inside = (slice(16, -16), slice(16, -16))
    apart = np.abs(whole.boundary[inside] - tiled.boundary[inside])
    spread_of_map = whole.boundary[inside].std()
    assert np.median(apart) < 0.1 * spread_of_map
    assert abs(whole.logit - tiled.logit) < 0.1


def test_same_picture_same_numbers_whatever_the_batch(net: BlendingNet) -> None:
    pixels = picture(200, 500)
    first = analyse(net, pixels, tile=128, overlap=32, batch=1)
    again = analyse(net, pixels, tile=128, overlap=32, batch=1)
    other = analyse(net, pixels, tile=128, overlap=32, batch=3)
    assert np.array_equal(first.boundary, again.boundary)
    assert first.logit == again.logit
    assert np.allclose(first.boundary, other.boundary, atol=1e-4)


def test_bounded_work_says_what_was_covered(net: BlendingNet) -> None:
    found = analyse(net, picture(512, 512), tile=128, overlap=32, max_tiles=4)
    assert found.tiles == 4
    assert 0.1 < found.covered < 0.3
    assert np.isinf(found.boundary).any()
    assert np.isfinite(found.features).all()
    assert np.isfinite(found.logit)


def test_top_shares_fall_and_use_at_least_one_cell() -> None:
    values = torch.arange(100.0).reshape(1, 10, 10)
    shares = top_shares(values)[0]
    assert shares[0] == 99  # 0.2 % of 100 cells is less than one: the best one counts
    assert (shares[1:] <= shares[:-1]).all()
    assert shares[-1] == pytest.approx(np.arange(75, 100).mean())


def test_backbone_strides_and_channels() -> None:
    with torch.inference_mode():
        taps = LiteBackbone().eval()(torch.zeros(1, 3, 64, 96))
    assert [tuple(t.shape[1:]) for t in taps] == [(16, 32, 48), (24, 16, 24), (40, 8, 12), (112, 4, 6)]


def test_noise_reaches_the_maps(net: BlendingNet) -> None:
    """The residual stream sees what 8-bit content hides: one grey level of noise in a flat half."""
    flat = np.full((128, 256, 3), 120, np.uint8)
    noisy = flat.copy()
    noisy[:, 128:] += np.random.default_rng(0).integers(0, 2, (128, 128, 3), dtype=np.uint8)
    gap = np.abs(analyse(net, flat).boundary - analyse(net, noisy).boundary)
    assert gap[:, 40:].mean() > 10 * gap[:, :20].mean()
