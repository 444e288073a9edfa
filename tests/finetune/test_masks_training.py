"""Training the mask head: samples, determinism, resuming, metrics against hand-computed cases, export."""

import hashlib
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("segment_anything")

from safetensors.torch import save_file  # noqa: E402

from vlmforensics.errors import SettingsError  # noqa: E402
from vlmforensics.finetune import mask_metrics as metrics  # noqa: E402
from vlmforensics.finetune.mask_export import noise_map  # noqa: E402
from vlmforensics.finetune.mask_objective import LossWeights, map_loss, outline, target_map  # noqa: E402
from vlmforensics.finetune.mask_samples import SampleMaker, read_sample, write_sample  # noqa: E402
from vlmforensics.finetune.masks import (  # noqa: E402
    MaskTraining,
    batch_indices,
    finish,
    learning_rate,
    simulated_prompts,
    train,
    training_cache,
    weakened,
)
from vlmforensics.finetune.pictures import held_back, load_manifest  # noqa: E402
from vlmforensics.imaging import encode  # noqa: E402
from vlmforensics.masks import MaskHead, PixelCalibration  # noqa: E402
from vlmforensics.masks.encoder import EncoderConfig  # noqa: E402
from vlmforensics.masks.network import NetworkConfig  # noqa: E402
from vlmforensics.masks.sam import DecoderConfig  # noqa: E402
from vlmforensics.types import Traces  # noqa: E402

TINY = NetworkConfig(
    EncoderConfig(tower_channels=6, width=16, semantic=8, blocks=1, channels=32),
    DecoderConfig(channels=32, depth=1, heads=2, mlp=32, prompt_channels=4),
    seg=24,
)
TRAINING, HELD = "grocery", "clothing"


