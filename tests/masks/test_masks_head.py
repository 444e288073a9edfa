"""The mask head: loading refuses what is not right, locate and evidence keep their promises."""

import hashlib
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("segment_anything")

from safetensors.torch import load_file, save  # noqa: E402

from vlmforensics.errors import Defect, ModelError, SettingsError, WeightsCorrupt, WeightsUnavailable  # noqa: E402
from vlmforensics.masks import MaskHead, PixelCalibration, TrainedInputs  # noqa: E402
from vlmforensics.masks.encoder import EncoderConfig  # noqa: E402
from vlmforensics.masks.network import MaskNetwork, NetworkConfig, Prediction  # noqa: E402
from vlmforensics.masks.sam import DecoderConfig  # noqa: E402
from vlmforensics.types import Box, Mask, Traces  # noqa: E402

TINY = NetworkConfig(
    EncoderConfig(tower_channels=12, width=16, semantic=8, blocks=1, channels=32),
    DecoderConfig(channels=32, depth=1, heads=2, mlp=32, prompt_channels=4),
    seg=24,
)
SEG = np.linspace(-1, 1, 24, dtype=np.float32)
TAMPERED = (-3.0, -3.0, -0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as an export makes it, with random weights."""
    place = tmp_path_factory.mktemp("head")
    torch.manual_seed(0)
    write_folder(place, MaskNetwork(TINY).state_dict())
    return place


def write_folder(place, tensors, **changes):
    data = save({name: value.half().contiguous() for name, value in tensors.items()})
    (place / "masks.safetensors").write_bytes(data)
    manifest = {
        "schema": "vlmforensics.masks/2",
        "weights": {"file": "masks.safetensors", "sha256": hashlib.sha256(data).hexdigest()},
        "network": TINY.to_json(),
        "inputs": {"tower": True, "traces": True, "seg": True},
        "calibration": PixelCalibration(threshold=0.5).to_json(),
    }
    (place / "masks.json").write_text(json.dumps({**manifest, **changes}))


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def features():
    rng = np.random.default_rng(1)
    return {layer: rng.standard_normal((16, 16, 12)).astype(np.float32) for layer in (4, 8, 10, 12)}


class Scripted(torch.nn.Module):
    """Says whatever map it was given; records what it was asked."""

    def __init__(self, logits, presence=0.0):
        super().__init__()
        self.config = TINY
        self.logits, self.presence, self.asked = logits, presence, None

    def forward(self, pixels, **inputs):
        self.asked = inputs
        plane = torch.from_numpy(self.logits)
        return Prediction(plane, plane, torch.tensor(self.presence), plane)


def scripted(logits, presence=0.0, **inputs):
    return MaskHead(
        Scripted(logits, presence),
        PixelCalibration(),
        inputs=TrainedInputs(**inputs),
        weights_sha256="ab" * 32,
    )


def test_loads_what_an_export_wrote(folder):
    head = MaskHead.load(folder=folder)
    assert head.weights_sha256 == hashlib.sha256((folder / "masks.safetensors").read_bytes()).hexdigest()
    assert not head.network.training
    assert all(parameter.dtype == torch.float32 for parameter in head.network.parameters())
    mask = head.locate(picture(90, 120), patches=features(), traces=None, seg=SEG, label_log_probs=TAMPERED)
    assert isinstance(mask, Mask)
    assert mask.soft.shape == (90, 120)
    assert 0 <= mask.soft.min() <= mask.soft.max() <= 1


def test_wrong_digest_is_refused(folder, tmp_path):
    for name in ("masks.json", "masks.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    data = bytearray((tmp_path / "masks.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "masks.safetensors").write_bytes(data)
    with pytest.raises(WeightsCorrupt, match="digest"):
        MaskHead.load(folder=tmp_path)


def test_wrong_keys_and_shapes_are_refused(folder, tmp_path):
    tensors = load_file(folder / "masks.safetensors")
    name = "encoder.fuse.weight"
    write_folder(tmp_path, {key: value for key, value in tensors.items() if key != name})
    with pytest.raises(WeightsCorrupt, match="missing"):
        MaskHead.load(folder=tmp_path)
    write_folder(tmp_path, {**tensors, "extra": torch.zeros(1)})
    with pytest.raises(WeightsCorrupt, match="unexpected"):
        MaskHead.load(folder=tmp_path)
    write_folder(tmp_path, {**tensors, name: tensors[name][:, 1:]})
    with pytest.raises(WeightsCorrupt, match="shapes"):
        MaskHead.load(folder=tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "other/1"},
        {"network": {"encoder": {}}},
        {"inputs": {"smell": True}},
        {"calibration": {"slope": "steep"}},
        {"weights": {}},
    ],
)
def test_odd_manifests_are_refused(folder, tmp_path, changes):
    write_folder(tmp_path, load_file(folder / "masks.safetensors"), **changes)
    with pytest.raises(WeightsCorrupt):
        MaskHead.load(folder=tmp_path)


def test_missing_files_say_so(folder, tmp_path):
    with pytest.raises(WeightsUnavailable):
        MaskHead.load(folder=tmp_path)
    (tmp_path / "masks.json").write_bytes((folder / "masks.json").read_bytes())
    with pytest.raises(WeightsUnavailable):
        MaskHead.load(folder=tmp_path)
    (tmp_path / "masks.json").write_text("{")
    with pytest.raises(WeightsCorrupt):
        MaskHead.load(folder=tmp_path)


def test_the_same_picture_twice_gives_the_same_mask(folder):
    head = MaskHead.load(folder=folder)
    first, second = (head.locate(picture(64, 200), patches=features(), seg=SEG) for _ in range(2))
    np.testing.assert_array_equal(first.soft, second.soft)
    assert first.boxes == second.boxes
    assert first.presence == second.presence


def test_a_constant_seg_switches_the_prompt_off(folder):
    head = MaskHead.load(folder=folder)
    inputs = {"patches": features(), "label_log_probs": TAMPERED}
    with_seg = head.locate(picture(64, 64), seg=SEG, **inputs)
    constant = head.locate(picture(64, 64), seg=SEG, constant_seg=True, **inputs)
    without = head.locate(picture(64, 64), patches=features())
    assert not np.allclose(with_seg.soft, constant.soft)
    np.testing.assert_array_equal(constant.soft, without.soft)


def test_inputs_that_training_did_not_see_are_ignored():
    logits = np.zeros((256, 256), np.float32)
    given = {
        "patches": features(),
        "traces": Traces(np.ones((8, 8), np.float32)),
        "seg": SEG,
        "label_log_probs": TAMPERED,
    }
    plain = scripted(logits)
    plain.locate(picture(64, 64), **given)
    assert plain.network.asked["seg"] is plain.network.asked["traces"] is None
    assert plain.network.asked["label_log_probs"] is None
    assert sorted(plain.network.asked["patches"]) == [4, 8, 12]
    trained = scripted(logits, traces=True, seg=True)
    trained.locate(picture(64, 64), **given)
    assert trained.network.asked["seg"] is SEG
    assert trained.network.asked["label_log_probs"] == TAMPERED
    assert trained.network.asked["traces"] is given["traces"]


def test_features_of_another_tower_count_as_absent_but_a_missing_layer_is_an_error():
    head = scripted(np.zeros((256, 256), np.float32))
    head.locate(picture(64, 64), patches={23: np.zeros((24, 24, 1024), np.float32)})
    assert head.network.asked["patches"] is None
    head.locate(picture(64, 64), patches={})
    assert head.network.asked["patches"] is None
    with pytest.raises(ModelError, match="layers"):
        head.locate(picture(64, 64), patches={12: features()[12]})


def test_clicks_change_the_result_and_must_lie_inside(folder):
    head = MaskHead.load(folder=folder)
    plain = head.locate(picture(80, 160))
    clicked = head.locate(picture(80, 160), points=[(150, 10)])
    boxed = head.locate(picture(80, 160), box=Box(0, 0, 160, 80))
    assert not np.allclose(plain.soft, clicked.soft)
    assert not np.allclose(plain.soft, boxed.soft)
    for points, box in (([(160, 10)], None), ([(-1, 0)], None), ((), Box(0, 0, 161, 80))):
        with pytest.raises(SettingsError, match="outside"):
            head.locate(picture(80, 160), points=points, box=box)


def test_pixels_of_another_kind_are_a_defect():
    with pytest.raises(Defect):
        scripted(np.zeros((256, 256), np.float32)).locate(np.zeros((9, 9, 3), np.float32))


def test_evidence_of_a_region():
    logits = np.full((256, 256), -6, np.float32)
    logits[64:128, 128:192] = 6
    head = scripted(logits, presence=1.2)
    mask = head.locate(picture(100, 200))
    (evidence,) = head.evidence(mask, (100, 200, 3))
    assert evidence.source == "mask"
    assert evidence.score == pytest.approx(1 / (1 + np.exp(-1.2)))
    assert evidence.region.box == mask.boxes[0]
    assert evidence.region.mask is mask.binary
    assert evidence.heatmap.shape == (100, 200)
    assert evidence.heatmap.dtype == np.float32
    assert "6.2 % of the picture in 1 region;" in evidence.statement or "6.3 %" in evidence.statement
    assert "(100, 25)-(150, 50)" in evidence.statement
    assert evidence.statement.endswith("picture score 0.77.")
    assert json.loads(json.dumps(dict(evidence.recompute)))["threshold"] == 0.5


def test_evidence_of_nothing():
    head = scripted(np.full((256, 256), -2, np.float32), presence=-2.0)
    mask = head.locate(picture(400, 300))
    (evidence,) = head.evidence(mask, (400, 300, 3))
    assert (
        evidence.statement == "The mask head marks no region (highest confidence 0.12; picture score 0.12)."
    )
    assert evidence.region is None
    assert evidence.score == pytest.approx(0.1192, abs=1e-4)
    assert evidence.heatmap.shape == (256, 256)
    (dropped,) = head.evidence(None, (400, 300, 3))
    assert dropped.score is None


def test_a_mask_of_another_picture_is_a_defect():
    head = scripted(np.zeros((256, 256), np.float32))
    mask = head.locate(picture(64, 100))
    with pytest.raises(Defect, match="belong"):
        head.evidence(mask, (100, 64, 3))


def test_a_large_picture_keeps_its_size():
    logits = np.full((256, 256), -6, np.float32)
    logits[:128] = 6
    pixels = np.zeros((3000, 4000, 3), np.uint8)
    mask = scripted(logits).locate(pixels)
    assert mask.boxes[0].as_list() == pytest.approx([0, 0, 4000, 1500], abs=8)


def test_importing_the_room_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, vlmforensics.masks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
