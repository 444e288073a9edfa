"""Training on a toy folder: split by source, resume after an interruption, export, refusal of contradictions."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vlmforensics.errors import AdapterMismatch, SettingsError, WeightsCorrupt, WeightsUnavailable
from vlmforensics.imaging import encode

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from vlmforensics.blending import BlendingDetector  # noqa: E402
from vlmforensics.finetune.blending import BlendingConfig, rate, train  # noqa: E402
from vlmforensics.finetune.blending_data import PairDataset, Pictures, build_cache  # noqa: E402
from vlmforensics.finetune.blending_export import ExportConfig, export, left_out_alarms  # noqa: E402
from vlmforensics.finetune.pictures import held_back  # noqa: E402

TRAIN_SOURCES, HELD_OUT = ("grocery", "imagenet"), ("clothing", "ffhq")


def photograph(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:224, 0:240]
    waves = sum(np.sin(x / rng.uniform(5, 60) + y / rng.uniform(5, 60) + rng.uniform(0, 6)) for _ in range(5))
    out = (
        128 + 25 * waves[..., None] * rng.uniform(0.4, 1, 3) + rng.normal(0, rng.uniform(1, 6), (224, 240, 3))
    )
    return np.clip(out, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    lines = []
    for index in range(12):
        source = (TRAIN_SOURCES + HELD_OUT)[index % 4]
        name = f"{index}.jpg"
        (folder / name).write_bytes(encode(photograph(index), quality=92))
        label = "synthetic" if index >= 8 else "real"
        lines.append(
            json.dumps(
                {"path": name, "label": label, "source": source, "scene_id": str(index), "sha256": "0"}
            )
        )
    (folder / "manifest.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def cache(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    build_cache(data, folder)
    return folder


def config(data: Path, cache: Path, out: Path, **changes: object) -> BlendingConfig:
    values: dict[str, object] = {
        "data": data,
        "out": out,
        "cache": cache,
        "steps": 6,
        "seed": 3,
        "size": 64,
        "pairs": 2,
        "device": "cpu",
        "threads": 1,
        "workers": 0,
        "validate_every": 100,
        "validation_pairs": 2,
        "checkpoint_seconds": 0.0,
        "published": False,
    }
    return BlendingConfig(**{**values, **changes})  # type: ignore[arg-type]


def losses(out: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


@pytest.fixture(scope="module")
def whole_run(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    train(config(data, cache, out))
    return out


def test_split_follows_the_digest_of_the_source() -> None:
    for source in (*TRAIN_SOURCES, *HELD_OUT, "imd2020"):
        assert held_back(source) == (int(hashlib.sha1(source.encode()).hexdigest(), 16) % 5 == 0)
    assert all(held_back(s) for s in HELD_OUT)
    assert not any(held_back(s) for s in TRAIN_SOURCES)


def test_pairs_are_seeded_and_sources_do_not_cross(cache: Path) -> None:
    pictures = Pictures(cache)
    for split, sources in (("train", TRAIN_SOURCES), ("val", HELD_OUT)):
        pairs = PairDataset(pictures, split, seed=1, size=64, length=4)
        assert {row.source for row in pairs.real} == set(sources)
        first, again = pairs[2], pairs[2]
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["pixels"], pairs[3]["pixels"])
        assert first["pixels"].shape == (2, 3, 64, 64)
        assert first["boundary"].shape == (2, 16, 16)
        assert float(first["boundary"][0].max()) == 0.0, "the authentic member has no boundary"


def test_resumed_run_has_the_same_losses(data: Path, cache: Path, whole_run: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    from vlmforensics.finetune import blending

    class Interrupted(blending.Trainer):
        def _advance(self, batch: dict[str, torch.Tensor]) -> None:
            if self.step == 3:
                raise Stop
            super()._advance(batch)

    with pytest.raises(Stop):
        Interrupted(config(data, cache, tmp_path), Pictures(cache)).run()
    assert sorted(losses(tmp_path)) == [1, 2, 3]
    train(config(data, cache, tmp_path, resume=True))
    assert losses(tmp_path) == losses(whole_run)
    assert len(losses(whole_run)) == 6


@pytest.mark.slow
def test_killed_run_resumes_with_the_same_losses(
    data: Path, cache: Path, whole_run: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from vlmforensics.finetune.blending import *;"
        f"train(BlendingConfig(data=Path({str(data)!r}), out=Path({str(tmp_path)!r}), cache=Path({str(cache)!r}),"
        "steps=6, seed=3, size=64, pairs=2, device='cpu', threads=1, workers=0, validate_every=100,"
        "validation_pairs=2, checkpoint_seconds=0.0, published=False))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    deadline = time.monotonic() + 240
    while not (tmp_path / "latest.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / "latest.json").exists()
    train(config(data, cache, tmp_path, resume=True))
    resumed, whole = losses(tmp_path), losses(whole_run)
    assert resumed.keys() == whole.keys()
    assert all(resumed[step] == pytest.approx(whole[step], rel=1e-4) for step in whole)


def test_a_run_is_not_overwritten_or_mixed(data: Path, cache: Path, whole_run: Path) -> None:
    with pytest.raises(SettingsError, match="holds a run"):
        train(config(data, cache, whole_run))
    with pytest.raises(SettingsError, match="other settings: seed"):
        train(config(data, cache, whole_run, resume=True, seed=4))


def test_a_cache_of_other_pictures_is_refused(data: Path, tmp_path: Path) -> None:
    assert len(build_cache(data, tmp_path, limit=4).rows) == 4
    assert len(build_cache(data, tmp_path, limit=4).rows) == 4
    with pytest.raises(SettingsError, match="pictures"):
        build_cache(data, tmp_path)


def test_learning_rate_warms_up_and_falls() -> None:
    factors = [rate(step, 1000) for step in range(1000)]
    assert factors[0] < 0.02
    assert max(factors) == pytest.approx(1.0, abs=0.01)
    assert factors[-1] < 0.02
    assert np.argmax(factors) in range(95, 105)


def test_export_gives_a_detector_that_loads(whole_run: Path, cache: Path, tmp_path: Path) -> None:
    manifest = export(ExportConfig(run=whole_run, cache=cache, out=tmp_path, fit=4, measure=4, threads=1))
    detector = BlendingDetector.load(folder=tmp_path)
    assert detector.weights_sha256 == manifest["sha256"]
    assert manifest["bytes"] < 12_000_000
    assert 0 <= manifest["figures"]["false_alarms"]["rate"] <= 1
    assert manifest["training"]["stages"][-1]["stopped_at_step"] == 6
    assert "grocery" in manifest["training"]["data"]["sources"]
    assert "clothing" in manifest["training"]["data"]["held_out_sources"]
    assert detector.map(photograph(1)).shape == (56, 60)


def test_damaged_or_foreign_weights_are_refused(whole_run: Path, cache: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(WeightsUnavailable):
        BlendingDetector.load(folder=tmp_path)
    export(ExportConfig(run=whole_run, cache=cache, out=tmp_path, fit=2, measure=2, threads=1, refit=False))
    weights, manifest = tmp_path / "blending.safetensors", tmp_path / "blending.json"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(WeightsCorrupt, match="not the file"):
        BlendingDetector.load(folder=tmp_path)
    save_file({"other": torch.zeros(3)}, weights)
    record = json.loads(manifest.read_text())
    record["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(record))
    with pytest.raises(AdapterMismatch):
        BlendingDetector.load(folder=tmp_path)


def test_left_out_alarms_uses_other_sources() -> None:
    scores = np.concatenate([np.zeros(100), np.ones(10)])
    sources = ["quiet"] * 100 + ["loud"] * 10
    assert left_out_alarms(scores, sources) == (10, 110)
