"""One compact model serves several threads: a batch looks at two pictures at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.fixture(scope="module")
def backbone():
    from vlmforensics.compact.assembly import build_base
    from vlmforensics.compact.backbone import CompactBackbone

    return CompactBackbone(build_base(), "0", "0" * 64)


def test_looks_and_narrations_from_threads_equal_those_in_turn(backbone):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (90 + 20 * index, 120, 3), dtype=np.uint8) for index in range(4)]
    hints = [(f"The blending detector gives 0.{index} out of 1.",) for index in range(4)]

    def work(index):
        cheap = backbone.look(pictures[index], hints[index], for_text=False)
        whole = backbone.look(pictures[index], hints[index])
        text = "".join(backbone.narrate(whole, "Describe the picture.", max_new_tokens=4))
        return cheap, whole, text

    alone = [work(index) for index in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(4)))
    for (cheap, whole, text), (cheap2, whole2, text2) in zip(alone, together, strict=True):
        assert np.allclose(cheap.log_probs, whole.log_probs, atol=1e-4)
        assert np.allclose(cheap.log_probs, cheap2.log_probs, atol=1e-4)
        assert np.allclose(whole.log_probs, whole2.log_probs, atol=1e-4)
        assert np.allclose(whole.seg, whole2.seg, atol=1e-3)
        assert text == text2


def test_the_loaded_model_has_its_adapter_folded_in_and_says_the_same(backbone):
    from vlmforensics.compact import load
    from vlmforensics.compact.assembly import build_base
    from vlmforensics.compact.backbone import CompactBackbone
    from vlmforensics.compact.shipped import DATA, load_into, read_manifest

    picture = np.random.default_rng(1).integers(0, 255, (100, 120, 3), dtype=np.uint8)
    parts = build_base()
    load_into(parts, DATA, read_manifest(DATA))
    folded = load()
    parts.experts = folded.parts.experts
    apart = CompactBackbone(parts, "0", "0" * 64)
    assert type(folded.parts.model).__name__ == "LlavaForConditionalGeneration"
    looks = [model.look(picture) for model in (apart, folded)]
    assert np.allclose(looks[0].log_probs, looks[1].log_probs, atol=1e-4)
    texts = [
        "".join(model.narrate(look, "Describe the picture.", max_new_tokens=6))
        for model, look in zip((apart, folded), looks, strict=True)
    ]
    assert texts[0] == texts[1]
