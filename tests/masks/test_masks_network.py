"""The network: streams, prompts, conditioning; a tiny instance with random weights."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("segment_anything")

from vlmforensics.masks.encoder import EncoderConfig  # noqa: E402
from vlmforensics.masks.network import MaskNetwork, NetworkConfig, SegPrompt  # noqa: E402
from vlmforensics.masks.residuals import (  # noqa: E402
    BLOCK,
    BLOCK_GRID,
    MAX_WHOLE_PIXELS,
    LocalSpectrum,
    ResidualBank,
    is_sampled,
    luma_planes,
    sample_blocks,
)
from vlmforensics.masks.sam import FRAME, DecoderConfig, to_frame  # noqa: E402
from vlmforensics.types import Box, Traces  # noqa: E402

TINY = NetworkConfig(
    EncoderConfig(tower_channels=12, width=16, semantic=8, blocks=1, channels=32),
    DecoderConfig(channels=32, depth=2, heads=2, mlp=32, prompt_channels=4),
    seg=24,
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return MaskNetwork(TINY).eval()


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def features(seed=0, size=16):
    rng = np.random.default_rng(seed)
    return {layer: rng.standard_normal((size, size, 12)).astype(np.float32) for layer in (4, 8, 12)}


def predict(network, pixels, **inputs):
    with torch.inference_mode():
        return network(pixels, **inputs)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 201), (300, 97), (40, 1900), (700, 500)])
def test_any_size_gives_the_square_frame(network, height, width):
    said = predict(network, picture(height, width), patches=features())
    assert said.mask.shape == said.edge.shape == (256, 256)
    assert said.coarse.shape == (64, 64)
    assert said.presence.ndim == 0
    assert torch.isfinite(said.mask).all()


def test_it_is_deterministic(network):
    first = predict(network, picture(120, 130), patches=features())
    second = predict(network, picture(120, 130), patches=features())
    assert torch.equal(first.mask, second.mask)
    assert first.presence == second.presence


def test_tower_and_boundary_are_read_and_may_be_absent(network):
    pixels = picture(128, 160)
    boundary = np.zeros((32, 40), np.float32)
    boundary[10:20, 10:20] = 1
    absent = predict(network, pixels).mask
    assert torch.equal(absent, predict(network, pixels, patches={}).mask)
    assert not torch.allclose(absent, predict(network, pixels, patches=features()).mask)
    assert not torch.allclose(absent, predict(network, pixels, traces=Traces(boundary)).mask)
    blank = predict(network, pixels, traces=Traces(np.zeros_like(boundary))).mask
    assert not torch.allclose(absent, blank), "an empty boundary map is a finding, no map is none"
    everywhere = predict(network, pixels, traces=Traces(boundary, np.full_like(boundary, 0.9)))
    nowhere = predict(network, pixels, traces=Traces(boundary, np.full_like(boundary, 0.1)))
    assert (everywhere.coarse > nowhere.coarse).all(), "the region map is where the head starts from"


def test_seg_and_label_both_act_on_the_mask(network):
    """Unlike attention over a single key, where the query cannot matter (SIDA)."""
    pixels, rng = picture(96, 96), np.random.default_rng(1)
    one, two = (rng.standard_normal(24).astype(np.float32) for _ in range(2))
    real, tampered = (-0.1, -3.0, -3.0), (-3.0, -3.0, -0.1)
    default = predict(network, pixels).mask
    base = predict(network, pixels, seg=one, label_log_probs=real).mask
    assert not torch.allclose(default, base)
    assert not torch.allclose(base, predict(network, pixels, seg=two, label_log_probs=real).mask)
    assert not torch.allclose(base, predict(network, pixels, seg=one, label_log_probs=tampered).mask)


def test_label_and_seg_interact():
    """The label's effect depends on the state: no mere sum of two constants."""
    torch.manual_seed(2)
    prompt = SegPrompt(24, 32)
    one, two = torch.randn(24), torch.randn(24)
    real, tampered = torch.tensor([-0.1, -3.0, -3.0]), torch.tensor([-3.0, -3.0, -0.1])
    with torch.inference_mode():
        first = prompt(one, tampered) - prompt(one, real)
        second = prompt(two, tampered) - prompt(two, real)
    assert not torch.allclose(first, second, atol=1e-4)


