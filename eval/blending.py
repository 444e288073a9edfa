"""Measure a blending detector on real tampered pictures, under recompression and resizing, and on DeepfakeBench.

``python -m vlmforensics.eval.blending --data DIR --out FILE`` reads a folder with ``manifest.jsonl``, of which it uses
the tampered pictures and their originals; ``--deepfakebench JSON --root DIR`` adds a set in DeepfakeBench's layout.
Nothing here fits anything: thresholds are those of the shipped manifest.

References:
    Yan et al. 2023, DeepfakeBench: frame-level AUC is its default; the video's score is the mean of its frames'.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from vlmforensics.blending import BlendingDetector, ExternalDetector, finding
from vlmforensics.blending.figures import auc, auc_interval, clopper_pearson
from vlmforensics.errors import InputError, SettingsError
from vlmforensics.imaging import decode_trusted, encode, open_case, resize, resize_plane
from vlmforensics.types import CaseImage, Evidence, Grey, Pixels, Traces

JPEG_QUALITIES = (95, 85, 75, 65, 50)
SCALES = (1.0, 0.75, 0.5)
MAX_SIDE = 1600
"""Pictures are reduced to this longer side, in px, before the grid of conditions, to bound its cost."""


class Detector(Protocol):
    """What is measured: ours or an external one."""

    weights_sha256: str

    def examine_map(self, case: CaseImage) -> tuple[list[Evidence], Traces | None]:
        """One evidence and the maps."""
        ...


@dataclass(frozen=True)
class Sample:
    """One labelled picture: its file, 1 for tampered, where it is from, and its mask's file or None."""

    path: Path
    tampered: bool
    source: str
    scene: str
    mask: Path | None = None


def real_tampering(data: Path) -> list[Sample]:
    """Tampered pictures of a manifest, and real ones that share a source with them.

    Raises:
        SettingsError: no manifest, or nothing tampered in it.
    """
    file = data / "manifest.jsonl"
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise SettingsError(f"can't read {file}: {error}") from error
    sources = {row["source"] for row in rows if row["label"] == "tampered"}
    samples = [
        Sample(
            path=data / row["path"],
            tampered=row["label"] == "tampered",
            source=row["source"],
            scene=row.get("scene_id") or row["path"],
            mask=data / row["mask"] if row.get("mask") else None,
        )
        for row in rows
        if row["source"] in sources and row["label"] in ("real", "tampered")
    ]
    if not samples:
        raise SettingsError(f"{file} holds no tampered picture")
    return samples


