"""The weights in the package: they load, they are small, and their manifest tells how good they are."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("segment_anything")
skimage = pytest.importorskip("skimage.data")

import vlmforensics.masks as room  # noqa: E402
from vlmforensics.blending import BlendingDetector  # noqa: E402
from vlmforensics.finetune.masks import base_tower  # noqa: E402
from vlmforensics.imaging import decode_trusted, encode  # noqa: E402
from vlmforensics.masks import MaskHead  # noqa: E402

DATA = Path(room.__file__).parent / "data"


@pytest.fixture(scope="module")
def head():
    return MaskHead.load()


def test_weights_are_small_and_the_manifest_is_complete(head):
    assert (DATA / "masks.safetensors").stat().st_size < 20e6
    manifest = json.loads((DATA / "masks.json").read_text())
    assert manifest["weights"]["sha256"] == head.weights_sha256
    assert {"command", "seed", "held_back_sources", "photographs"} <= set(manifest["training"])
    for part in ("made", "found_forgeries"):
        figures = manifest["validation"][part]
        assert figures["tampered"]["n"] >= 40
        assert 0 <= figures["tampered"]["f1_fixed"] <= figures["tampered"]["f1_best"] <= 1
    assert manifest["validation"]["found_untouched_unseen_sources"]["mean_area"] <= 0.01
    calibration = manifest["calibration"]
    assert calibration["slope"] > 0
    assert min(calibration["presence_slope"], calibration["presence_top"]) >= 0


def test_the_same_photograph_gives_the_same_mask(head):
    pixels = skimage.astronaut()[:200, :300]
    first, second = head.locate(pixels), head.locate(pixels)
    np.testing.assert_array_equal(first.soft, second.soft)
    assert first.soft.shape == (200, 300)
    assert first.presence == second.presence


def test_a_click_matters(head):
    pixels = skimage.coffee()[:300, :400]
    assert not np.array_equal(head.locate(pixels).soft, head.locate(pixels, points=[(200, 150)]).soft)


@pytest.fixture(scope="module")
def tower():
    return base_tower((4, 8, 12), 0)


@pytest.fixture(scope="module")
def reader():
    from vlmforensics.compact import clip

    return clip.load()


@pytest.mark.model
@pytest.mark.parametrize("name", ["astronaut", "rocket", "chelsea"])
def test_a_planted_splice_is_marked_where_it_is(tower, reader, name):
    """Content of another picture, pasted hard and saved again."""
    detector, head = BlendingDetector.load(), MaskHead.load(reader=reader)
    authentic = np.ascontiguousarray(getattr(skimage, name)()[:256, :320])
    spliced = authentic.copy()
    spliced[80:176, 100:196] = skimage.coffee()[100:196, 200:296]
    areas = []
    for pixels in (authentic, spliced):
        pixels = decode_trusted(encode(pixels, "JPEG", quality=92))
        found = head.locate(pixels, patches=tower(pixels), traces=detector.traces(pixels))
        areas.append(found.binary)
    clean, marked = areas
    assert clean.mean() < 0.02
    # the locator's patches are 16 pixels wide here: half of one beyond the border is as exact as it gets
    assert marked[72:184, 92:204].sum() > 0.9 * marked.sum() > 1000
    assert marked[80:176, 100:196].mean() > 0.4
