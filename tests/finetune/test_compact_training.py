"""From cached features to calibration: what is left out of what."""

import json

import numpy as np
import pytest

from vlmforensics.finetune import calibrate, compact_whole, features
from vlmforensics.finetune.compact_label import Sample, write_scores
from vlmforensics.finetune.observe import Observation
from vlmforensics.finetune.pictures import Picture, held_back, load_manifest
from vlmforensics.fusion import Reading
from vlmforensics.imaging import encode
from vlmforensics.types import LABELS

HELD = next(name for name in (f"source{i}" for i in range(99)) if held_back(name))
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
    weights, unseen = compact_whole.cross_fit(table, samples, home)

    def accuracy(scores):
        return float(np.mean((scores > 0) == labels))

    assert accuracy(compact_whole.apply(weights, table)) > 0.95
    assert 0.55 < accuracy(unseen) < 0.85


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
    one, _ = compact_whole.cross_fit(table, samples, home)
    other, unseen = compact_whole.cross_fit(poisoned, samples, home)
    assert all(np.array_equal(one[key], other[key]) for key in one)
    assert np.isfinite(unseen).all()
    assert (unseen[:40] != 0).all()


def test_scores_of_parts_are_found_in_their_folders(tmp_path):
    """A part that was trained with several groups left out has a folder for each."""
    known = picture(tmp_path, 1, source=HELD)
    for folder, said in (("label-0", [-0.1, -3.0, -4.123456]), ("whole", [-2.0])):
        (tmp_path / folder).mkdir()
        write_scores(tmp_path / folder / "scores.json", {("augmented-1", known.sha256): said})
    (row,) = calibrate.load_rows([known], tmp_path, tmp_path, ["augmented-1"])
    assert row.example.readings == {"vlm": calibrate.opinion([-0.1, -3.0, -4.12346]), "whole": Reading(-2.0)}


def test_only_held_back_pictures_are_complete(tmp_path):
    """The trained detectors saw the real pictures of the other sources, so there they may not testify."""
    held, known = picture(tmp_path, 1, source=HELD), picture(tmp_path, 2, source=OPEN)
    readings = {"mask": Reading(0.4), "noise": Reading(1.0), "whole": Reading(9.0)}
    observations = [Observation("augmented-1", p.sha256, readings, ()) for p in (held, known)]
    scores = {"whole": {("augmented-1", p.sha256): [0.5] for p in (held, known)}}
    rows = calibrate.assemble([held, known], observations, scores, tmp_path, ["augmented-1"])
    assert [row.example.complete for row in rows] == [True, False]
    assert rows[0].example.readings == {"mask": Reading(0.4), "noise": Reading(1.0), "whole": Reading(0.5)}
    assert rows[1].example.readings == {"noise": Reading(1.0), "whole": Reading(0.5)}


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
        lambda _, pixels: features.Features(*[pixels.astype(np.float32).mean((0, 1))] * 5),
    )
    folds = [0] * len(manifest)
    whole, part = tmp_path / "whole", tmp_path / "part"
    list(features.compute(None, manifest, folds, whole, "made-1"))
    chosen = manifest[2]
    list(features.compute(None, manifest, folds, part, "made-1", only={chosen.sha256}))
    names = ["whole"]
    assert [features.load_features(part, "made-1", p, names) is not None for p in manifest] == [
        p is chosen for p in manifest
    ]
    one, other = (features.load_features(cache, "made-1", chosen, names)["whole"] for cache in (whole, part))
    assert np.array_equal(one, other)


def test_computing_goes_on_where_it_stopped(manifest, tmp_path, monkeypatch):
    seen = []

    def measure(_, pixels):
        seen.append(pixels.shape)
        return features.Features(*[np.zeros(1, np.float32)] * 5)

    monkeypatch.setattr(features, "measure", measure)
    list(features.compute(None, manifest, [0] * 6, tmp_path, "equalised", part=(0, 2)))
    assert len(seen) == 3
    list(features.compute(None, manifest, [0] * 6, tmp_path, "equalised"))
    assert len(seen) == 6