def test_extreme_label_log_probs_stay_finite(network):
    seg = np.ones(24, np.float32)
    said = predict(network, picture(64, 64), seg=seg, label_log_probs=(0.0, -80.0, -200.0))
    assert torch.isfinite(said.mask).all()


def test_clicks_and_boxes_change_the_map(network):
    pixels = picture(100, 200)
    plain = predict(network, pixels).mask
    points, _ = to_frame([(10, 90)], None, 100, 200)
    other, _ = to_frame([(190, 5)], None, 100, 200)
    outside, _ = to_frame([(10, 90, False)], None, 100, 200)
    _, box = to_frame((), Box(0, 0, 50, 50), 100, 200)
    maps = [predict(network, pixels, points=p).mask for p in (points, other, outside)]
    maps.append(predict(network, pixels, box=box).mask)
    maps.append(plain)
    for index, first in enumerate(maps):
        for second in maps[index + 1 :]:
            assert not torch.allclose(first, second)


def test_prompts_move_to_the_square_frame():
    points, box = to_frame([(0, 0), (99, 49, False)], Box(25, 0, 75, 50), 50, 100)
    # Centre of the first pixel: half a pixel of 100 → 1024 cells; the prompt encoder adds its own half.
    assert points[0] == pytest.approx((0.5 * FRAME / 100 - 0.5, 0.5 * FRAME / 50 - 0.5, True))
    assert points[1] == pytest.approx((99.5 * FRAME / 100 - 0.5, 49.5 * FRAME / 50 - 0.5, False))
    assert np.add(box, 0.5) == pytest.approx((256, 0, 768, 1024))


def test_residuals_ignore_flat_and_linear_content():
    rows, columns = np.mgrid[0:40, 0:40]
    ramp = np.repeat((rows + 2 * columns + 20).astype(np.uint8)[..., None], 3, axis=2)
    residual = ResidualBank()(torch.from_numpy(luma_planes(ramp))[None])[0]
    assert residual[2:, 4:-4, 4:-4].abs().max() < 1e-3


def test_spectrum_is_the_dct_on_the_pictures_grid():
    planes = luma_planes(picture(24, 33))
    spectrum = LocalSpectrum()(torch.from_numpy(planes)[None])[0]
    assert spectrum.shape == (64, 3, 5)
    from scipy.fft import dctn

    want = np.log2(np.abs(dctn(planes[0, 8:16, 16:24] - 128, norm="ortho")) + 0.25) / 4
    np.testing.assert_allclose(spectrum[:, 1, 2].numpy().reshape(8, 8), want, atol=2e-3)


