"""The shipped model on sources that no part of it has seen, as a run that is scored and reported like any other.

The shipped weights know every picture of their training data, so examining those pictures says little. What is stored
here are out-of-fold verdicts instead: scores of models that left the picture's family out, judged by a calibration that
left it out too (``card``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmforensics.eval import conditions as given
from vlmforensics.eval.card import ALPHA, Study, stored_evidence
from vlmforensics.eval.run import RECORDS, RUN, SAMPLES, Plan, write_plan
from vlmforensics.eval.samples import Sample
from vlmforensics.finetune.calibrate import Row
from vlmforensics.fusion import Calibration, judge
from vlmforensics.report.record import SCHEMA_ID, rounded_probabilities
from vlmforensics.types import LABELS, Evidence, Verdict

CONDITION = {"raw": given.AS_FOUND, "equalised": given.EQUALISED, "augmented-1": "augmented-1"}
"""Variant of prepared pictures → condition of a run."""


def run_of_card(study: Study, out: Path) -> None:
    """Store the verdicts behind the model card in ``out``: each picture by the calibration that left its fold out."""
    rows = {variant: study.complete(variant) for variant in CONDITION}
    store(out, study.data, {variant: found for variant, found in rows.items() if found}, study.calibration)


def store(
    out: Path,
    data: Path,
    rows: Mapping[str, Sequence[Row]],
    calibration: Callable[[Row], Calibration],
) -> None:
    """Write the folder of a run from stored readings.

    Args:
        out: the folder; an earlier run of this kind there is replaced.
        data: folder of the pictures.
        rows: variant → complete rows.
        calibration: the one that left the row's family out.
    """
    for name in (RUN, SAMPLES, RECORDS):
        (out / name).unlink(missing_ok=True)
    pictures = {row.picture.sha256: row.picture for found in rows.values() for row in found}
    samples = [
        Sample(str(p.path.relative_to(data)), p.path.absolute(), p.label, p.source, p.family)
        for p in sorted(pictures.values(), key=lambda p: str(p.path))
    ]
    conditions = tuple(CONDITION[variant] for variant in rows)
    write_plan(out, Plan("shared", "compact, out of fold", 0, conditions), samples)
    with (out / RECORDS).open("w", encoding="utf-8") as stream:
        for variant, found in rows.items():
            for row in found:
                judged, verdict = judge(stored_evidence(row), calibration(row), alpha=ALPHA)
                path = pictures[row.picture.sha256].path
                name = f"{CONDITION[variant]}/{path.relative_to(data)}"
                stream.write(json.dumps(_record(name, row, judged, verdict)) + "\n")


def _record(name: str, row: Row, judged: Sequence[Evidence], verdict: Verdict) -> dict[str, Any]:
    """A batch record of what is known: no pixels were opened, so size, format and timing are not."""
    return {
        "schema": SCHEMA_ID, "file": name, "sha256": row.picture.sha256, "width": None, "height": None, "format": None,
        "verdict": verdict.label, "abstention": verdict.abstention,
        "probabilities": rounded_probabilities(verdict.probabilities),
        "evidence": [_evidence(item) for item in judged],
        "failures": [], "mask": None, "explanation": None,
        "model": {
            "name": "compact, out of fold", "version": "1", "weights_sha256": "models without the picture's family",
            "calibration_sha256": "fitted without the picture's family",
        },
        "timing": {}, "error": None,
    }  # fmt: skip


def _evidence(item: Evidence) -> dict[str, Any]:
    return {
        "id": item.id, "source": item.source, "status": item.status, "statement": item.statement, "score": item.score,
        "llr": {label: round(item.llr[label], 6) for label in LABELS}, "strength": item.strength, "reliability": None,
        "contribution": {label: round(item.contribution[label], 6) for label in LABELS}, "region": None,
    }  # fmt: skip
