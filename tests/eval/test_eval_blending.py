"""Measuring detectors: DeepfakeBench's layout, conditions, figures of a detector that is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vlmforensics.errors import SettingsError
from vlmforensics.eval.blending import by_video, conditions, deepfakebench, edge_auc, measure, real_tampering
from vlmforensics.imaging import encode
from vlmforensics.types import CaseImage, Evidence, Traces


class RedDetector:
    """Scores a picture by its mean red; its map is the green channel at stride 4."""

    weights_sha256 = "0" * 64

    def examine_map(self, case: CaseImage) -> tuple[list[Evidence], Traces]:
        pixels = case.upright.astype(np.float32) / 255
        found = Evidence(source="blending", statement="Red is measured.", score=float(pixels[..., 0].mean()))
        return [found], Traces(pixels[::4, ::4, 1])


def save(path: Path, red: int, green: np.ndarray | None = None) -> None:
    pixels = np.zeros((80, 80, 3), np.uint8)
    pixels[..., 0] = red
    if green is not None:
        pixels[..., 1] = green
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(pixels, "PNG"))


def test_figures_of_a_perfect_detector(tmp_path: Path) -> None:
    outline = np.zeros((80, 80), np.uint8)
    outline[20:60, 20:60] = 255
    ring = np.zeros((80, 80), np.uint8)
    ring[16:64, 16:64] = 255
    ring[24:56, 24:56] = 0
    rows = []
    for index in range(6):
        tampered = index % 2 == 1
        save(tmp_path / f"{index}.png", 200 if tampered else 40, ring if tampered else None)
        save(tmp_path / f"{index}.mask.png", 0)
        mask = np.repeat(outline[..., None], 3, axis=2)
        (tmp_path / f"{index}.mask.png").write_bytes(encode(mask, "PNG"))
        rows.append(
            {
                "path": f"{index}.png",
                "label": "tampered" if tampered else "real",
                "source": "x",
                "scene_id": str(index // 2),
                "mask": f"{index}.mask.png" if tampered else None,
            }
        )
    rows.append({"path": "other.png", "label": "real", "source": "elsewhere"})
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    samples = real_tampering(tmp_path)
    assert len(samples) == 6, "real pictures of sources without tampering are no counterpart"
    out = measure(RedDetector(), samples, 0.5, grid=True)
    assert out["as_found"]["auc"] == 1.0
    assert out["false_alarms"]["alarms"] == 0
    assert out["detected"]["hits"] == 3
    assert out["boundary_auc"]["mean"] > 0.8
    assert set(out["conditions"]) == {
        "jpeg 95",
        "jpeg 85",
        "jpeg 75",
        "jpeg 65",
        "jpeg 50",
        "resize 0.75",
        "resize 0.5",
    }


def test_conditions_resize_and_keep_size() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (160, 200, 3), dtype=np.uint8)
    sizes = {name: made.shape[:2] for name, made in conditions(pixels)}
    assert sizes["jpeg 50"] == (160, 200)
    assert sizes["resize 0.5"] == (80, 100)


def test_edge_auc_prefers_the_outline() -> None:
    mask = np.zeros((80, 80), bool)
    mask[20:60, 20:60] = True
    drawn = np.zeros((20, 20), np.float32)
    drawn[4:16, 4:16] = 1
    drawn[7:13, 7:13] = 0
    right = edge_auc(drawn, mask)
    wrong = edge_auc(1 - drawn, mask)
    assert right is not None
    assert wrong is not None
    assert right > 0.9 > 0.2 > wrong
    assert edge_auc(drawn, np.zeros((80, 80), bool)) is None


def test_an_outline_does_not_wrap_around_the_picture() -> None:
    mask = np.zeros((20, 20), bool)
    mask[:8] = True
    outline = np.zeros((20, 20), np.float32)
    outline[7:9] = 1
    assert edge_auc(outline, mask) == 1.0
    mask[:] = True
    assert edge_auc(outline, mask) is None


@pytest.mark.parametrize("levels", [False, True])
def test_deepfakebench_layout(tmp_path: Path, levels: bool) -> None:
    table: dict[str, dict[str, object]] = {}
    for name, red in (("CelebDFv2_real", 30), ("CelebDFv2_fake", 220)):
        videos = {}
        for video in ("v1", "v2"):
            frames = [f"rgb\\{name}\\{video}\\{i}.png" for i in range(2)]
            for frame in frames:
                save(tmp_path / frame.replace("\\", "/"), red)
            videos[video] = {"label": name, "frames": frames}
        table[name] = {"test": {"c23": videos} if levels else videos, "train": {}}
    (tmp_path / "set.json").write_text(json.dumps({"Celeb-DF-v2": table}))
    samples = deepfakebench(tmp_path / "set.json", tmp_path)
    assert len(samples) == 8
    assert sum(sample.tampered for sample in samples) == 4
    figures = by_video(RedDetector(), samples)
    assert figures["frame"]["auc"] == 1.0
    assert figures["frame"]["tampered"] == 4
    assert figures["video"] == {"auc": 1.0, "interval_95": [1.0, 1.0], "tampered": 2, "authentic": 2}


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "set.json").write_text(json.dumps({"set": [1]}))
    with pytest.raises(SettingsError, match="DeepfakeBench"):
        deepfakebench(tmp_path / "set.json", tmp_path)
    with pytest.raises(SettingsError, match=r"manifest\.jsonl"):
        real_tampering(tmp_path)
