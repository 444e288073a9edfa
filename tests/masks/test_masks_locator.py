"""The locator: what stands out among a picture's patches, and how its map joins the network's."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("segment_anything")

from vlmforensics.masks import MaskHead, PixelCalibration  # noqa: E402
from vlmforensics.masks.encoder import EncoderConfig  # noqa: E402
from vlmforensics.masks.locator import CHANNELS, LAYERS, SIDE, Locator  # noqa: E402
from vlmforensics.masks.network import MaskNetwork, NetworkConfig  # noqa: E402
from vlmforensics.masks.sam import DecoderConfig  # noqa: E402

TINY = NetworkConfig(
    EncoderConfig(tower_channels=12, width=16, semantic=8, blocks=1, channels=32),
    DecoderConfig(channels=32, depth=1, heads=2, mlp=32, prompt_channels=4),
    seg=24,
    locator=True,
)


class Reader:
    """Patch tokens that say how red each patch is, in all channels alike."""

    def patch_tokens(self, pixels, side, layers):
        assert (side, layers) == (SIDE, LAYERS)
        rows, columns = (np.array_split(np.arange(extent), side // 16) for extent in pixels.shape[:2])
        red = [[pixels[np.ix_(r, c)][..., 0].mean() for c in columns] for r in rows]
        return np.repeat(np.array(red, np.float32)[..., None], CHANNELS, axis=-1) / 255


def watchful():
    """A locator that marks what is redder than the rest of the picture."""
    locator = Locator().eval()
    with torch.no_grad():
        for parameter in locator.parameters():
            parameter.zero_()
        locator.wide.weight[0] = 1 / CHANNELS
        locator.out.weight[0, 0] = 8
    return locator


def spotted(height=210, width=420):
    pixels = np.full((height, width, 3), 60, np.uint8)
    pixels[20:80, 300:380, 0] = 220
    return pixels


def test_what_differs_from_its_own_picture_stands_out_however_bright_that_is():
    pixels = spotted()
    found = watchful().read(Reader(), pixels)
    assert found.shape == (SIDE // 16, SIDE // 16)
    assert found.dtype == np.float32
    assert found[2:8, 15:19].min() > 5 * abs(found[12:].max())
    brighter = watchful().read(Reader(), (pixels + 20).astype(np.uint8))
    np.testing.assert_allclose(brighter, found, atol=1e-3)


def test_the_locators_map_is_what_the_networks_map_starts_from():
    torch.manual_seed(0)
    network = MaskNetwork(TINY).eval()
    pixels = spotted()
    with torch.inference_mode():
        alone = network(pixels).coarse
        network.locator.load_state_dict(watchful().state_dict())
        assert torch.equal(network(pixels).coarse, alone), "without a tower there are no tokens to read"
        network.reader = Reader()
        both = network(pixels).coarse
        network.balance.fill_(0)
        located = network(pixels).coarse
    assert torch.allclose(both, alone + located, atol=1e-4)
    rows, columns = np.nonzero((located > located.max() / 2).numpy())
    assert abs(rows.mean() / 64 - 50 / 210) < 0.05
    assert abs(columns.mean() / 64 - 340 / 420) < 0.05
    assert "reader" not in "".join(network.state_dict())


def test_a_head_marks_what_the_locator_finds_and_lines_up_with_the_picture():
    torch.manual_seed(0)
    network = MaskNetwork(TINY).eval()
    network.locator.load_state_dict(watchful().state_dict())
    network.reader = Reader()
    with torch.no_grad():
        network.balance.fill_(0)
        network.refinement.fill_(0)
    mask = MaskHead(network, PixelCalibration(threshold=0.9)).locate(spotted())
    truth = spotted()[..., 0] > 100
    overlap = (mask.binary & truth).sum() / (mask.binary | truth).sum()
    assert overlap > 0.5


def test_manifests_without_a_locator_stay_readable():
    values = replace(TINY, locator=False).to_json()
    del values["locator"]
    assert NetworkConfig.from_json(values) == replace(TINY, locator=False)
    assert NetworkConfig.from_json(TINY.to_json()) == TINY
