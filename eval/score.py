"""From a run's stored predictions to its figures: ``results.json``, which the report and any test read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmforensics.eval import baselines, sections, verdicts
from vlmforensics.eval import conditions as given
from vlmforensics.eval.metrics import Encoder
from vlmforensics.eval.metrics.intervals import ROUNDS
from vlmforensics.eval.predictions import Arrays, Run, load_run
from vlmforensics.eval.suites import suite_of

RESULTS = "results.json"
AIMS = {
    "ece": ("expected calibration error", "≤", 0.07),
    "false_accusations": ("real pictures accused", "≤", 0.02),
    "right_of_decided": ("right among the decided", "≥", 0.9),
    "coverage": ("decided", "≥", 0.4),
    "citation_precision": ("citation precision", "≥", 0.99),
    "citation_recall": ("recall of contributing evidence", "≥", 0.8),
    "contradictions": ("contradictions", "≤", 0.0),
    "deletion": ("deletion test passed", "≥", 0.99),
    "own_sentences": ("generated sentences that pass", "≥", 0.95),
    "flips": ("verdicts flipped by drawn text", "≤", 0.0),
}
"""Figure → its name, and the aim that the report checks it against."""


def score(folder: Path, *, encoder: Encoder | None = None, unseen: bool = False) -> dict[str, Any]:
    """Compute all figures of a run.

    Args:
        folder: of the run.
        encoder: sentence embeddings for CSS, or None to leave CSS out.
        unseen: the user's word that no part of the model was trained or calibrated on these sources.

    Raises:
        SettingsError: there is nothing to score.
    """
    run = load_run(folder)
    seed = int(run.plan["seed"])
    result: dict[str, Any] = {
        "suite": run.plan["suite"],
        "about": suite_of(str(run.plan["suite"])).about,
        "model": dict(run.model),
        "seed": seed,
        "bootstrap_rounds": ROUNDS,
        "unseen": unseen,
        "pictures": len(run.samples),
        "predictions": len(run.predictions),
        "errors": [{"file": r["file"], **r["error"]} for r in run.errors],
        "conditions": {},
    }
    distorted = {*given.grid(), *given.injections()}
    for condition in run.conditions:
        if condition in distorted:
            continue
        items = run.under(condition)
        table = verdicts.figures(items, seed=seed)
        table["alone"] = sections.alone(items, seed=seed)
        for name, value in (
            ("localisation", sections.localisation(run, condition, seed=seed)),
            ("words", sections.words(items, encoder)),
            ("faithfulness", sections.faithfulness(items)),
            ("fairness", sections.fairness(items, seed=seed)),
            ("speed", sections.speed(items)),
            ("baselines", baselines.compared(run, condition, seed=seed)),
        ):
            if value:
                table[name] = value
        result["conditions"][condition] = table
    if any(name in given.grid() for name in run.conditions):
        result["robustness"] = sections.robustness(run, seed=seed)
    if any(name in given.injections() for name in run.conditions):
        result["injection"] = sections.injection(run, seed=seed)
    result["main"] = main_condition(list(result["conditions"]))
    result["alarms"] = alarms(run, result["main"])
    result["aims"] = aims(result)
    result["literature"] = baselines.literature(str(run.plan["suite"]))
    return result


def main_condition(names: Sequence[str]) -> str:
    """The condition that aims are checked on: equalised where it was run, for formats must not tell the label."""
    return given.EQUALISED if given.EQUALISED in names else names[0] if names else ""


def alarms(run: Run, condition: str) -> list[str]:
    """What a model that is broken, or knows nothing, gives away: one sentence each."""
    items = run.under(condition)
    if not items:
        return []
    a = Arrays.of(items)
    found = []
    if len(items) > 1 and float(a.p.std(axis=0).max()) < 1e-6:
        found.append("Every picture gets the same probabilities: the model does not look at the picture.")
    said = sorted(set(a.said))
    if len(items) > 5 and len(said) == 1 and len(set(a.truth)) > 1:
        found.append(f"Every picture gets the same verdict ({said[0]}).")
    for label in sorted(set(a.truth) - {"real"}):
        table = verdicts.detection(a, label, seed=int(run.plan["seed"])) if "real" in a.truth else None
        if table is None or not math.isfinite(table["auc"]["value"]):
            continue
        auc = table["auc"]
        if auc["high"] < 0.5:
            found.append(
                f"It ranks real above {label} pictures the wrong way round (AUC {auc['value']:.2f} "
                f"[{auc['low']:.2f}, {auc['high']:.2f}]): labels may be swapped somewhere."
            )
        elif auc["low"] <= 0.5:
            found.append(
                f"It is not shown to tell real from {label} pictures better than chance (AUC {auc['value']:.2f} "
                f"[{auc['low']:.2f}, {auc['high']:.2f}])."
            )
        if table["cllr"] > 1:
            found.append(
                f"Its likelihood ratios of {label} mislead: Cllr {table['cllr']:.2f} is over 1, the cost of silence."
            )
    if a.three and len(set(a.truth)) == 3:
        guess = a.p.argmax(axis=1)
        best, permutation = _best_permutation(a.labels, guess)
        if permutation != (0, 1, 2) and best > float((guess == a.labels).mean()) + 0.15:
            found.append(
                f"Its labels in another order would be right on {100 * best:.0f} % instead of "
                f"{100 * float((guess == a.labels).mean()):.0f} % of the pictures: they are swapped somewhere."
            )
    return found


def _best_permutation(
    labels: np.ndarray[Any, Any], guess: np.ndarray[Any, Any]
) -> tuple[float, tuple[int, ...]]:
    from itertools import permutations

    return max((float((np.array(order)[guess] == labels).mean()), order) for order in permutations(range(3)))


def aims(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Each aim with what was measured; ``reached`` by the value, ``secured`` where the whole interval reaches it."""
    table = result["conditions"].get(result["main"], {})
    faithful = table.get("faithfulness", {})
    measured = {
        "ece": table.get("calibration", {}).get("ece"),
        **{
            key: table.get("selective", {}).get(key)
            for key in ("false_accusations", "right_of_decided", "coverage")
        },
        **{
            key: faithful.get(key)
            for key in (
                "citation_precision",
                "citation_recall",
                "contradictions",
                "deletion",
                "own_sentences",
            )
        },
        "flips": _worst_flips(result.get("injection", [])),
    }
    found = []
    for key, (name, sign, aim) in AIMS.items():
        value = measured[key]
        if value is None or value["value"] is None or not math.isfinite(value["value"]):
            continue
        ends = (value["low"], value["high"])
        reached = value["value"] <= aim if sign == "≤" else value["value"] >= aim
        secured = ends[1] <= aim if sign == "≤" else ends[0] >= aim
        secured = secured or (aim == 0 and reached)  # no count can show a rate of exactly none
        found.append(
            {
                "figure": key,
                "name": name,
                "sign": sign,
                "aim": aim,
                "reached": bool(reached),
                "secured": bool(secured),
            }
            | {part: value.get(part) for part in ("value", "low", "high", "count", "n")}
        )
    return found


def _worst_flips(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    return max((row["flips"] for row in rows), key=lambda share: share["value"] or 0.0, default=None)


def save(result: dict[str, Any], file: Path) -> None:
    """Write figures, floats at four digits, what is not defined as null, keys in a fixed order."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rounded(result), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """JSON values with floats at four digits and nan as null."""
    if isinstance(value, float):
        return round(value, 4) + 0.0 if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


__all__ = ["AIMS", "RESULTS", "aims", "alarms", "main_condition", "rounded", "save", "score"]
