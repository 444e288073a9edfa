"""The worst errors of a run: what a reader looks at first."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from vlmforensics.errors import InputError
from vlmforensics.eval.predictions import Prediction, Run
from vlmforensics.eval.verdicts import truth_probability
from vlmforensics.imaging import open_case, to_jpeg_preview
from vlmforensics.report import printable
from vlmforensics.settings import load_settings
from vlmforensics.types import LABELS

MOST = 12
SIDE = 320
STATEMENTS = 3


@dataclass(frozen=True)
class Miss:
    """One picture that was judged wrongly, or came closest to it.

    Attributes:
        name, source: of the picture, made safe to show.
        truth, verdict: labels.
        probabilities: per cent by label, as text.
        reasons: statements of the evidence that weighed most against the truth.
        explanation: as written, or empty.
        picture: ``data:`` address of a small picture, or empty.
    """

    name: str
    source: str
    truth: str
    verdict: str
    probabilities: str
    reasons: Sequence[str]
    explanation: str
    picture: str


def worst(run: Run, condition: str, *, gallery: bool, most: int = MOST) -> list[Miss]:
    """Wrong verdicts first, then the pictures whose truth was given the least probability.

    Args:
        run: with predictions.
        condition: whose errors.
        gallery: with small pictures, from the files as found.
        most: how many.
    """
    items = [item for item in run.under(condition) if not item.right]
    items.sort(key=lambda item: (item.verdict == "inconclusive", truth_probability(item), item.sample.name))
    return [_miss(item, gallery) for item in items[:most]]


def _miss(item: Prediction, gallery: bool) -> Miss:
    truth = item.sample.label if item.sample.label in LABELS else "synthetic"
    against = sorted(item.record["evidence"], key=lambda e: float(e["contribution"][truth]))
    chances = zip(LABELS, item.probabilities, strict=True)
    return Miss(
        name=printable(item.sample.name, 120),
        source=printable(item.sample.source, 60),
        truth=item.sample.label,
        verdict=item.verdict,
        probabilities=", ".join(f"{label} {100 * p:.0f} %" for label, p in chances),
        reasons=[
            printable(e["statement"], 300)
            for e in against[:STATEMENTS]
            if float(e["contribution"][truth]) < 0
        ],
        explanation=printable(item.record["explanation"] or "", 1500),
        picture=_small(item) if gallery else "",
    )


def _small(item: Prediction) -> str:
    try:
        pixels = open_case(item.sample.path, settings=load_settings()).upright
    except InputError:
        return ""  # it was there when it was examined; the text stands without it
    return "data:image/jpeg;base64," + base64.b64encode(to_jpeg_preview(pixels, SIDE, 70)).decode("ascii")
