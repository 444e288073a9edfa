"""Training the locator: targets, the token cache, learning, resuming, joining a head."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("segment_anything")

from vlmforensics.errors import SettingsError  # noqa: E402
from vlmforensics.finetune import locator as work  # noqa: E402
from vlmforensics.finetune.locator import LocatorTraining  # noqa: E402
from vlmforensics.finetune.mask_export import export, half_digest  # noqa: E402
from vlmforensics.finetune.mask_samples import SampleMaker  # noqa: E402
from vlmforensics.finetune.pictures import load_manifest  # noqa: E402
from vlmforensics.imaging import encode  # noqa: E402
from vlmforensics.masks import MaskHead, PixelCalibration  # noqa: E402
from vlmforensics.masks.encoder import EncoderConfig  # noqa: E402
from vlmforensics.masks.locator import LAYERS, SIDE, Locator  # noqa: E402
from vlmforensics.masks.network import MaskNetwork, NetworkConfig  # noqa: E402
from vlmforensics.masks.sam import DecoderConfig  # noqa: E402

TINY = NetworkConfig(
    EncoderConfig(tower_channels=12, width=16, semantic=8, blocks=1, channels=32),
    DecoderConfig(channels=32, depth=1, heads=2, mlp=32, prompt_channels=4),
    seg=24,
)
RUN = LocatorTraining(samples=24, steps=40, batch=6, rate=3e-3)


def planted(count=24, patches=49, channels=16, seed=0):
    """Tokens whose third channel is shifted where the picture was tampered with, in every second picture."""
    rng = np.random.default_rng(seed)
    tokens = rng.normal(0, 1, (count, patches, channels)).astype(np.float16)
    target = np.zeros((count, patches), np.float32)
    for index in range(0, count, 2):
        inside = rng.permutation(patches)[:8]
        target[index, inside] = 1
        tokens[index, inside, 2] += 4
    return tokens, target


def test_a_targets_cells_hold_the_share_of_each_patch():
    mask = np.zeros((84, 168), bool)
    mask[:42, :84] = True
    found = work.targets(mask, 21)
    assert found.shape == (21, 21)
    assert found[0, 0] == 1
    assert found[20, 20] == 0
    assert found[10, 0] == pytest.approx(0.5)
    assert found.mean() == pytest.approx(0.25)


def test_it_learns_where_the_tokens_differ(tmp_path):
    longer = LocatorTraining(samples=24, steps=200, batch=12, rate=5e-3)
    found = work.fit(*planted(200), longer, tmp_path)
    tokens, target = planted(seed=1)
    with torch.inference_mode():
        logits = found(torch.from_numpy(tokens.astype(np.float32))).numpy()
    inside, outside = logits[target > 0.5], logits[target < 0.5]
    assert (inside > np.quantile(outside, 0.95)).mean() > 0.6  # chance: 0.05


def test_a_resumed_run_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "SAVE_EVERY", 15)
    tokens, target = planted()
    whole = work.fit(tokens, target, RUN, tmp_path / "whole")
    real, calls = work.loss_of, []

    def broken(logits, wanted):
        calls.append(1)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return real(logits, wanted)

    monkeypatch.setattr(work, "loss_of", broken)
    with pytest.raises(KeyboardInterrupt):
        work.fit(tokens, target, RUN, tmp_path / "cut")
    monkeypatch.setattr(work, "loss_of", real)
    again = work.fit(tokens, target, RUN, tmp_path / "cut", resume=True)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(SettingsError):
        work.fit(tokens, target, LocatorTraining(samples=24, steps=50), tmp_path / "cut", resume=True)
    with pytest.raises(SettingsError, match="nothing to resume"):
        work.fit(tokens, target, RUN, tmp_path / "none", resume=True)


class Reader:
    """Counts what it is asked."""

    asked = 0

    def patch_tokens(self, pixels, side, layers):
        assert (side, layers) == (SIDE, LAYERS)
        self.asked += 1
        return np.full((21, 21, 8), pixels.mean(), np.float32)


def test_tokens_are_computed_once_and_told_from_those_of_other_pictures(tmp_path):
    rows = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (320, 400, 3), dtype=np.uint8)
        (tmp_path / f"{number}.png").write_bytes(encode(pixels, "PNG"))
        rows.append({"path": f"{number}.png", "label": "real", "source": "a", "sha256": f"{number:02x}" * 32})
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    pictures = load_manifest(tmp_path)
    maker, reader, folder = SampleMaker(pictures, lambda _: {}, (), 0), Reader(), tmp_path / "tokens"
    work.fill(folder, maker, reader, range(0, 4, 2))
    with pytest.raises(SettingsError, match="is missing"):
        work.read(folder, 4)
    work.fill(folder, maker, reader, range(4))
    assert reader.asked == 4
    tokens, target = work.read(folder, 4)
    assert tokens.shape == (4, 441, 8)
    assert target.shape == (4, 441)
    assert tokens.dtype == np.float16
    with pytest.raises(SettingsError):
        work.fill(folder, SampleMaker(pictures[:2], lambda _: {}, (), 0), reader, range(1))


def test_a_joined_head_keeps_its_weights_and_can_be_joined_again():
    torch.manual_seed(0)
    network, locator = MaskNetwork(TINY), Locator()
    both = work.joined(MaskHead(network, PixelCalibration()), locator, 0.5)
    assert both.balance.item() == 0.5
    for name, value in network.state_dict().items():
        assert torch.equal(both.state_dict()[name], value)
    other = Locator()
    again = work.joined(MaskHead(both, PixelCalibration()), other, 1.0)
    assert torch.equal(again.locator.wide.weight, other.wide.weight)
    assert again.balance.item() == 1


def test_comparisons_are_kept_from_the_head_of_the_same_weights(tmp_path):
    torch.manual_seed(0)
    network = MaskNetwork(TINY)
    told = {"classical_made": {"centre_prior": 1}, "made": {"n": 2}}
    path = export(network, PixelCalibration(), tmp_path, training={}, validation=told)
    assert json.loads(path.read_text())["weights"]["sha256"] == half_digest(network)
    assert half_digest(MaskNetwork(TINY)) != half_digest(network)
    assert work.kept_comparisons(tmp_path) == {"classical_made": {"centre_prior": 1}}
    assert set(work.kept_comparisons(None)) <= {
        "made_ablation",
        "classical_made",
        "classical_found_forgeries",
    }
