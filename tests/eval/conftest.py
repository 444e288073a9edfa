"""Stored runs to score."""

from pathlib import Path

import pytest


def _record(file, p, verdict, evidence, extra):
    labels = ("real", "synthetic", "tampered")
    return {
        "schema": "vlmforensics.record/1", "file": file, "sha256": "0" * 64, "width": 64, "height": 48, "format": "PNG",
        "verdict": verdict, "abstention": "It is too close to call." if verdict == "inconclusive" else None,
        "probabilities": dict(zip(labels, p, strict=True)), "evidence": evidence, "failures": [], "mask": None,
        "explanation": None,
        "model": {"name": "stored", "version": "1", "weights_sha256": "a" * 64, "calibration_sha256": "b" * 64,
                  "settings_sha256": "c" * 64},
        "timing": {"total": 1.0, "looking": 0.8}, "error": None,
    } | extra  # fmt: skip


@pytest.fixture
def stored(tmp_path):
    """Write a run's folder from truths and probabilities: ``stored(truth, p, verdicts=None, …) -> folder``."""
    import json

    import numpy as np

    from vlmforensics.eval.run import Plan, write_plan
    from vlmforensics.eval.samples import Sample

    def write(
        truth,
        p,
        verdicts=None,
        *,
        suite="shared",
        condition="equalised",
        families=6,
        records=None,
        folder=None,
    ):
        out = folder or tmp_path / "run"
        names = [f"{i:03d}.png" for i in range(len(truth))]
        samples = [
            Sample(name, Path(name), label, f"s{i % families}", f"f{i % families}")
            for i, (name, label) in enumerate(zip(names, truth, strict=True))
        ]
        write_plan(out, Plan(suite, "stored", 0, (condition,)), samples)
        if records is None:
            order = np.array(["real", "synthetic", "tampered"])
            said = verdicts or order[np.asarray(p).argmax(axis=1)].tolist()
            records = [
                _record(f"{condition}/{name}", [float(v) for v in row], verdict, [], {})
                for name, row, verdict in zip(names, p, said, strict=True)
            ]
        (out / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        return out

    return write


@pytest.fixture
def record():
    """Make one stored record."""
    return _record
