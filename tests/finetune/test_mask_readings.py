"""Readings kept on disk, and what is made of them: the head's mask with the places that signals name."""

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("segment_anything")

from vlmforensics.errors import Defect, SettingsError  # noqa: E402
from vlmforensics.finetune import mask_metrics  # noqa: E402
from vlmforensics.finetune.mask_export import assess, places_alone  # noqa: E402
from vlmforensics.finetune.mask_metrics import Scored  # noqa: E402
from vlmforensics.finetune.mask_readings import Reading, ReadingCache, score  # noqa: E402
from vlmforensics.finetune.pictures import load_manifest  # noqa: E402
from vlmforensics.imaging import encode  # noqa: E402
from vlmforensics.masks.encoder import EncoderConfig  # noqa: E402
from vlmforensics.masks.locator import LAYERS, SIDE  # noqa: E402
from vlmforensics.masks.network import MaskNetwork, NetworkConfig  # noqa: E402
from vlmforensics.masks.sam import DecoderConfig  # noqa: E402

TINY = NetworkConfig(
    EncoderConfig(tower_channels=12, width=16, semantic=8, blocks=1, channels=32),
    DecoderConfig(channels=32, depth=1, heads=2, mlp=32, prompt_channels=4),
    seg=24,
    locator=True,
)


class Clip:
    """Counts what it is asked; the left half of a picture has other tokens than the right."""

    digest, asked = "clip", 0

    def patch_tokens(self, pixels, side, layers):
        assert (side, layers) == (SIDE, LAYERS)
        self.asked += 1
        tokens = np.zeros((21, 21, 3072), np.float32)
        tokens[:, :10] = pixels.mean() / 255
        return tokens


def tower(pixels):
    return {layer: np.zeros((16, 16, 12), np.float32) for layer in TINY.encoder.layers}


@pytest.fixture
def pictures(tmp_path):
    rows = []
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (80, 96, 3), dtype=np.uint8)
        (tmp_path / f"{number}.png").write_bytes(encode(pixels, "PNG"))
        rows.append({"path": f"{number}.png", "label": "real", "source": "a", "sha256": f"{number:02x}" * 32})
    truth = np.zeros((80, 96), np.uint8)
    truth[:40] = 255
    (tmp_path / "mask.png").write_bytes(encode(truth[..., None].repeat(3, 2), "PNG"))
    rows[0] |= {"label": "tampered", "mask": "mask.png", "manipulation": "splice"}
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return load_manifest(tmp_path)


def cache_in(folder, clip, blending="one"):
    torch.manual_seed(0)
    network = MaskNetwork(TINY).eval()
    corner = np.zeros((80, 96), bool)
    corner[-8:, -8:] = True
    return ReadingCache(
        folder,
        network,
        tower,
        None,
        clip,
        lambda case: corner if case.file.endswith("0.png") else None,
        blending,
    )


def test_a_picture_is_read_once_and_not_by_other_weights(pictures, tmp_path):
    clip, folder = Clip(), tmp_path / "readings"
    first = list(cache_in(folder, clip).pictures(pictures))
    forged, plain = cache_in(folder, clip).pictures(pictures)
    assert clip.asked == 2
    assert (forged.kind, plain.kind) == ("splice", "untouched")
    assert forged.truth[:40].all()
    assert not forged.truth[40:].any()
    assert not plain.truth.any()
    np.testing.assert_array_equal(first[0].tokens, forged.tokens)
    assert forged.places is not None
    assert forged.places.sum() == 64
    assert plain.places is None
    with pytest.raises(SettingsError):
        cache_in(folder, clip, blending="two")


def test_a_reading_is_scored_as_its_picture_is():
    torch.manual_seed(0)
    network = MaskNetwork(TINY).eval()
    network.reader = Clip()
    pixels = np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    patches = {layer: torch.from_numpy(value) for layer, value in tower(pixels).items()}
    with torch.inference_mode():
        said = network(pixels, patches=tower(pixels))
        embedding, coarse = network.encoder(pixels, patches, None)
    tokens = network.reader.patch_tokens(pixels, SIDE, LAYERS)
    place = np.ones((80, 96), bool)
    found = score(
        network,
        Reading(embedding[0].numpy(), coarse[0, 0].numpy(), tokens, ~place, place, "untouched", "a"),
    )
    np.testing.assert_allclose(found.logits, said.mask.numpy(), atol=0.01)
    assert found.presence == pytest.approx(float(said.presence), abs=1e-4)
    assert found.places is place
    with torch.inference_mode():
        network.reader = None
        assert np.abs(found.logits - network(pixels, patches=tower(pixels)).mask.numpy()).max() > 0.05
    with pytest.raises(Defect):
        score(MaskNetwork(replace(TINY, locator=False)), None)


def scored(tampered, rng, places=None):
    truth = np.zeros((64, 64), bool)
    if tampered:
        truth[8:40, 10:50] = True
    logits = rng.normal(-4, 1, (64, 64)) + 2.5 * truth
    return Scored(logits.astype(np.float16), 0.0, truth, "x", "s", places)


def test_places_join_what_is_scored_but_not_what_the_threshold_is_chosen_on():
    rng = np.random.default_rng(0)
    made = [scored(index % 2 == 0, rng) for index in range(20)]
    corner = np.zeros((64, 64), bool)
    corner[-8:, -16:] = True
    calibration = mask_metrics.calibrate(made)
    named = [replace(item, places=corner) for item in made]
    assert mask_metrics.calibrate(named) == calibration
    assert calibration.smallest_share == mask_metrics.SMALLEST_SHARE
    assert named[1].mask(calibration).binary[corner].all()
    assert not named[1].own_mask(calibration).binary[corner].any()


def test_the_report_tells_what_signals_add():
    rng = np.random.default_rng(0)
    made = [scored(index % 2 == 0, rng) for index in range(20)]
    weak = [replace(item, logits=np.full((64, 64), -9, np.float16)) for item in made[:4]]
    exact = [replace(item, places=item.truth) for item in weak if item.tampered]
    corner = np.zeros((64, 64), bool)
    corner[-8:, -16:] = True
    clean = [replace(item, places=corner) for item in weak if not item.tampered]
    _, report = assess(made, [*exact, *weak], clean, 0)
    assert report["found_forgeries"]["tampered"]["f1_fixed"] == pytest.approx(0.5)
    assert report["without_places"]["found_forgeries"]["tampered"]["f1_fixed"] == 0
    assert report["found_untouched_unseen_sources"]["mean_area"] == pytest.approx(corner.mean(), abs=1e-4)
    assert report["without_places"]["found_untouched_unseen_sources"]["mean_area"] == 0
    assert report["places_alone"] == {"forgeries": 2, "f1": 1.0, "iou": 1.0, "untouched": 2}
    assert "without_places" not in assess(made, weak, weak[1::2], 0)[1]
    assert places_alone(weak) == {"forgeries": 0, "f1": 0.0, "iou": 0.0, "untouched": 0}
