"""What stands beside the model in the same table: baselines on the same pictures, and published figures as published.

``majority`` needs nothing; ``ela`` reads pixels; ``rigid`` and ``probe`` read the bare DINOv2 tower of the compact
model; the language model's own opinion is taken from the stored records. Their scores are stored beside the records,
so that scoring repeats without the pictures.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlmforensics.errors import InputError, SettingsError
from vlmforensics.eval import conditions as given
from vlmforensics.eval import metrics
from vlmforensics.eval.predictions import Arrays, Prediction, Run
from vlmforensics.finetune.journal import append, read_journal
from vlmforensics.imaging import decode_trusted, encode, open_case
from vlmforensics.settings import Settings
from vlmforensics.types import Pixels

if TYPE_CHECKING:
    from vlmforensics.compact.tower import Tower

SCORES = "baselines.jsonl"
NAMES = ("ela", "rigid", "probe")
TOWER = ("rigid", "probe")
RIGID_NOISE = 0.05
"""Standard deviation of RIGID's noise, as a share of the range of the normalised pixels' grey levels."""
RIGID_DRAWS = 3
PROBE_STRENGTH = 3e-3
FOLDS = 5
MOST_SIDE = 2048
DATA = Path(__file__).resolve().parent / "data"


def ela(pixels: Pixels) -> float:
    """Error level analysis: how unevenly a new JPEG save changes the picture.

    The 95th percentile over the median of the mean absolute change of 16 × 16 blocks at quality 90, in log units: parts
    with another compression history stand out.

    References:
        Krawetz 2007, A picture's worth: digital image analysis and forensics.
    """
    change = np.abs(decode_trusted(encode(pixels, "JPEG", quality=90)).astype(np.float32) - pixels).mean(
        axis=2
    )
    rows, columns = (max(1, side // 16) for side in change.shape)
    blocks = [
        row_part.mean()
        for row in np.array_split(change, rows)
        for row_part in np.array_split(row, columns, axis=1)
    ]
    low, high = np.percentile(blocks, (50, 95))
    return float(np.log((high + 0.01) / (low + 0.01)))


def rigid(tower: Tower, pixels: Pixels, rng: np.random.Generator) -> float:
    """One less the similarity of tower features before and after faint noise: generated pictures move further.

    The paper uses DINOv2 ViT-L/14; ours is the compact model's ViT-S/14, so its figures are not the paper's.

    References:
        He et al. 2024, RIGID: A training-free and model-agnostic framework for robust AI-generated image detection.
    """
    from vlmforensics.compact.tower import squash

    small = squash(pixels).astype(np.float32)
    noisy = [
        np.clip(np.rint(small + 255 * RIGID_NOISE * rng.normal(size=small.shape)), 0, 255).astype(np.uint8)
        for _ in range(RIGID_DRAWS)
    ]
    cls = tower.features([small.astype(np.uint8), *noisy], (12,)).cls[12].astype(np.float64)
    cls /= np.linalg.norm(cls, axis=1, keepdims=True)
    return float(1 - (cls[1:] @ cls[0]).mean())


def probe_features(tower: Tower, pixels: Pixels) -> list[float]:
    """What a linear probe reads: class token, patch mean and patch deviation of the last layer (1152 numbers)."""
    from vlmforensics.compact.tower import squash

    seen = tower.features([squash(pixels)], (12,))
    last = seen.patches[12]
    values = np.concatenate([seen.cls[12][0], last.mean((1, 2))[0], last.std((1, 2))[0]])
    return [round(float(value), 4) for value in values]


def compute(
    run: Run, names: Sequence[str], settings: Settings, load_tower: Callable[[], Tower]
) -> Iterator[str]:
    """Score a run's pictures by baselines and append to ``baselines.jsonl``; yields a progress line now and then.

    Raises:
        SettingsError: an unknown baseline.
    """
    unknown = set(names) - set(NAMES)
    if unknown:
        raise SettingsError(
            f"there is no baseline {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}"
        )
    file = run.folder / SCORES
    done = {(row["file"], key) for row in read_journal(file) for key in row["scores"]}
    todo = [
        item
        for item in run.predictions
        if item.condition in (given.AS_FOUND, given.EQUALISED, given.PIXELS)
        and any((item.record["file"], name) not in done for name in names)
    ]
    if not todo:
        return
    tower = load_tower() if set(names) & set(TOWER) else None
    seed = int(run.plan["seed"])
    for count, item in enumerate(todo, start=1):
        key = item.record["file"]
        try:
            pixels = _pixels(item, seed, settings)
        except InputError as error:
            yield f"left out {error}"
            continue
        scores: dict[str, Any] = {}
        if "ela" in names:
            scores["ela"] = ela(pixels)
        if tower is not None and "rigid" in names:
            scores["rigid"] = rigid(tower, pixels, given.rng_of(item.sample.name, "rigid", seed))
        if tower is not None and "probe" in names:
            scores["probe"] = probe_features(tower, pixels)
        append(file, [{"file": key, "scores": scores}])
        if count % 50 == 0 or count == len(todo):
            yield f"baselines: {count} of {len(todo)}"


def _pixels(item: Prediction, seed: int, settings: Settings) -> Pixels:
    pixels = open_case(item.sample.path, settings=settings).upright
    if item.condition not in (given.AS_FOUND, given.PIXELS):
        data = given.prepare(item.condition, pixels, given.rng_of(item.sample.name, item.condition, seed))
        pixels = decode_trusted(data)
    height, width = pixels.shape[:2]
    top, left = max(0, (height - MOST_SIDE) // 2), max(0, (width - MOST_SIDE) // 2)
    return np.ascontiguousarray(pixels[top : top + MOST_SIDE, left : left + MOST_SIDE])


# ---------------------------------------------------------------- the table


def compared(run: Run, condition: str, *, seed: int) -> list[dict[str, Any]]:
    """One row a baseline: AUC of real against the rest, and the model's paired gain over it, on the same pictures."""
    items = run.under(condition)
    a = Arrays.of(items)
    truth = np.array([name != "real" for name in a.truth])
    if not truth.any() or truth.all():
        return []
    most = Counter(a.truth).most_common(1)[0][0]
    found: list[dict[str, Any]] = [
        {
            "name": f"majority (always {most})",
            "auc": 0.5,
            "balanced_accuracy": metrics.balanced_accuracy(a.truth, [most] * len(a.truth)),
            "n": len(items),
        }
    ]
    scores = _scores(run, items, truth, seed)
    for name, values in scores.items():
        kept = np.isfinite(values)
        if len(set(truth[kept])) < 2:
            continue
        weights = a.draws(seed, np.flatnonzero(kept))
        own, other = (metrics.auc_of(truth[kept], score[kept], weights) for score in (a.fake, values))
        ours, theirs = (metrics.roc_auc(truth[kept], score[kept]) for score in (a.fake, values))
        low, high = metrics.interval(own - other)
        found.append(
            {
                "name": name,
                "auc": theirs,
                "ours": ours,
                "gain": ours - theirs,
                "gain_low": low,
                "gain_high": high,
                "n": int(kept.sum()),
            }
        )
    return found