def test_large_pictures_are_read_by_native_blocks_on_the_jpeg_grid():
    height, width = 1400, 1601
    assert height * width > MAX_WHOLE_PIXELS
    assert is_sampled(height, width)
    assert not is_sampled(1000, 1000)
    rows, columns = np.mgrid[0:height, 0:width]
    code = np.stack([rows % 251, columns % 253, (rows // 251) * 16 + columns // 253], axis=2).astype(np.uint8)
    blocks = sample_blocks(code)
    assert blocks.shape == (BLOCK_GRID**2, BLOCK, BLOCK, 3)
    for index in (0, 5, 500, BLOCK_GRID**2 - 1):
        corner = blocks[index, 0, 0].astype(int)
        y, x = corner[0] + 251 * (corner[2] // 16), corner[1] + 253 * (corner[2] % 16)
        assert y % 8 == x % 8 == 0
        np.testing.assert_array_equal(blocks[index], code[y : y + BLOCK, x : x + BLOCK])
        centre = (
            (index // BLOCK_GRID + 0.5) * height / BLOCK_GRID,
            (index % BLOCK_GRID + 0.5) * width / BLOCK_GRID,
        )
        assert abs(y + BLOCK / 2 - centre[0]) <= 24
        assert abs(x + BLOCK / 2 - centre[1]) <= 24


def test_block_reading_agrees_with_whole_reading_on_texture(network, monkeypatch):
    """A place with other noise shows in the same cell, whether the picture is read whole or by blocks."""
    rng = np.random.default_rng(3)
    pixels = np.full((1024, 1024, 3), 128, np.uint8)
    pixels[256:512, 512:768] = rng.integers(64, 192, (256, 256, 3), dtype=np.uint8)
    with torch.inference_mode():
        whole = network.encoder.forensic._pool_whole(pixels)
        blocks = network.encoder.forensic._pool_blocks(pixels)
    assert whole.shape == blocks.shape
    difference = (whole - blocks).abs().mean(dim=1)[0]
    # Inside the regions, away from the outline, where a cell may see a part of both.
    assert difference[20:28, 36:44].mean() < 0.15 * whole[0, :, 20:28, 36:44].abs().mean()
    assert difference[40:60, 4:28].max() < 1e-3


def test_memory_stays_bounded_on_a_large_picture(network):
    """12 Mpx: the whole forward pass allocates less than a quarter of what one full-resolution plane set needs."""
    resource = pytest.importorskip("resource")
    pixels = np.broadcast_to(picture(1, 4000), (3000, 4000, 3))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    predict(network, pixels)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    full = 3000 * 4000 * 24 * 4 / 2**20  # one 24-channel float plane set at native size, MiB
    assert grown < full / 4


def test_decoder_matches_transformers_sam(network):
    """The same weights in transformers' decoder give the same maps: nothing here depends on the package's quirks."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.sam.configuration_sam import SamMaskDecoderConfig
    from transformers.models.sam.modeling_sam import SamMaskDecoder

    del transformers
    ours = network.decoder.decoder
    config = SamMaskDecoderConfig(
        hidden_size=32, mlp_dim=32, num_hidden_layers=2, num_attention_heads=2, num_multimask_outputs=1,
        iou_head_depth=3, iou_head_hidden_dim=256,
    )  # fmt: skip
    config._attn_implementation = "eager"
    theirs = SamMaskDecoder(config).eval()
    theirs.load_state_dict(_renamed(ours.state_dict()), strict=True)
    torch.manual_seed(1)
    image, position, dense = (
        torch.randn(1, 32, 64, 64),
        torch.randn(1, 32, 64, 64),
        torch.randn(1, 32, 64, 64),
    )
    sparse = torch.randn(1, 3, 32)
    with torch.inference_mode():
        want, scores = ours.predict_masks(image, position, sparse, dense)
        out = theirs(
            image_embeddings=image,
            image_positional_embeddings=position,
            sparse_prompt_embeddings=sparse[None],
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    torch.testing.assert_close(out[0][0, 0, 0], want[0, 0], atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(out[1][0, 0, 0], scores[0, 0], atol=1e-3, rtol=1e-3)


def _renamed(state):
    """segment_anything's decoder names → transformers'."""
    renames = (
        ("transformer.layers.", "transformer.layers."),
        (".norm1.", ".layer_norm1."), (".norm2.", ".layer_norm2."), (".norm3.", ".layer_norm3."),
        (".norm4.", ".layer_norm4."), ("norm_final_attn", "layer_norm_final_attn"),
        ("output_upscaling.0", "upscale_conv1"), ("output_upscaling.1", "upscale_layer_norm"),
        ("output_upscaling.3", "upscale_conv2"),
    )  # fmt: skip
    out = {}
    for name, value in state.items():
        for old, new in renames:
            name = name.replace(old, new)
        if "output_hypernetworks_mlps" in name or "iou_prediction_head" in name:
            name = (
                name.replace("layers.0", "proj_in")
                .replace("layers.2", "proj_out")
                .replace("layers.1", "layers.0")
            )
        out[name] = value
    return out


def test_configuration_survives_json():
    import json

    restored = NetworkConfig.from_json(json.loads(json.dumps(TINY.to_json())))
    assert restored == TINY
    with pytest.raises(TypeError):
        NetworkConfig.from_json({**TINY.to_json(), "decoder": {"breadth": 3}})
    assert dataclasses.replace(TINY, seg=5) != TINY
