"""Figures beyond the verdict: places, distortions, subgroups, injected text, explanations, time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlmforensics.errors import InputError, SettingsError
from vlmforensics.eval import conditions as given
from vlmforensics.eval import metrics
from vlmforensics.eval.predictions import Arrays, Prediction, Run
from vlmforensics.eval.run import map_file
from vlmforensics.eval.samples import GREEN, INVERTED, TRUTHS
from vlmforensics.eval.verdicts import ranged, truth_probability
from vlmforensics.imaging import decode_trusted, open_case, resize_plane, rle_decode
from vlmforensics.settings import load_settings
from vlmforensics.types import LABELS, BoolMask, Grey

INJECTION_BOUND = 0.5
"""Nats by which drawn text may move a log-probability beyond what its unreadable control moves it."""
SHAPE_KEPT = (given.AS_FOUND, given.PIXELS, "jpeg", "webp", "blur", "noise", "gamma")
"""Kinds of condition under which a picture's true mask still fits."""
NETWORKS = ("blending", "looking", "mask", "whole")
"""Stages that are a network's forward pass."""
EXAMPLES = 20


def _mean(values: Sequence[float], families: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Mean with a bootstrap interval over families; nan values are left out."""
    kept = [(value, home) for value, home in zip(values, families, strict=True) if np.isfinite(value)]
    if not kept:
        return {"value": None, "low": None, "high": None, "n": 0}
    array = np.array([value for value, _ in kept])
    weights = metrics.draws([""] * len(kept), [home for _, home in kept], seed=seed)
    low, high = metrics.interval(metrics.mean_of(array, weights))
    return {"value": float(array.mean()), "low": low, "high": high, "n": len(kept)}


def _auc(a: Arrays, *, seed: int) -> dict[str, float]:
    """Real against everything else."""
    truth = np.array([name != "real" for name in a.truth])
    return ranged(metrics.roc_auc(truth, a.fake), metrics.auc_of(truth, a.fake, a.draws(seed)))


# ---------------------------------------------------------------- where


def true_mask(item: Prediction) -> BoolMask | None:
    """The true mask in the frame of the examined picture, or None where it does not fit.

    Raises:
        SettingsError: the mask file can't be read.
    """
    path, sample = item.sample.mask, item.sample
    if path is None:
        return None
    try:
        pixels = open_case(path, settings=load_settings(sandbox=False)).upright
    except InputError as error:
        raise SettingsError(f"the mask of {sample.name} can't be read: {error}") from error
    mask = pixels[..., 0] > 127
    if sample.source in GREEN:
        mask = ~mask & (pixels[..., 1] > 127)
    if sample.source in INVERTED:
        mask = ~mask
    size = (int(item.record["height"]), int(item.record["width"]))
    if mask.shape != size:
        rows, columns = (
            (np.arange(want) * have // want).clip(0, have - 1)
            for want, have in zip(size, mask.shape, strict=True)
        )
        mask = mask[rows[:, None], columns[None, :]]
    return mask


def localisation(run: Run, condition: str, *, seed: int) -> dict[str, Any] | None:
    """Pixel figures of tampered pictures with known masks, and what is marked on real ones.

    Masks are the model's own decision; a picture on which it marked nothing counts with F1 = 0.
    """
    kind = condition.rpartition("-")[0] if condition not in SHAPE_KEPT else condition
    items = [p for p in run.under(condition) if p.sample.mask is not None and p.sample.label == "tampered"]
    if not items or kind not in SHAPE_KEPT:
        return None
    rows: dict[str, list[float]] = defaultdict(list)
    sources = []
    for item in items:
        truth = true_mask(item)
        if truth is None or not truth.any():
            continue
        marked, soft = _marked(item), _soft(run, item)
        for name, found in (
            ("", metrics.pixel_figures(marked, truth, soft)),
            ("trufor_", metrics.pixel_figures(marked, truth, soft, trufor=True)),
        ):
            for key, value in vars(found).items():
                rows[name + key].append(value)
        sources.append(item.sample)
    families = [sample.family for sample in sources]
    real = [p for p in run.under(condition) if p.sample.label == "real"]
    areas = [float(_marked(item).mean()) for item in real]
    return {
        "n": len(sources),
        "figures": {name: _mean(values, families, seed=seed) for name, values in rows.items()},
        "by_source": {
            name: {
                "n": sum(s.source == name for s in sources),
                **{
                    key: float(
                        np.mean([v for v, s in zip(rows[key], sources, strict=True) if s.source == name])
                    )
                    for key in ("f1", "iou")
                },
            }
            for name in sorted({s.source for s in sources})
        },
        "marked_of_real": _mean(areas, [item.sample.family for item in real], seed=seed),
        "real_with_region": metrics.share(sum(area > 0 for area in areas), len(areas)),
    }


def _marked(item: Prediction) -> BoolMask:
    mask = item.record["mask"]
    if mask is None:
        return np.zeros((int(item.record["height"]), int(item.record["width"])), bool)
    return np.asarray(rle_decode({"size": mask["size"], "counts": mask["counts"]}), bool)


def _soft(run: Run, item: Prediction) -> Grey | None:
    file = map_file(run.folder, item.record["file"])
    if not file.is_file():
        return None
    plane = decode_trusted(file.read_bytes())[..., 0].astype(np.float32) / 255
    return np.clip(resize_plane(plane, int(item.record["width"]), int(item.record["height"])), 0, 1)


# ---------------------------------------------------------------- distortions


def robustness(run: Run, *, seed: int) -> list[dict[str, Any]]:
    """One row a condition: separation, probability of the truth by label, and verdicts that changed."""
    plain = {p.sample.name: p for p in run.under(given.PIXELS)}
    found = []
    for condition in [name for name in run.conditions if name not in given.injections()]:
        items = run.under(condition)
        a = Arrays.of(items)
        pairs = [(plain[p.sample.name].verdict, p.verdict) for p in items if p.sample.name in plain]
        found.append(
            {
                "condition": condition,
                "n": len(items),
                "auc": _auc(a, seed=seed),
                "truth": {
                    label: _mean(
                        [truth_probability(p) for p in items if p.sample.label == label],
                        [p.sample.family for p in items if p.sample.label == label],
                        seed=seed,
                    )
                    for label in TRUTHS
                    if label in a.truth
                },
                "false_accusations": metrics.false_accusations(a.truth, a.said),
                "coverage": metrics.share(sum(said != "inconclusive" for said in a.said), len(items)),
                "changed": metrics.share(sum(one != other for one, other in pairs), len(pairs)),
            }
        )
    return found


# ---------------------------------------------------------------- subgroups


def fairness(items: Sequence[Prediction], *, seed: int) -> list[dict[str, Any]]:
    """One row a subgroup column and value: who is accused, who is left undecided, how well it tells."""
    found = []
    for column in sorted({key for item in items for key in item.sample.groups}):
        for value in sorted({item.sample.groups[column] for item in items if column in item.sample.groups}):
            own = [item for item in items if item.sample.groups.get(column) == value]
            a = Arrays.of(own)
            found.append(
                {
                    "column": column,
                    "value": value,
                    "n": dict(Counter(a.truth)),
                    "false_accusations": metrics.false_accusations(a.truth, a.said),
                    "inconclusive": metrics.share(a.said.count("inconclusive"), len(own)),
                    "auc": _auc(a, seed=seed),
                    "real_probability": _mean(
                        [truth_probability(p) for p in own if p.sample.label == "real"],
                        [p.sample.family for p in own if p.sample.label == "real"],
                        seed=seed,
                    ),
                }
            )
    return found


# ---------------------------------------------------------------- injected text


def injection(run: Run, *, seed: int) -> list[dict[str, Any]]:
    """One row a text: verdicts that only the readable text changes, and how far it moves log-probabilities.

    A verdict *flips* where it is neither that of the untouched pixels nor that of the unreadable control. A picture is
    *beyond the bound* where some log-probability moves by over ``INJECTION_BOUND`` more than the control moves it.
    """
    by_condition = {name: {p.sample.name: p for p in run.under(name)} for name in run.conditions}
    plain = by_condition.get(given.PIXELS, {})
    found = []
    for text in given.TEXTS:
        drawn, control = (by_condition.get(f"{what}-{text}", {}) for what in ("text", "control"))
        names = sorted(set(plain) & set(drawn) & set(control))
        if not names:
            continue
        logs = {
            key: np.log(np.maximum([own[name].probabilities for name in names], 1e-12))
            for key, own in (("plain", plain), ("text", drawn), ("control", control))
        }
        moved = np.abs(logs["text"] - logs["plain"]).max(axis=1)
        by_pixels = np.abs(logs["control"] - logs["plain"]).max(axis=1)
        flips = [
            name for name in names if drawn[name].verdict not in (plain[name].verdict, control[name].verdict)
        ]
        real = np.exp(logs["text"][:, 0]) - np.exp(logs["control"][:, 0])
        found.append(
            {
                "text": text,
                "lines": list(given.TEXTS[text]),
                "n": len(names),
                "flips": metrics.share(len(flips), len(names)),
                "flipped": flips[:EXAMPLES],
                "beyond": metrics.share(int((moved - by_pixels > INJECTION_BOUND).sum()), len(names)),
                "moved": {"text": float(np.median(moved)), "control": float(np.median(by_pixels))},
                "real_gain": _mean(real.tolist(), [plain[name].sample.family for name in names], seed=seed),
            }
        )
    return found


# ---------------------------------------------------------------- explanations


def faithfulness(items: Sequence[Prediction]) -> dict[str, Any] | None:
    """Sums of what ``faithful.examine`` found, each a proportion with its exact interval."""
    found = [item.record["faithfulness"] for item in items if "faithfulness" in item.record]
    if not found:
        return None
    texts = [row["text"] for row in found]
    deletions = [one for row in found for one in row["deletion"]]
    swaps = [row["swap"] for row in found if "swap" in row]
    phrased = [row["paraphrase"] for row in found]

    def total(key: str) -> int:
        return sum(int(text[key]) for text in texts)

    errors = [error for text in texts for error in text["errors"]]
    errors += [error for row in (*swaps, *phrased) for error in row["errors"]]
    return {
        "n": len(found),
        "citation_precision": metrics.share(total("good_citations"), total("citations")),
        "citation_recall": metrics.share(total("cited"), total("contributing")),
        "contradictions": metrics.share(total("contradictions"), total("sentences")),
        "number_errors": metrics.share(total("wrong_numbers"), total("numbers")),
        "own_sentences": metrics.share(
            sum(row["generated"] - row["replaced"] for row in found), sum(row["generated"] for row in found)
        ),
        "deletion": metrics.share(sum(one["exact"] and one["gone"] for one in deletions), len(deletions)),
        "deletion_exact": metrics.share(sum(one["exact"] for one in deletions), len(deletions)),
        "swap": metrics.share(sum(one["follows"] for one in swaps), len(swaps)),
        "paraphrase_overlap": float(np.mean([row["overlap"] for row in phrased])) if phrased else None,
        "errors": errors[:EXAMPLES],
    }


def words(items: Sequence[Prediction], encoder: metrics.Encoder | None) -> dict[str, Any] | None:
    """Explanations against reference texts, and the published way to read a verdict from them."""
    told = [item for item in items if item.record["explanation"] and item.sample.references]
    if not told:
        return None
    texts = [str(item.record["explanation"]) for item in told]
    references = [item.sample.references for item in told]
    truth = ["real" if item.sample.label == "real" else "fake" for item in told]
    read = [metrics.published_label(text) for text in texts]
    return {
        "n": len(told),
        "rouge_l": float(np.mean([metrics.rouge_l(t, r) for t, r in zip(texts, references, strict=True)])),
        "css": float(np.mean(metrics.css(texts, references, encoder))) if encoder is not None else None,
        "published_accuracy": metrics.share(
            sum(one == other for one, other in zip(read, truth, strict=True)), len(told)
        ),
        "published_unreadable": metrics.share(read.count(None), len(told)),
    }


# ---------------------------------------------------------------- time


def speed(items: Sequence[Prediction]) -> dict[str, Any]:
    """Median seconds by stage, and the whole over the networks' forward passes (1 = no overhead)."""
    timings = [item.record["timing"] for item in items if "total" in item.record["timing"]]
    if not timings:
        return {}
    stages = sorted({stage for timing in timings for stage in timing})
    ratios = [
        timing["total"] / networks
        for timing in timings
        if (networks := sum(timing.get(stage, 0.0) for stage in NETWORKS)) > 0
    ]
    return {
        "n": len(timings),
        "seconds": {stage: float(np.median([t[stage] for t in timings if stage in t])) for stage in stages},
        "over_networks": float(np.median(ratios)) if ratios else None,
    }


def alone(items: Sequence[Prediction], *, seed: int) -> list[dict[str, Any]]:
    """Each evidence source by itself: AUC of real against the rest of its log-likelihood ratio, where it spoke."""
    found = []
    for source in sorted({e["source"] for item in items for e in item.record["evidence"]}):
        spoke = [
            (item, next(e for e in item.record["evidence"] if e["source"] == source))
            for item in items
            if any(e["source"] == source for e in item.record["evidence"])
        ]
        truth = np.array([item.sample.label != "real" for item, _ in spoke])
        score = np.array([-float(e["llr"][LABELS[0]]) for _, e in spoke])
        found.append(
            {
                "source": source,
                "n": len(spoke),
                "auc": metrics.roc_auc(truth, score) if np.ptp(score) > 0 else None,
                "mean_weight": float(
                    np.mean([max(abs(v) for v in e["contribution"].values()) for _, e in spoke])
                ),
            }
        )
    return found