def _scores(
    run: Run, items: Sequence[Prediction], truth: NDArray[np.bool_], seed: int
) -> dict[str, NDArray[np.float64]]:
    stored: dict[str, dict[str, Any]] = {}
    for row in read_journal(run.folder / SCORES):
        stored.setdefault(row["file"], {}).update(row["scores"])
    rows = [stored.get(item.record["file"], {}) for item in items]
    found: dict[str, NDArray[np.float64]] = {}
    for key, name in (("ela", "error level analysis"), ("rigid", "RIGID on the compact model's tower")):
        if any(key in row for row in rows):
            found[name] = np.array([row.get(key, np.nan) for row in rows], np.float64)
    if all("probe" in row for row in rows):
        found[f"linear probe on the bare tower, trained on the suite's other families ({FOLDS} folds)"] = (
            _probed(
                np.array([row["probe"] for row in rows]), truth, [item.sample.family for item in items], seed
            )
        )
    opinions = [
        next((e["score"] for e in item.record["evidence"] if e["source"] == "vlm"), None) for item in items
    ]
    if any(value is not None for value in opinions):
        found["the language model's own opinion (label head, or label words zero-shot)"] = np.array(
            [np.nan if value is None else value for value in opinions], np.float64
        )
    return found


def _probed(
    features: NDArray[np.float64], truth: NDArray[np.bool_], families: Sequence[str], seed: int
) -> NDArray[np.float64]:
    """Out-of-fold scores of a logistic regression, families kept whole; nan where no training set has both classes."""
    from sklearn.linear_model import LogisticRegression

    names = sorted(set(families))
    home = {
        name: int(fold)
        for name, fold in zip(names, np.random.default_rng(seed).permutation(len(names)) % FOLDS, strict=True)
    }
    folds = np.array([home[family] for family in families])
    scores = np.full(len(truth), np.nan)
    for fold in range(FOLDS):
        train, test = folds != fold, folds == fold
        if not test.any() or len(set(truth[train])) < 2:
            continue
        mean, scale = features[train].mean(0), features[train].std(0) + 1e-6
        model = LogisticRegression(C=PROBE_STRENGTH, max_iter=300, class_weight="balanced")
        model.fit((features[train] - mean) / scale, truth[train])
        scores[test] = model.decision_function((features[test] - mean) / scale)
    return scores


def literature(suite: str) -> list[dict[str, Any]]:
    """Published figures that belong beside a suite, each with its source; none of them was measured here."""
    rows = tomllib.loads((DATA / "literature.toml").read_text(encoding="utf-8"))["row"]
    return [row for row in rows if suite in row["suites"]]