def deepfakebench(index: Path, root: Path, *, split: str = "test", compression: str = "c23") -> list[Sample]:
    """Frames of a set in DeepfakeBench's layout.

    Args:
        index: ``preprocessing/dataset_json/<Dataset>.json``: {set: {class: {split: {video: {label, frames}}}}}, with
            a compression level between split and video for FaceForensics++.
        root: folder that the frame paths start from.
        split: ``train``, ``val`` or ``test``.
        compression: level to use where there are levels.

    Returns:
        One sample a frame; ``scene`` is the video. Classes whose name says "real" are authentic.

    Raises:
        SettingsError: not that layout.
    """
    try:
        table = json.loads(index.read_text(encoding="utf-8"))
        samples = []
        for classes in table.values():
            for name, splits in classes.items():
                videos = splits.get(split, {})
                videos = videos.get(compression, videos)
                for video, entry in videos.items():
                    fake = "real" not in str(entry["label"]).lower()
                    for frame in entry["frames"]:
                        path = root / str(frame).replace("\\", "/")
                        samples.append(Sample(path, fake, name, f"{name}/{video}"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{index} is not a DeepfakeBench index: {error!r}") from error
    return samples


def conditions(pixels: Pixels) -> Iterator[tuple[str, Pixels]]:
    """The picture under each condition of the robustness grid, equalised by the last save."""
    height, width = pixels.shape[:2]
    for scale in SCALES:
        small = (
            pixels
            if scale == 1
            else resize(pixels, max(64, round(width * scale)), max(64, round(height * scale)))
        )
        if scale != 1:
            yield f"resize {scale}", decode_trusted(encode(small, "JPEG", quality=90))
            continue
        for quality in JPEG_QUALITIES:
            yield f"jpeg {quality}", decode_trusted(encode(small, "JPEG", quality=quality))


def case_of(pixels: Pixels, name: str) -> CaseImage:
    """A case around pixels, through a lossless file."""
    return open_case(encode(pixels, "PNG"), file=name)


def summary(
    scores: NDArray[np.float64], tampered: NDArray[np.bool_], groups: Sequence[str]
) -> dict[str, Any]:
    """AUC with a 95 % interval from a bootstrap over scenes."""
    low, high = auc_interval(scores, tampered, groups)
    return {
        "auc": round(auc(scores, tampered), 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "tampered": int(tampered.sum()),
        "authentic": int((~tampered).sum()),
    }


def _reduced(pixels: Pixels) -> Pixels:
    scale = MAX_SIDE / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    return resize(pixels, round(pixels.shape[1] * scale), round(pixels.shape[0] * scale), resample="box")


def score_of(detector: Detector, case: CaseImage) -> tuple[float, Grey]:
    """A picture's score (0 for a picture too small to examine) and boundary map, blank where none was drawn."""
    found, traces = detector.examine_map(case)
    drawn = finding.blank(case.height, case.width) if traces is None else traces.boundary
    return (found[0].score or 0.0) if found else 0.0, drawn


def edge_auc(drawn: Grey, mask: NDArray[np.bool_]) -> float | None:
    """Does the map separate cells on the mask's outline (a cell on either side) from the others? None for no edge."""
    inside = (resize_plane(mask.astype(np.float32), drawn.shape[1], drawn.shape[0]) > 0.5).astype(np.uint8)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    edge = cv2.dilate(inside, cross) != cv2.erode(inside, cross)  # the picture's own border is no outline
    if not edge.any() or edge.all():
        return None
    return auc(drawn.ravel(), edge.ravel())


def measure(detector: Detector, samples: Sequence[Sample], threshold: float, *, grid: bool) -> dict[str, Any]:
    """Score every sample as found (and under the grid of conditions) and put the figures together."""
    raw: list[float] = []
    used: list[Sample] = []
    table: dict[str, list[float]] = {}
    edges: list[float] = []
    failed = 0
    for sample in samples:
        try:
            case = open_case(sample.path)
        except InputError:
            failed += 1
            continue
        score, drawn = score_of(detector, case)
        raw.append(score)
        used.append(sample)
        if sample.mask is not None:
            mask = open_case(sample.mask).upright[..., 0] > 127
            edge = edge_auc(drawn, mask)
            if edge is not None:
                edges.append(edge)
        if grid:
            for name, pixels in conditions(_reduced(case.upright)):
                table.setdefault(name, []).append(score_of(detector, case_of(pixels, sample.path.name))[0])
    scores, tampered = np.array(raw), np.array([sample.tampered for sample in used])
    scenes, sources = [s.scene for s in used], np.array([s.source for s in used])
    alarms, n = int((scores[~tampered] > threshold).sum()), int((~tampered).sum())
    hits = int((scores[tampered] > threshold).sum())
    out: dict[str, Any] = {
        "as_found": summary(scores, tampered, scenes),
        "false_alarms": {
            "alarms": alarms,
            "n": n,
            "interval_95": [round(x, 4) for x in clopper_pearson(alarms, n)],
        },
        "detected": {"hits": hits, "n": int(tampered.sum()), "threshold": threshold},
        "failed_to_open": failed,
        "by_source": {},
        "conditions": {name: summary(np.array(values), tampered, scenes) for name, values in table.items()},
    }
    for name in sorted(set(sources.tolist())):
        part = sources == name
        if 0 < tampered[part].sum() < part.sum():
            out["by_source"][name] = {
                "auc": round(auc(scores[part], tampered[part]), 4),
                "tampered": int(tampered[part].sum()),
                "authentic": int((~tampered[part]).sum()),
            }
    if edges:
        out["boundary_auc"] = {"mean": round(float(np.mean(edges)), 4), "pictures": len(edges)}
    return out


def by_video(detector: Detector, samples: Sequence[Sample]) -> dict[str, Any]:
    """DeepfakeBench's figures: AUC over frames, and over videos by the mean of their frames' scores."""
    frames: dict[str, list[float]] = {}
    truth: dict[str, bool] = {}
    for sample in samples:
        frames.setdefault(sample.scene, []).append(score_of(detector, open_case(sample.path))[0])
        truth[sample.scene] = sample.tampered
    names = sorted(frames)
    video = np.array([np.mean(frames[name]) for name in names])
    fake = np.array([truth[name] for name in names])
    flat = np.concatenate([frames[name] for name in names])
    flat_fake = np.concatenate([np.full(len(frames[name]), truth[name]) for name in names])
    scene_of_frame = [name for name in names for _ in frames[name]]
    return {
        "frame": summary(flat, flat_fake, scene_of_frame),
        "video": summary(video, fake, names),
    }


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command line."""
    options = argparse.ArgumentParser(prog="vlmforensics.eval.blending", description=__doc__)
    options.add_argument("--data", type=Path, help="folder with manifest.jsonl")
    options.add_argument("--out", type=Path, required=True, help="JSON file for the figures")
    options.add_argument(
        "--weights", type=Path, help="folder of a trained detector (default: the shipped one)"
    )
    options.add_argument("--external", type=Path, help="TOML of a third-party detector")
    options.add_argument("--device", default="cpu")
    options.add_argument("--no-grid", dest="grid", action="store_false", help="skip the robustness grid")
    options.add_argument("--deepfakebench", type=Path, help="a DeepfakeBench index file")
    options.add_argument("--root", type=Path, help="folder that its frame paths start from")
    given = options.parse_args(arguments)
    detector: Detector
    threshold = 0.5
    if given.external is not None:
        detector = ExternalDetector.load(given.external, given.device)
    else:
        ours = BlendingDetector.load(device=given.device, folder=given.weights)
        detector, threshold = ours, ours.thresholds.score
    out: dict[str, Any] = {"weights_sha256": detector.weights_sha256}
    if given.data is not None:
        out["real_tampering"] = measure(detector, real_tampering(given.data), threshold, grid=given.grid)
    if given.deepfakebench is not None:
        root = given.root or given.deepfakebench.parent
        out["deepfakebench"] = by_video(detector, deepfakebench(given.deepfakebench, root))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
