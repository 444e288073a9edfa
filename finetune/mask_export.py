"""Score a trained mask head on held-back pictures, calibrate it, and export it with a manifest."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from vlmforensics.finetune.mask_metrics import (
    Scored,
    calibrate,
    f1_and_iou,
    false_area,
    localisation,
    pixel_auc,
    summarise,
)
from vlmforensics.finetune.mask_samples import (
    SampleCache,
    TowerFunction,
    TraceFunction,
    load_mask,
    load_pixels,
    open_masked,
)
from vlmforensics.finetune.pictures import FORGERIES, Picture, held_back
from vlmforensics.imaging import resize_plane
from vlmforensics.masks.head import MANIFEST, SCHEMA
from vlmforensics.masks.network import MaskNetwork
from vlmforensics.masks.regions import PixelCalibration, find_regions, to_mask
from vlmforensics.masks.residuals import ResidualBank, luma_planes
from vlmforensics.settings import Settings
from vlmforensics.types import CaseImage, Container, Grey, Pixels, Traces

logger = logging.getLogger(__name__)

WEIGHTS = "masks.safetensors"
LARGEST_SIDE_SHOWN = 2048
"""Found pictures with a longer side are left out of the classical comparison, which reads every pixel."""

COMPARISONS = ("made_ablation", "classical_made", "classical_found_forgeries")
"""Parts of a report that :func:`compare` makes."""

MapFunction = Callable[[Pixels], Grey]
"""Upright pixels → float32 (h, w) in [0, 1] at any resolution: a classical map to compare with."""


def score_sample(
    network: MaskNetwork,
    pixels: Pixels,
    patches: Mapping[int, NDArray[np.floating]],
    traces: Traces | None,
    truth: NDArray[np.bool_],
    kind: str,
    source: str,
) -> Scored:
    """What the network says about one picture, without any user prompt and without its label."""
    values = {layer: patches[layer].astype(np.float32) for layer in network.config.encoder.layers}
    with torch.inference_mode():
        said = network(pixels, patches=values, traces=traces)
    logits = said.mask.float().cpu().numpy().astype(np.float16)
    return Scored(logits, float(said.presence), truth, kind, source)


def score_series(network: MaskNetwork, cache: SampleCache, indices: Sequence[int]) -> list[Scored]:
    """Score made samples."""
    network.eval()
    found = []
    for index in indices:
        sample = cache[index]
        found.append(
            score_sample(
                network, sample.pixels, sample.patches, sample.traces, sample.mask, sample.kind, sample.source
            )
        )
    return found


def score_pictures(
    network: MaskNetwork, tower: TowerFunction, traces: TraceFunction | None, pictures: Sequence[Picture]
) -> list[Scored]:
    """Score found pictures as they are: those with a mask picture, and untouched ones without."""
    network.eval()
    settings = Settings(sandbox=False)
    found = []
    for picture in pictures:
        opened = open_masked(picture, settings)
        if opened is None:
            continue
        case, truth = opened
        pixels = case.upright
        kind = picture.kind if picture.mask else "untouched"
        drawn = traces(pixels) if traces is not None else None
        found.append(score_sample(network, pixels, tower(pixels), drawn, truth, kind, picture.source))
    return found


def found_untouched(pictures: Sequence[Picture], most: int, seed: int) -> list[Picture]:
    """Photographs as found, of sources that training never saw: at most ``most``, drawn with ``seed``."""
    chosen = [
        picture
        for picture in pictures
        if picture.label == "real" and held_back(picture.source) and picture.part != FORGERIES
    ]
    if len(chosen) > most:
        picks = np.random.default_rng(seed).choice(len(chosen), size=most, replace=False)
        chosen = [chosen[int(index)] for index in sorted(picks)]
    return chosen


def noise_map(pixels: Pixels) -> Grey:
    """Classical noise inconsistency: how far a block's residual energy is from the picture's median.

    The strength of the noise is estimated robustly in each block (median absolute residual), and a block is
    suspect the farther it lies from the median block, in units of the blocks' own spread.

    References:
        Mahdian & Saic 2009, "Using noise inconsistencies for blind image forensics".
    """
    with torch.inference_mode():
        residual = ResidualBank()(torch.from_numpy(luma_planes(pixels))[None])[0, 3].abs().numpy()
    height, width = (max(16, extent // 16 * 16) for extent in residual.shape)
    if residual.shape[0] < height or residual.shape[1] < width:
        return np.zeros(pixels.shape[:2], dtype=np.float32)
    blocks = residual[:height, :width].reshape(height // 16, 16, width // 16, 16).swapaxes(1, 2)
    level = np.log(np.median(blocks.reshape(*blocks.shape[:2], -1), axis=2) + 0.02)
    centre = np.median(level)
    spread = 1.4826 * np.median(np.abs(level - centre)) + 1e-3
    suspect = 1 - np.exp(-np.abs(level - centre) / (3 * spread))
    return cv2.GaussianBlur(suspect.astype(np.float32), (3, 3), 0)


def evidence_room_noise(pixels: Pixels) -> Grey:
    """The heatmap of the ``noise`` evidence source, all zero where that source has nothing to say."""
    from vlmforensics.signals.noise import NoiseInconsistency

    case = CaseImage("<pixels>", b"", "", Container("PNG", "RGB", 8), pixels, pixels)
    found = NoiseInconsistency().examine(case)
    if not found or found[0].heatmap is None:
        return np.zeros((8, 8), dtype=np.float32)
    return found[0].heatmap


def centre_map(pixels: Pixels) -> Grey:
    """No measurement at all: a bump in the middle of the picture, where forgeries tend to be. The least to beat."""
    y, x = ((np.arange(extent, dtype=np.float32) + 0.5) / extent - 0.5 for extent in pixels.shape[:2])
    return np.exp(-(y[:, None] ** 2 + x[None] ** 2) / 0.08)


CLASSICAL: Mapping[str, MapFunction] = {
    "centre_prior": centre_map,
    "noise_deviation": noise_map,
    "evidence_room_noise": evidence_room_noise,
}
"""Maps without training that a report compares with."""


def compare_classical(
    maps: Mapping[str, MapFunction],
    fit: Sequence[tuple[Pixels, NDArray[np.bool_]]],
    test: Sequence[tuple[Pixels, NDArray[np.bool_]]],
) -> dict[str, Any]:
    """The same figures for classical maps; each gets the threshold with the best mean F1 on ``fit``."""
    report: dict[str, Any] = {}
    for name, function in maps.items():
        fitted = [(_full(function, pixels), truth) for pixels, truth in fit if truth.any()]
        thresholds = np.arange(0.05, 1.0, 0.05)
        means = [
            localisation([(soft, soft >= threshold, truth) for soft, truth in fitted])["f1_fixed"]
            for threshold in thresholds
        ]
        threshold = float(thresholds[int(np.argmax(means))])
        tested = [(_full(function, pixels), truth) for pixels, truth in test]
        marked = [(soft, find_regions(soft, threshold, 0.0005)[0], truth) for soft, truth in tested]
        report[name] = {
            "threshold": round(threshold, 2),
            "tampered": localisation([triple for triple in marked if triple[2].any()]),
            "untouched": false_area([binary for _, binary, truth in marked if not truth.any()]),
        }
    return report


def _full(function: MapFunction, pixels: Pixels) -> Grey:
    return np.clip(resize_plane(function(pixels), pixels.shape[1], pixels.shape[0]), 0, 1)


def validate(
    network: MaskNetwork,
    tower: TowerFunction,
    traces: TraceFunction | None,
    cache: SampleCache,
    pictures: Sequence[Picture],
    *,
    made: int,
    untouched: int,
    seed: int,
    maps: Mapping[str, MapFunction] | None = None,
) -> tuple[PixelCalibration, dict[str, Any]]:
    """Calibrate on the first half of the made validation series; report on everything else.

    Args:
        network: trained.
        tower: the frozen tower.
        traces: the blending detector, or None.
        cache: the made series of held-back sources.
        pictures: all found pictures; forgeries with masks, their originals, and untouched photographs are
            picked.
        made: samples of the series, half for calibration, half for the report.
        untouched: found photographs of unseen sources, at most.
        seed: of the draws.
        maps: classical maps to compare with.

    Returns:
        ``(calibration, report)``; the report is JSON-serialisable.
    """
    calibration, report = assess(
        score_series(network, cache, range(made)),
        score_pictures(network, tower, traces, found_forgeries(pictures)),
        score_pictures(network, tower, traces, found_untouched(pictures, untouched, seed)),
        seed,
    )
    return calibration, report | compare(network, cache, pictures, made, maps or {})


def compare(
    network: MaskNetwork,
    cache: SampleCache,
    pictures: Sequence[Picture],
    made: int,
    maps: Mapping[str, MapFunction],
) -> dict[str, Any]:
    """What inputs are worth, and what classical maps find on the same pictures; arguments as for ``validate``."""
    half = made // 2
    report: dict[str, Any] = {"made_ablation": ablation(network, cache, range(half, made))}
    if maps:
        pairs = [(cache[index].pixels, cache[index].mask) for index in range(made)]
        report["classical_made"] = compare_classical(maps, pairs[:half], pairs[half:])
        files = _loaded(found_forgeries(pictures), Settings(sandbox=False))
        report["classical_found_forgeries"] = compare_classical(maps, pairs[:half], files)
    return report


def assess(
    made: Sequence[Scored], found: Sequence[Scored], clean: Sequence[Scored], seed: int
) -> tuple[PixelCalibration, dict[str, Any]]:
    """Calibrate on the first half of made tampering; report on everything else.

    Args:
        made: of sources that are held back.
        found: forgeries and their originals.
        clean: photographs of sources that are held back.
        seed: of the pixels that calibration draws.

    Returns:
        ``(calibration, report)``; the report is JSON-serialisable.
    """
    fitting, testing = made[: len(made) // 2], made[len(made) // 2 :]
    calibration = calibrate(fitting, seed)
    report: dict[str, Any] = {
        "calibration_n": len(fitting),
        "made": summarise(testing, calibration),
        "found_forgeries": summarise(found, calibration),
        "found_forgeries_by_source": by_source(found, calibration),
        "found_untouched_unseen_sources": false_area([item.mask(calibration).binary for item in clean]),
    }
    if any(item.places is not None for item in found):
        bare = [item.own_mask(calibration).binary for item in clean]
        report["without_places"] = {
            "found_forgeries": summarise([replace(item, places=None) for item in found], calibration),
            "found_untouched_unseen_sources": false_area(bare),
        }
        report["places_alone"] = places_alone([*found, *clean])
    return calibration, report


def places_alone(scored: Sequence[Scored]) -> dict[str, Any]:
    """What signals name, without the head: on how many pictures, and how it agrees with the forgeries among these."""
    named = [item for item in scored if item.places is not None]
    pairs = [
        f1_and_iou(item.places, item.truth) for item in named if item.tampered and item.places is not None
    ]
    means = np.mean(pairs, axis=0) if pairs else (0.0, 0.0)
    return {
        "forgeries": len(pairs),
        "f1": round(float(means[0]), 4),
        "iou": round(float(means[1]), 4),
        "untouched": len(named) - len(pairs),
    }


def found_forgeries(pictures: Sequence[Picture]) -> list[Picture]:
    """Found forgeries that have a mask, and the originals."""
    return [p for p in pictures if p.part == FORGERIES and (p.mask is not None or p.label == "real")]


def ablation(network: MaskNetwork, cache: SampleCache, indices: Sequence[int]) -> dict[str, Any]:
    """Mean pixel AUC on made forgeries with everything, with inputs withheld, and alone (the pixels are grey, then)."""
    network.eval()
    scores: dict[str, list[float]] = defaultdict(list)
    for index in indices:
        sample = cache[index]
        if not sample.tampered:
            continue
        values = {layer: values.astype(np.float32) for layer, values in sample.patches.items()}
        grey = np.full_like(sample.pixels, 128)
        height, width = sample.mask.shape
        inputs = {
            "everything": (sample.pixels, values, sample.traces),
            "without_traces": (sample.pixels, values, None),
            "pixels_alone": (sample.pixels, None, None),
            "tower_alone": (grey, values, None),
            "traces_alone": (grey, None, sample.traces),
        }
        for name, (pixels, patches, traces) in inputs.items():
            with torch.inference_mode():
                logits = network(pixels, patches=patches, traces=traces).mask.float().cpu().numpy()
            soft = to_mask(logits, 0.0, width, height, PixelCalibration()).soft
            scores[name].append(pixel_auc(soft, sample.mask))
    means: dict[str, Any] = {name: round(float(np.mean(values)), 4) for name, values in scores.items()}
    return {"n": len(scores["everything"]), **means}


def by_source(scored: Sequence[Scored], calibration: PixelCalibration) -> dict[str, Any]:
    """Localisation on the forgeries of each source."""
    names = sorted({item.source for item in scored if item.tampered})
    return {
        name: summarise([item for item in scored if item.tampered and item.source == name], calibration)[
            "tampered"
        ]
        for name in names
    }


def _loaded(pictures: Sequence[Picture], settings: Settings) -> list[tuple[Pixels, NDArray[np.bool_]]]:
    loaded = []
    for picture in pictures:
        pixels = load_pixels(picture.path, settings)
        truth = (
            load_mask(picture.mask, settings) if picture.mask else np.zeros(pixels.shape[:2], dtype=np.bool_)
        )
        if truth.shape == pixels.shape[:2] and max(truth.shape) <= LARGEST_SIDE_SHOWN:
            loaded.append((pixels, truth))
    return loaded


def export(
    network: MaskNetwork,
    calibration: PixelCalibration,
    folder: Path,
    *,
    training: Mapping[str, Any],
    validation: Mapping[str, Any],
    traces: bool = False,
) -> Path:
    """Write half-precision weights and the manifest that :class:`vlmforensics.masks.MaskHead` loads.

    Args:
        network: trained.
        calibration: fitted on the half-precision weights.
        folder: made where missing.
        training: command, seed, data summary: whatever lets a reader judge and repeat the run.
        validation: the report of :func:`validate`.
        traces: the weights were trained with the blending detector's maps.

    Returns:
        The manifest's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = _half(network)
    (folder / WEIGHTS).write_bytes(data)
    (folder / WEIGHTS).chmod(0o644)
    manifest = {
        "schema": SCHEMA,
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
        "network": network.config.to_json(),
        "inputs": {"tower": True, "traces": traces, "seg": False},
        "inputs_note": (
            "Trained with the learned default [SEG] prompt: these weights ignore hidden states at [SEG] and label "
            "log-probabilities; inputs that are false here are ignored too."
        ),
        "calibration": calibration.to_json(),
        "training": dict(training),
        "validation": dict(validation),
    }
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest, indent=1, default=str) + "\n", encoding="utf-8")
    return path


def _half(network: MaskNetwork) -> bytes:
    return save({name: value.half().contiguous() for name, value in network.state_dict().items()})


def half_digest(network: MaskNetwork) -> str:
    """SHA-256 of the weights file that :func:`export` writes."""
    return hashlib.sha256(_half(network)).hexdigest()


def round_trip_half(network: MaskNetwork) -> MaskNetwork:
    """The network with its weights rounded to half precision, as they will be loaded."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.copy_(buffer.half().float())
    return network
