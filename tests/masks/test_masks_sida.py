"""SIDA's mask decoder over a tiny Segment Anything of the true layout."""

from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("segment_anything")

from safetensors.torch import load_file, save_file  # noqa: E402
from segment_anything import modeling  # noqa: E402

from vlmforensics.errors import WeightsCorrupt, WeightsUnavailable  # noqa: E402
from vlmforensics.masks.sida import SegPrompt, SidaMaskHead, build_sam  # noqa: E402
from vlmforensics.types import Box  # noqa: E402

WIDTH = 48
TAMPERED, REAL = (-3.0, -3.0, -0.1), (-0.1, -3.0, -3.0)


def tiny_sam():
    torch.manual_seed(0)
    encoder = modeling.ImageEncoderViT(
        depth=2, embed_dim=32, img_size=64, mlp_ratio=2, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), num_heads=2,
        patch_size=8, use_rel_pos=True, global_attn_indexes=[1], window_size=3, out_chans=256,
    )  # fmt: skip
    prompts = modeling.PromptEncoder(256, (8, 8), (64, 64), 4)
    transformer = modeling.TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=64)
    decoder = modeling.MaskDecoder(transformer_dim=256, transformer=transformer, iou_head_hidden_dim=32)
    sam = modeling.Sam(encoder, prompts, decoder).eval()
    with torch.no_grad():
        for tensor in encoder.parameters():
            tensor.add_(0.05 * torch.randn(tensor.shape))
    return sam


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("sida") / "heads"
    made.mkdir()
    torch.manual_seed(1)
    save_file(tiny_sam().state_dict(), made / "sam.safetensors")
    save_file(SegPrompt(WIDTH, 256).state_dict(), made / "prompt.safetensors")
    return made


@pytest.fixture(scope="module")
def head(folder):
    return SidaMaskHead.load(folder)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def seg():
    return np.random.default_rng(1).normal(size=WIDTH).astype(np.float32)


def test_sizes_are_found_in_the_tensors(folder):
    built = build_sam(load_file(folder / "sam.safetensors"))
    own = tiny_sam()
    assert {n: v.shape for n, v in built.state_dict().items()} == {
        n: v.shape for n, v in own.state_dict().items()
    }
    assert built.image_encoder.img_size == 64
    assert [block.window_size for block in built.image_encoder.blocks] == [3, 0]


def test_the_mask_is_that_of_the_published_steps(head, folder, pixels, seg):
    from vlmforensics.imaging import resize

    sam = tiny_sam()
    state, logits = torch.from_numpy(seg), torch.tensor(TAMPERED)
    prompts = load_file(folder / "prompt.safetensors")
    inner = torch.relu(prompts["project.0.weight"] @ state + prompts["project.0.bias"])
    embedded = (prompts["project.2.weight"] @ inner + prompts["project.2.bias"])[None]
    attention = torch.nn.MultiheadAttention(256, 8, batch_first=True)
    attention.load_state_dict(
        {k.removeprefix("attention."): v for k, v in prompts.items() if k.startswith("attention.")}
    )
    query = (prompts["query.weight"] @ logits + prompts["query.bias"])[None]
    with torch.inference_mode():
        prompt = (embedded + attention(query, embedded, embedded)[0])[None]
        small = torch.from_numpy(resize(pixels, 64, 38, resample="bilinear").copy()).permute(2, 0, 1).float()
        seen = sam.image_encoder(sam.preprocess(small)[None])
        _, dense = sam.prompt_encoder(None, None, None)
        low, _ = sam.mask_decoder(
            seen, sam.prompt_encoder.get_dense_pe(), prompt, dense, multimask_output=False
        )
        wanted = torch.sigmoid(sam.postprocess_masks(low, (38, 64), (60, 100)))[0, 0]
    mask = head.locate(pixels, seg=seg, label_log_probs=TAMPERED)
    assert mask.soft.shape == (60, 100)
    np.testing.assert_allclose(mask.soft, wanted, atol=1e-5)


def test_only_what_is_called_tampered_gets_a_mask(head, pixels, seg):
    assert head.locate(pixels, seg=seg, label_log_probs=REAL) is None
    assert head.locate(pixels, seg=None, label_log_probs=None) is None
    assert "no region" in head.evidence(None, pixels.shape)[0].statement
    assert head.evidence(None, pixels.shape)[0].score is None


def test_a_click_or_a_box_asks_for_a_mask_too(head, pixels):
    clicked = head.locate(pixels, points=[(10, 10), (50, 30, False)])
    boxed = head.locate(pixels, box=Box(5, 5, 40, 40))
    assert clicked.soft.shape == boxed.soft.shape == (60, 100)
    assert not np.array_equal(clicked.soft, boxed.soft)


def test_what_is_marked_becomes_observed_evidence(head, pixels, seg):
    mask = head.locate(pixels, seg=seg, label_log_probs=TAMPERED)
    (evidence,) = head.evidence(mask, pixels.shape)
    assert evidence.source == "mask"
    assert evidence.status == "observed"
    assert (evidence.region is not None) == bool(mask.boxes)
    assert evidence.recompute["weights_sha256"] == head.weights_sha256


def test_missing_and_foreign_files_are_refused(folder, tmp_path):
    with pytest.raises(WeightsUnavailable, match="convert"):
        SidaMaskHead.load(tmp_path)
    save_file(load_file(folder / "prompt.safetensors"), tmp_path / "prompt.safetensors")
    save_file({"odd": torch.zeros(1)}, tmp_path / "sam.safetensors")
    with pytest.raises(WeightsCorrupt, match="no mask decoder"):
        SidaMaskHead.load(tmp_path)