def tower(pixels):
    """A stand-in for the frozen tower: patch means and deviations."""
    rows = np.array_split(np.arange(pixels.shape[0]), 16)
    columns = np.array_split(np.arange(pixels.shape[1]), 16)
    grid = np.array([[pixels[np.ix_(r, c)].reshape(-1, 3) for c in columns] for r in rows], dtype=object)
    means = np.array([[[*cell.mean(axis=0), *cell.std(axis=0)] for cell in row] for row in grid], np.float32)
    return dict.fromkeys((4, 8, 12), means / 255)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Photographs of scikit-image cut to pieces, as two sources, and one found forgery with its mask."""
    skimage = pytest.importorskip("skimage.data")
    folder = tmp_path_factory.mktemp("pictures")
    rows = []

    def add(path, pixels, label, source, **more):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        payload = encode(pixels, "PNG")
        (folder / path).write_bytes(payload)
        digest = hashlib.sha256(payload).hexdigest()
        rows.append({"path": path, "label": label, "source": source, "sha256": digest, **more})

    for name, source in (("astronaut", TRAINING), ("coffee", HELD)):
        photograph = getattr(skimage, name)()
        for index in range(4):
            y, x = 60 * (index // 2), 60 * (index % 2)
            part = np.ascontiguousarray(photograph[y : y + 340, x : x + 340])
            add(f"gen/{source}/{index}.png", part, "real", source)
    forged = skimage.astronaut()[:300, :300].copy()
    forged[100:180, 60:160] = 255 - forged[100:180, 60:160]
    mask = np.zeros_like(forged)
    mask[100:180, 60:160] = 255
    add("tamper/x/mask.png", mask, "real", "unused")
    rows.pop()
    add("tamper/x/forged.png", forged, "tampered", "x", mask="tamper/x/mask.png", manipulation="splice")
    (folder / "manifest.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert held_back(HELD)
    assert not held_back(TRAINING)
    return folder


def config(data, out, **changes):
    values = {"steps": 4, "samples": 4, "batch": 2, "save_every": 1, "network": TINY, "encoder_share": 0.5}
    return MaskTraining(data, out, **{**values, **changes})


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, train(config(data, out), tower)


def test_samples_depend_on_seed_and_index_alone(data):
    pictures = load_manifest(data)
    first, again, other = (SampleMaker(pictures, tower, (4, 8, 12), seed) for seed in (0, 0, 1))
    again.make(1)
    one, two, three = first.make(5), again.make(5), other.make(5)
    np.testing.assert_array_equal(one.pixels, two.pixels)
    np.testing.assert_array_equal(one.mask, two.mask)
    assert one.kind == two.kind
    assert one.pixels.shape != three.pixels.shape or not np.array_equal(one.pixels, three.pixels)


def test_about_half_of_the_samples_are_untouched_and_masks_fit(data):
    maker = SampleMaker(load_manifest(data), tower, (4, 8, 12), 3, short_side=(96, 128))
    samples = [maker.make(index) for index in range(40)]
    tampered = [sample for sample in samples if sample.tampered]
    assert 10 <= len(tampered) <= 30
    assert all(sample.mask.shape == sample.pixels.shape[:2] for sample in samples)
    assert all((sample.kind == "untouched") != sample.tampered for sample in samples)
    assert all(sample.mask.mean() < 0.7 for sample in samples)


def test_a_stored_sample_comes_back_whole(data, tmp_path):
    sample = SampleMaker(load_manifest(data), tower, (4, 8, 12), 0).make(2)
    write_sample(tmp_path / "s.npz", sample)
    back = read_sample(tmp_path / "s.npz")
    np.testing.assert_array_equal(back.pixels, sample.pixels)
    np.testing.assert_array_equal(back.mask, sample.mask)
    assert (back.kind, back.source) == (sample.kind, sample.source)
    assert sorted(back.patches) == [4, 8, 12]
    assert list(tmp_path.iterdir()) == [tmp_path / "s.npz"]


def drawn(pixels):
    """A stand-in for the blending detector: the brighter, the more foreign."""
    region = np.clip(pixels[::4, ::4, 1].astype(np.float32) / 256, 0.01, 0.99)
    return Traces(np.full_like(region, 0.25), region)


def test_blending_maps_are_stored_with_a_sample(data, tmp_path):
    sample = SampleMaker(load_manifest(data), tower, (4, 8, 12), 0, traces=drawn).make(2)
    write_sample(tmp_path / "s.npz", sample)
    back = read_sample(tmp_path / "s.npz").traces
    assert back is not None
    np.testing.assert_allclose(back.region, drawn(sample.pixels).region, atol=1e-3)
    np.testing.assert_allclose(back.boundary, 0.25, atol=1e-3)


def test_training_weakens_the_region_map_alone():
    maps = Traces(np.full((4, 4), 0.5, np.float32), np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4))
    found = weakened(maps, np.random.default_rng(0))
    assert found.boundary is maps.boundary
    assert (np.diff(found.region.ravel()) > 0).all()
    assert not np.allclose(found.region, maps.region, atol=0.02)
    assert weakened(None, np.random.default_rng(0)) is None
    alone = Traces(maps.boundary)
    assert weakened(alone, np.random.default_rng(0)) is alone


def test_a_head_trained_with_blending_maps_says_so_and_reads_them(data, tmp_path):
    run = config(data, tmp_path, steps=2)
    network = train(run, tower, drawn)
    path = finish(network, run, tower, drawn, made=4, untouched=2, command="train me")
    manifest = json.loads(path.read_text())
    assert manifest["inputs"] == {"tower": True, "traces": True, "seg": False}
    head = MaskHead.load(folder=path.parent)
    pixels = np.zeros((80, 90, 3), np.uint8)
    everywhere, nowhere = (
        head.locate(
            pixels, traces=Traces(np.zeros((20, 22), np.float32), np.full((20, 22), level, np.float32))
        )
        for level in (0.95, 0.05)
    )
    assert (everywhere.soft > nowhere.soft).all()


def test_what_is_frozen_stays_as_it_was_given(data, tmp_path):
    begin = train(config(data, tmp_path / "one", steps=1), tower)
    file = tmp_path / "start.safetensors"
    save_file({name: value.contiguous() for name, value in begin.state_dict().items()}, file)
    run = config(data, tmp_path / "two", steps=2, start=file, frozen=("encoder.forensic",))
    after = train(run, tower).state_dict()
    for name, value in begin.state_dict().items():
        if name.startswith("encoder.forensic"):
            torch.testing.assert_close(after[name], value, rtol=0, atol=0)
    assert not torch.equal(after["encoder.fuse.weight"], begin.state_dict()["encoder.fuse.weight"])


def test_training_never_sees_held_back_sources_or_found_forgeries(data, tmp_path):
    run = config(data, tmp_path)
    seen = training_cache(run, tower).maker._pools["real"]
    kept = training_cache(run, tower, validation=True).maker._pools["real"]
    assert set(seen) == {TRAINING}
    assert set(kept) == {HELD}
    assert len(kept[HELD]) == 4


def test_training_resumed_equals_training_in_one_go(data, finished, tmp_path):
    _, straight = finished
    # Stop after two of four steps by running into an error in the third, as a kill would.
    run = config(data, tmp_path)
    calls = 0

    def failing(pixels):
        nonlocal calls
        calls += 1
        return tower(pixels)

    from vlmforensics.finetune import masks as module

    genuine = module.train_step

    def two_steps(network, optimizer, cache, settings, step, **phase):
        if step == 2:
            raise KeyboardInterrupt
        return genuine(network, optimizer, cache, settings, step, **phase)

    module.train_step = two_steps
    try:
        with pytest.raises(KeyboardInterrupt):
            train(run, failing)
    finally:
        module.train_step = genuine
    resumed = train(run, failing, resume=True)
    for (name, want), (_, got) in zip(
        straight.state_dict().items(), resumed.state_dict().items(), strict=True
    ):
        torch.testing.assert_close(got, want, msg=name, rtol=0, atol=0)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3]
    assert calls <= run.samples, "cached samples are made once"


def test_a_run_is_resumed_by_the_same_run_only(data, finished, tmp_path):
    out, _ = finished
    for changes in ({"steps": 5}, {"rate": 2e-3}, {"prompt_share": 0.5}):
        with pytest.raises(SettingsError, match=next(iter(changes))):
            train(config(data, out, **changes), tower, resume=True)
    train(config(data, out, save_every=3, threads=1), tower, resume=True)


def test_cached_samples_are_of_one_series(data, tmp_path):
    cache = training_cache(config(data, tmp_path), tower)
    training_cache(config(data, tmp_path, seed=1), tower)  # nothing was made yet
    training_cache(config(data, tmp_path), tower)
    cache.fill(0)
    training_cache(config(data, tmp_path, samples=9), tower)
    with pytest.raises(SettingsError, match="seed"):
        training_cache(config(data, tmp_path, seed=1), tower)
    with pytest.raises(SettingsError, match="blending_maps, blending_weights"):
        training_cache(config(data, tmp_path), tower, drawn, blending_weights="0" * 64)
    other = tmp_path / "data"
    other.mkdir()
    for line in data.iterdir():
        (other / line.name).symlink_to(line)
    (other / "manifest.jsonl").unlink()
    rows = (data / "manifest.jsonl").read_text().splitlines()
    (other / "manifest.jsonl").write_text("\n".join(rows[1:]))
    with pytest.raises(SettingsError, match="pictures"):
        training_cache(config(other, tmp_path), tower)
    (cache.folder / "made-from.json").unlink()
    with pytest.raises(SettingsError, match="other settings or data"):
        training_cache(config(data, tmp_path), tower)


def test_nothing_to_resume_is_an_error(data, tmp_path):
    with pytest.raises(SettingsError, match="resume"):
        train(config(data, tmp_path), tower, resume=True)


def test_order_and_rate_are_functions_of_the_step(tmp_path):
    run = MaskTraining(tmp_path, tmp_path, steps=100, samples=6, batch=4)
    assert batch_indices(run, 0) == [0, 1, 2, 3]
    second = batch_indices(run, 1)
    assert second[:2] == [4, 5]
    assert sorted([*second[2:], *batch_indices(run, 2)]) == [0, 1, 2, 3, 4, 5]
    rates = [learning_rate(step, run) for step in range(100)]
    assert max(rates) == pytest.approx(run.rate)
    assert rates[0] < rates[2]
    assert rates[-1] < 0.05 * run.rate
    with pytest.raises(SettingsError):
        MaskTraining(tmp_path, tmp_path, steps=0)
    with pytest.raises(SettingsError):
        MaskTraining(tmp_path, tmp_path, encoder_share=1.5)


def test_simulated_prompts_lie_where_a_user_would_put_them(data):
    maker = SampleMaker(load_manifest(data), tower, (4, 8, 12), 3, short_side=(96, 128))
    samples = [maker.make(index) for index in range(12)]
    kinds = set()
    for sample in samples:
        height, width = sample.mask.shape
        for seed in range(6):
            points, box = simulated_prompts(sample, np.random.default_rng(seed))
            kinds.add("box" if box else "click")
            for x, y, inside in points:
                column = int((x + 0.5) * width / 1024)
                row = int((y + 0.5) * height / 1024)
                if sample.tampered:
                    assert bool(sample.mask[row, column]) == inside
            if box:
                assert box[0] < box[2]
                assert box[1] < box[3]
    assert kinds == {"box", "click"}


def test_target_and_outline():
    mask = np.zeros((100, 300), bool)
    mask[:50, :150] = True
    target = target_map(mask, 64)
    assert target.shape == (64, 64)
    assert target[:31, :31].min() == 1
    assert target[33:, :].max() == 0
    assert float(target.mean()) == pytest.approx(0.25, abs=0.01)
    small = np.zeros((20, 300), bool)
    small[:10] = True
    assert float(target_map(small, 64).mean()) == pytest.approx(0.5, abs=0.02)
    edge = outline(target)
    assert edge[10, 10] == 0
    assert edge[10, 31] == 1
    assert edge[60, 60] == 0


def test_loss_prefers_the_truth():
    target = torch.zeros(64, 64)
    target[10:30, 10:30] = 1
    right, wrong = (target * 16 - 8), (target.flip(0).flip(1) * 16 - 8)
    assert map_loss(right, target, LossWeights()) < 0.05 < map_loss(wrong, target, LossWeights())
    empty = torch.zeros(64, 64)
    assert map_loss(torch.full((64, 64), -8.0), empty, LossWeights()) < 0.01


def test_metrics_by_hand():
    truth = np.zeros((10, 10), bool)
    truth[:2] = True  # 20 pixels
    marked = np.zeros((10, 10), bool)
    marked[1:3] = True  # 20 pixels, 10 shared
    f1, iou = metrics.f1_and_iou(marked, truth)
    assert f1 == pytest.approx(0.5)
    assert iou == pytest.approx(10 / 30)
    assert metrics.f1_and_iou(np.zeros_like(truth), truth) == (0.0, 0.0)
    soft = np.where(truth, 0.3, 0.1).astype(np.float32)
    assert metrics.best_f1(soft, truth) == 1
    assert metrics.pixel_auc(soft, truth) == 1
    assert metrics.pixel_auc(1 - soft, truth) == 0, "maps are never inverted"
    assert metrics.pixel_auc(np.full((10, 10), 0.4, np.float32), truth) == pytest.approx(0.5)
    assert metrics.rank_auc([0.9, 0.4, 0.4, 0.1], [True, True, False, False]) == pytest.approx(3.5 / 4)
    assert np.isnan(metrics.rank_auc([0.5], [True]))


def scored(count, seed=0):
    """Pictures on which the network is over-confident by a factor of three, and is right."""
    rng = np.random.default_rng(seed)
    items = []
    for index in range(count):
        truth = np.zeros((64, 80), bool)
        if index % 2:
            truth[16:40, 20:50] = True
        frame = truth[:, (np.arange(64) * 80) // 64]
        probability = np.where(frame, 0.8, 0.02)
        noisy = rng.random((64, 64)) < probability
        logits = np.where(frame, np.log(4), np.log(0.02 / 0.98)) * 3 + rng.normal(0, 0.1, (64, 64))
        # Pixels of the truth flip as often as the probability says.
        wide = noisy[:, (np.arange(80) * 64) // 80]
        items.append(
            metrics.Scored(
                logits.astype(np.float16), 2.0 if index % 2 else -2.0, wide & truth.any(), "x", "s"
            )
        )
    return items


def test_calibration_undoes_overconfidence():
    calibration = metrics.calibrate(scored(20))
    softs = [(item.mask(calibration).soft, item.truth) for item in scored(20, seed=1)]
    confident = np.concatenate([truth[soft > 0.5] for soft, truth in softs])
    said = np.concatenate([soft[soft > 0.5] for soft, _ in softs])
    assert said.mean() == pytest.approx(confident.mean(), abs=0.08)
    assert PixelCalibration().slope > calibration.slope


def test_threshold_keeps_false_area_low():
    noisy = scored(12)
    calibration = metrics.calibrate(noisy)
    false = [item.mask(calibration).binary.mean() for item in noisy if not item.tampered]
    assert np.mean(false) <= metrics.MOST_FALSE_AREA


def test_noise_map_finds_foreign_noise():
    rng = np.random.default_rng(0)
    pixels = rng.normal(128, 2, (256, 256, 3))
    pixels[64:128, 64:192] += rng.normal(0, 14, (64, 128, 3))
    found = noise_map(np.clip(pixels, 0, 255).astype(np.uint8))
    assert found.shape == (16, 16)
    assert found[5:7, 5:11].mean() > found[10:].mean() + 0.3
    assert not noise_map(np.zeros((9, 30, 3), np.uint8)).any()


def test_export_loads_and_tells_its_story(data, finished, tmp_path):
    out, network = finished
    path = finish(network, config(data, out), tower, made=4, untouched=2, command="train me")
    manifest = json.loads(path.read_text())
    assert manifest["training"]["command"] == "train me"
    assert manifest["training"]["photographs"] == 4
    assert manifest["training"]["held_back_sources"] == [HELD]
    report = manifest["validation"]
    assert report["found_untouched_unseen_sources"]["n"] == 2
    assert report["found_forgeries"]["tampered"]["n"] == 1
    assert report["found_forgeries_by_source"]["x"]["n"] == 1
    assert 0 <= report["found_forgeries"]["tampered"]["f1_fixed"] <= 1
    assert set(report["classical_made"]) == {"centre_prior", "noise_deviation", "evidence_room_noise"}
    parts = {"everything", "without_traces", "pixels_alone", "tower_alone", "traces_alone"}
    assert parts <= set(report["made_ablation"]) or not report["made_ablation"]["n"]
    assert manifest["inputs"] == {"tower": True, "traces": False, "seg": False}
    head = MaskHead.load(folder=path.parent)
    pixels = np.zeros((80, 90, 3), np.uint8)
    assert head.locate(pixels, patches=tower(pixels)).soft.shape == (80, 90)
