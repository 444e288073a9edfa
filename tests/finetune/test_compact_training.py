"""From cached features to calibration: what is left out of what."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from safetensors.numpy import save_file

from vlmforensics.assistant import gate_features
from vlmforensics.errors import SettingsError
from vlmforensics.finetune import calibrate, compact_label, compact_whole, features, observe
from vlmforensics.finetune.checkpoint import load_state, save_state
from vlmforensics.finetune.compact_label import Sample, write_scores
from vlmforensics.finetune.journal import append, read_journal
from vlmforensics.finetune.observe import Observation
from vlmforensics.finetune.pictures import FORGERIES, Picture, held_back, load_manifest, share_of
from vlmforensics.finetune.progress import show_progress
from vlmforensics.fusion import Calibration, Reading
from vlmforensics.imaging import encode
from vlmforensics.settings import load_settings
from vlmforensics.types import LABELS, Evidence

HELD = next(name for name in (f"source{i}" for i in range(99)) if held_back(name))
TASK = compact_whole.TASKS["whole"]
OPEN = next(name for name in (f"source{i}" for i in range(99)) if not held_back(name))


def picture(tmp_path, number, label="real", source=OPEN):
    return Picture(tmp_path / f"{number}.png", label, source, "", None, f"{number:02x}" * 32, "", "gen")


def test_unseen_scores_come_from_weights_without_the_family(tmp_path):
    """Each fold carries a mark that tells its labels perfectly; only weights that saw the fold can read it."""
    rng = np.random.default_rng(0)
    count, folds = 400, 4
    labels = rng.integers(0, 2, count)
    home = rng.integers(0, folds, count)
    table = rng.normal(0, 1, (count, 1 + folds)).astype(np.float32)
    table[:, 0] += labels
    table[np.arange(count), 1 + home] += 4 * (2 * labels - 1)
    samples = [
        Sample(picture(tmp_path, i % 256, LABELS[y], f"s{i % 7}"), "equalised", int(y))
        for i, y in enumerate(labels)
    ]
    weights = compact_whole.fit(TASK, table, samples)
    unseen = compact_whole.unseen_scores(TASK, table, samples, home)

    def accuracy(scores):
        return float(np.mean((scores > 0) == labels))

    assert accuracy(compact_whole.apply(weights, table)) > 0.95
    assert 0.55 < accuracy(unseen) < 0.85

    # nothing of omitted folds is learnt, whatever stands in them
    poisoned = table.copy()
    poisoned[home == 3] *= -100
    nested, other = (
        compact_whole.unseen_scores(TASK, rows, samples, home, omitted=(3,)) for rows in (table, poisoned)
    )
    kept = home != 3
    assert np.array_equal(nested[kept], other[kept])
    assert not np.array_equal(nested[kept], unseen[kept])
    assert np.corrcoef(nested[~kept], other[~kept])[0, 1] < 0
    assert (nested[~kept] != 0).all()


def test_files_as_found_are_scored_but_never_trained_on(tmp_path):
    rng = np.random.default_rng(1)
    table = rng.normal(0, 1, (80, 3)).astype(np.float32)
    labels = np.arange(80) % 2
    samples = [
        Sample(picture(tmp_path, i % 256, LABELS[y]), "raw" if i < 40 else "equalised", int(y))
        for i, y in enumerate(labels)
    ]
    poisoned = table.copy()
    poisoned[:40] *= 100
    home = np.arange(80) % 4
    one, other = (compact_whole.fit(TASK, rows, samples) for rows in (table, poisoned))
    unseen = compact_whole.unseen_scores(TASK, poisoned, samples, home)
    assert all(np.array_equal(one[key], other[key]) for key in one)
    assert np.isfinite(unseen).all()
    assert (unseen[:40] != 0).all()


def test_each_expert_learns_its_own_question():
    def learns(name, label, variant):
        sample = Sample(picture(Path(), 1, label), variant, LABELS.index(label))
        return compact_whole.TASKS[name].learns(sample)

    assert learns("whole", "synthetic", "augmented-1")
    assert not learns("whole", "tampered", "equalised")
    assert learns("edited", "tampered", "equalised")
    assert learns("edited", "tampered", "made-equalised")
    assert not learns("edited", "synthetic", "equalised")
    # forgeries in the random chain keep their frame and photographs don't: that must not tell them apart
    assert not learns("edited", "tampered", "made-1")


def test_scores_of_parts_are_found_in_their_folders(tmp_path):
    """A part that was trained with several groups left out has a folder for each."""
    known = picture(tmp_path, 1, source=HELD)
    for folder, said in (("label-0", [-0.1, -3.0, -4.123456]), ("whole", [-2.0]), ("edited", [0.5])):
        (tmp_path / folder).mkdir()
        write_scores(tmp_path / folder / "scores.json", {("augmented-1", known.sha256): said})
    (row,) = calibrate.load_rows([known], tmp_path, tmp_path, ["augmented-1"])
    assert row.example.readings == {
        "vlm": calibrate.opinion([-0.1, -3.0, -4.12346]), "whole": Reading(-2.0), "edited": Reading(0.5),
    }  # fmt: skip


def test_what_knows_a_family_says_nothing_of_its_pictures(tmp_path):
    """The trained detectors saw the pictures of the other sources, so there they may not testify."""
    numbers = range(99)
    kin = next(f"{f}_{n}" for f in ("a", "b") for n in numbers if held_back(f"{f}_{n}"))
    known = next(f"{kin[0]}_{n}" for n in numbers if not held_back(f"{kin[0]}_{n}"))
    pictures = [
        picture(tmp_path, 1, "real", HELD),
        picture(tmp_path, 2, "real", OPEN),
        picture(tmp_path, 3, "synthetic", known),
        picture(tmp_path, 4, "real", kin),  # held back itself, but its family is not
        picture(tmp_path, 5, "tampered", OPEN),
    ]
    pictures[-1] = replace(pictures[-1], part=FORGERIES)
    readings = {
        "mask": Reading(0.4),
        "blending": Reading(0.1),
        "spectrum": Reading(1.0),
        "whole": Reading(9.0),
    }
    observations = [Observation("augmented-1", p.sha256, readings, ()) for p in pictures]
    scores = {"whole": {("augmented-1", p.sha256): [0.5] for p in pictures}}
    rows = calibrate.assemble(pictures, observations, scores, tmp_path, ["augmented-1"])
    assert ["mask" in row.example.readings for row in rows] == [True, False, False, False, True]
    assert ["blending" in row.example.readings for row in rows] == [True, False, False, False, True]
    assert all(row.example.readings["whole"] == Reading(0.5) for row in rows)


def test_a_picture_is_complete_where_experts_and_signals_spoke(tmp_path):
    pictures = [picture(tmp_path, n) for n in range(3)]
    said = ({"spectrum": Reading(1.0)}, {"spectrum": Reading(1.0)}, {"mask": Reading(0.4)})
    observations = [
        Observation("augmented-1", p.sha256, own, ()) for p, own in zip(pictures, said, strict=True)
    ]
    scores = {"whole": {("augmented-1", p.sha256): [0.5] for p in pictures[::2]}}
    rows = calibrate.assemble(pictures, observations, scores, tmp_path, ["augmented-1"])
    assert [row.example.complete for row in rows] == [True, False, False]


def test_what_calibration_leaves_out_weighs_nothing():
    """Most pictures of the shipped calibration are without the two detectors' word, which may not matter then."""
    shipped = Calibration.load()
    covered = [name for name in calibrate.UNWEIGHED if name in shipped.sources]
    assert {*calibrate.NUMEROUS, "blending"} <= set(covered)
    for name in covered:
        assert not shipped.sources[name].weight.any()


