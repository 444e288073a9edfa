"""What the language model's own label is worth, on pictures of families that were left out of its training.

Read from the scores that ``finetune label --left-out GROUP`` wrote: with the experts' readings told to the model, as in
use, and without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmforensics.errors import SettingsError
from vlmforensics.eval.figures import auc_with_interval
from vlmforensics.finetune.calibrate import label_of, read_scores
from vlmforensics.finetune.pictures import Picture
from vlmforensics.types import LABELS

Scores = Mapping[tuple[str, str], Sequence[float]]
CASES = {"told the experts' readings": "scores.json", "without them": "alone.json"}
VARIANTS = ("equalised", "augmented-1")


def figures(pictures: Sequence[Picture], folder: Path) -> dict[str, Any]:
    """Case → variant → figures, from ``GROUP/scores.json`` and ``GROUP/alone.json`` in ``folder``.

    Raises:
        SettingsError: no scores there.
    """
    found: dict[str, Any] = {}
    for case, name in CASES.items():
        scores = read_scores(sorted(folder.glob(f"*/{name}")))
        for variant in VARIANTS:
            if figure := _of(pictures, scores, variant):
                found.setdefault(case, {})[variant] = figure
    if not found:
        raise SettingsError(f"{folder} holds no scores: run `vlmforensics finetune label --left-out GROUP`")
    return found


def _of(pictures: Sequence[Picture], scores: Scores, variant: str) -> dict[str, Any] | None:
    """AUC of each question with its interval, and balanced accuracy, labels as likely as one another."""
    known = [picture for picture in pictures if (variant, picture.sha256) in scores]
    if not known:
        return None
    said = np.array([scores[variant, picture.sha256] for picture in known])
    truth = np.array([LABELS.index(label_of(picture, variant)) for picture in known])
    families = np.array([picture.family for picture in known])
    out: dict[str, Any] = {"pictures": {label: int((truth == i).sum()) for i, label in enumerate(LABELS)}}
    for label in LABELS[1:]:
        positive = LABELS.index(label)
        asked = np.isin(truth, (0, positive))
        if len(set(truth[asked].tolist())) == 2:
            ratio = (said[:, positive] - said[:, 0])[asked]
            out[f"real against {label}"] = auc_with_interval(
                truth[asked] == positive, ratio, families[asked].tolist()
            )
    right = said.argmax(axis=1) == truth
    out["balanced accuracy"] = float(np.mean([right[truth == i].mean() for i in sorted(set(truth.tolist()))]))
    return out


def table(found: Mapping[str, Any]) -> list[str]:
    """The figures as lines of Markdown."""
    lines = [
        "| the label head, families left out | n | AUC against synthetic | AUC against tampered | balanced accuracy |",
        "|---|---|---|---|---|",
    ]
    for case, variants in found.items():
        for variant, row in variants.items():
            n = " + ".join(str(count) for count in row["pictures"].values())
            cells = [_interval(row.get(f"real against {label}")) for label in LABELS[1:]]
            lines.append(
                f"| {case}, {variant} | {n} | {' | '.join(cells)} | {row['balanced accuracy']:.2f} |"
            )
    return lines


def _interval(figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return "–"
    return f"{figure['auc']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