def test_label_training_goes_on_with_its_own_recipe_and_pictures_only(tmp_path):
    """Weights that another group was left out of would be resumed otherwise, and judge what they trained on."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimiser = torch.optim.AdamW([weight])
    samples = [Sample(picture(tmp_path, n), "equalised", 0) for n in range(2)]
    own = {"recipe": {"seed": 0}, "samples": compact_label.digest_of(samples)}
    save_state(tmp_path, {"weight": weight}, optimiser, {"step": 40, "curve": [], **own})
    assert load_state(tmp_path, {"weight": weight}, optimiser, own)["step"] == 40
    for other in (own | {"recipe": {"seed": 1}}, own | {"samples": compact_label.digest_of(samples[::-1])}):
        with pytest.raises(SettingsError):
            load_state(tmp_path, {"weight": weight}, optimiser, other)


@pytest.fixture
def manifest(tmp_path):
    """Six tiny real pictures of one source."""
    rows = []
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (160, 160, 3), dtype=np.uint8)
        name = f"{number}.png"
        (tmp_path / name).write_bytes(encode(pixels, "PNG"))
        rows.append({"path": name, "label": "real", "source": "here", "sha256": f"{number:02x}" * 32})
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return load_manifest(tmp_path)


def test_forgeries_are_the_same_whoever_computes_them(manifest, tmp_path, monkeypatch):
    """A forgery borrows from all real pictures of its fold, also where only some pictures are computed."""
    monkeypatch.setattr(
        features,
        "measure",
        lambda _, __, pixels, names: dict.fromkeys(names, pixels.astype(np.float32).mean((0, 1))),
    )
    folds = [0] * len(manifest)
    whole, part = tmp_path / "whole", tmp_path / "part"
    list(features.compute(None, None, manifest, folds, whole, "made-1"))
    list(features.compute(None, None, manifest, folds, whole, "made-equalised"))
    assert all(features.load_features(whole, "made-equalised", p, ["whole"]) for p in manifest)
    chosen = manifest[2]
    list(features.compute(None, None, manifest, folds, part, "made-1", only={chosen.sha256}))
    names = ["whole"]
    assert [features.load_features(part, "made-1", p, names) is not None for p in manifest] == [
        p is chosen for p in manifest
    ]
    one, other = (features.load_features(cache, "made-1", chosen, names)["whole"] for cache in (whole, part))
    assert np.array_equal(one, other)


def test_computing_goes_on_where_it_stopped(manifest, tmp_path, monkeypatch):
    seen = []

    def measure(_, __, pixels, names):
        seen.append(tuple(names))
        return dict.fromkeys(names, np.full(1, len(seen), np.float32))

    monkeypatch.setattr(features, "measure", measure)
    list(features.compute(None, None, manifest, [0] * 6, tmp_path, "equalised", part=(0, 2)))
    assert len(seen) == 3
    list(features.compute(None, None, manifest, [0] * 6, tmp_path, "equalised"))
    assert len(seen) == 6

    # some features first, the others later: neither is computed twice, nothing is lost
    def named(*names):
        list(features.compute(None, None, manifest[:1], [0], tmp_path, "augmented-1", names=names))
        return features.load_features(tmp_path, "augmented-1", manifest[0], names)

    first = named("whole")
    assert features.load_features(tmp_path, "augmented-1", manifest[0], ["last"]) is None
    second = named("whole", "last")
    assert seen[6:] == [("whole",), ("last",)]
    assert second["whole"] == first["whole"] != second["last"]
    with pytest.raises(SettingsError, match="no features 'tail'"):
        named("tail")


def test_one_signal_is_read_again_and_all_else_kept(manifest, tmp_path, monkeypatch):
    file = tmp_path / "observed-0.jsonl"
    old = {"noise": [9.0, [1.0], "old"], "vlm": [0.5, [], ""]}
    rows = [
        {"variant": "equalised", "sha256": p.sha256, "readings": old, "features": [1.0]} for p in manifest
    ]
    append(file, rows)
    donors = {p.sha256: manifest for p in manifest}
    fetched = observe.prepare
    monkeypatch.setattr(observe, "prepare", lambda picture, *rest: _cut(picture, fetched, *rest))
    _cut.left = 4
    with pytest.raises(KeyboardInterrupt):
        list(observe.again("noise", manifest, donors, file))
    assert read_journal(file) == rows, "nothing is replaced before all is read"
    _cut.left = 2  # four of six are not read twice
    list(observe.again("noise", manifest, donors, file))
    assert [path.name for path in tmp_path.glob("*.jsonl") if "manifest" not in path.name] == [file.name]
    for row in read_journal(file):
        assert row["readings"]["vlm"] == old["vlm"]
        assert row["features"] == [1.0]
        assert row["readings"].get("noise") != old["noise"]
    with pytest.raises(SettingsError, match="no evidence source 'nothing'"):
        list(observe.again("nothing", manifest, donors, file))
    with pytest.raises(SettingsError, match="no picture of the data"):
        list(observe.again("noise", manifest[1:], donors, file))


def test_a_network_is_read_again_only_where_calibration_may_hear_it(tmp_path, monkeypatch):
    pictures = [picture(tmp_path, n, source=source) for n, source in enumerate((HELD, OPEN))]
    for item in pictures:
        item.path.write_bytes(encode(np.full((150, 150, 3), 90, np.uint8), "PNG"))
    file = tmp_path / "observed-0.jsonl"
    old = {"mask": [0.1, [], ""], "noise": [0.2, [], ""]}
    rows = [{"variant": "equalised", "sha256": p.sha256, "readings": old, "features": []} for p in pictures]
    append(file, [*rows, rows[0] | {"readings": {"noise": old["noise"]}}])
    monkeypatch.setattr(
        observe, "_speaker", lambda *_: lambda case: [Evidence("mask", "A region is marked.", 0.7)]
    )
    list(observe.again("mask", pictures, {p.sha256: pictures for p in pictures}, file))
    heard, familiar, never = (row["readings"] for row in read_journal(file))
    assert heard == old | {"mask": [0.7, [], ""]}
    assert familiar == old
    assert never == {"noise": old["noise"]}, "what was not asked before is not asked now"


@pytest.mark.model
def test_an_observer_hears_what_is_calibrated_and_sees_what_the_model_sees():
    from vlmforensics.compact.shipped import load

    settings = load_settings(threads=1, sandbox=False)
    data = encode(skimage.data.chelsea(), "PNG")
    report = observe.witnesses(settings, "blending").examine(data, for_text=False)
    sources = {item.source for item in report.evidence}
    assert "blending" in sources
    assert {"noise", "npr"} <= sources
    assert not sources & {"vlm", "mask", "whole", "edited"}
    seen = load(settings).look(report.case.upright, for_text=False).patches
    np.testing.assert_allclose(gate_features(report.look.patches), gate_features(seen), atol=1e-5)
    with pytest.raises(SettingsError, match="not 'everyone'"):
        observe.witnesses(settings, "everyone")


def _cut(picture, fetch, *rest):
    if _cut.left == 0:
        raise KeyboardInterrupt
    _cut.left -= 1
    return fetch(picture, *rest)


def test_a_step_hears_some_samples_readings_and_none_of_others():
    recipe = compact_label.LabelRecipe(silent=0.25, noise=0.0)
    readings = torch.tensor([[2.0, -3.0]]).repeat(4000, 1)
    said = compact_label.heard(readings, recipe, np.random.default_rng(0))
    silent = (said == 0).all(1)
    assert 0.2 < float(silent.float().mean()) < 0.3
    assert torch.equal(said[~silent], readings[~silent])
    noisy = compact_label.heard(readings, replace(recipe, noise=0.5, silent=0.0), np.random.default_rng(0))
    assert noisy.std(0).tolist() == pytest.approx([2, 2], rel=0.1)  # half of READING_SCALE


@pytest.mark.model
def test_the_label_path_learns_to_hear_what_tells_labels_apart(tmp_path):
    """Pictures alike, readings that tell: after training the head follows them, and without them it can't."""
    from vlmforensics.compact import layout
    from vlmforensics.compact.assembly import build_base

    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    samples = [
        Sample(picture(tmp_path, i, LABELS[y], f"s{i}"), "equalised", int(y)) for i, y in enumerate(labels)
    ]
    shape = (layout.GRID**2, len(layout.FEATURE_LAYERS) * layout.TOWER_WIDTH)
    for sample in samples:
        file = features.feature_file(tmp_path, sample.variant, sample.picture)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"patches": rng.normal(0, 0.1, shape).astype(np.float16)}, file)
    readings = np.stack([8.0 * labels - 4.0, np.zeros(24)], axis=1)
    recipe = compact_label.LabelRecipe(
        projector_epochs=1, reading_epochs=300, label_epochs=0.4, kept_tokens=4, silent=0.0, noise=0.0
    )
    parts = build_base()
    memory = compact_label.Memory(samples, tmp_path, readings)
    curve = compact_label.train_label(parts, memory, samples, recipe, tmp_path / "out", resume=False)
    assert [point["step"] for point in curve] == [1]

    def right(said):
        found = compact_label.score(parts, tmp_path, samples, said)
        told = [found[s.variant, s.picture.sha256] for s in samples]
        return float(np.mean([(row[1] > row[0]) == bool(y) for row, y in zip(told, labels, strict=True)]))

    assert right(readings) == 1.0
    assert right(None) <= 0.8
    assert right(-readings) == 0.0


def test_progress_is_shown_under_a_command_line_that_shows_errors_only(capsys):
    import logging

    root, own = logging.getLogger(), logging.getLogger("vlmforensics.finetune")
    before = root.handlers[:], root.level, own.level
    try:
        logging.basicConfig(level=logging.ERROR, force=True)
        show_progress()
        own.getChild("compact_label").info("step %d", 7)
        logging.getLogger("httpx").info("noise")
    finally:
        root.handlers[:], root.level, own.level = before
    shown = capsys.readouterr().err
    assert "step 7" in shown
    assert "noise" not in shown


@pytest.mark.parametrize("text", ["", "1", "2/2", "x/2", "-1/2", "0/0"])
def test_a_share_that_is_none_is_named(text):
    with pytest.raises(SettingsError, match="share or fold"):
        share_of(text)
