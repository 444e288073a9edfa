"""Model feature assessment (MFA): which clues can a backbone see?

Every clue's question is put to the backbone over labelled pictures; its answer is the sign of the log-odds of yes
against no, read from token probabilities. A clue is as good as its yes tells the labels that it favours from the rest.
The ranking chooses what to strengthen by fine-tuning (SFS) and what to leave to external detectors (WFS).

References:
    Chen et al. 2024, X²-DFD: A framework for eXplainable and eXtendable Deepfake Detection, §3 (MFA).
    Hanley & McNeil 1982, The meaning and use of the area under a receiver operating characteristic curve.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlmforensics.clues import Catalogue, Clue, catalogue
from vlmforensics.errors import InputError, ModelError, SettingsError
from vlmforensics.finetune.annotate import Labelled
from vlmforensics.finetune.annotators import key_of
from vlmforensics.finetune.journal import append, read_journal
from vlmforensics.finetune.samples import digest
from vlmforensics.fusion.measure import balanced_accuracy
from vlmforensics.imaging import open_case
from vlmforensics.report.files import write_atomically
from vlmforensics.settings import Settings, load_settings
from vlmforensics.types import LABELS
from vlmforensics.vlm.base import YES_NO, AnswersYesNo

Share = Annotated[float, Field(ge=0, le=1)]
Scores = dict[tuple[str, str], float]
"""(SHA-256 of a picture, clue@version) → log-odds of yes against no in nats."""


class ClueFigure(BaseModel):
    """How well a backbone sees one clue.

    Attributes:
        clue: its id.
        version: of the clue.
        category: of the clue.
        balanced_accuracy: of "yes" as a sign of the favoured labels, at log-odds 0; 0.5 is chance.
        low: of the 95 % interval.
        high: of the 95 % interval.
        auc: of the log-odds, whatever the threshold: what a shifted threshold could bring.
        auc_low: of its 95 % interval.
        auc_high: of its 95 % interval.
        yes: share of pictures answered yes; near 0 or 1 the backbone does not look.
        n: pictures asked about.
        n_favoured: of them with a label that a yes speaks for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    clue: str
    version: int
    category: str
    balanced_accuracy: Share
    low: Share
    high: Share
    auc: Share
    auc_low: Share
    auc_high: Share
    yes: Share
    n: int
    n_favoured: int


class Assessment(BaseModel):
    """The ranking: best clue first.

    Attributes:
        backbone: its name.
        weights_sha256: its weights.
        catalogue: edition of the clue catalogue.
        pictures: number of pictures by label.
        clues: figures, by balanced accuracy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    weights_sha256: str
    catalogue: int
    pictures: dict[str, int]
    clues: tuple[ClueFigure, ...]


def capable(backbone: Any) -> AnswersYesNo:
    """The backbone, which must be able to answer yes or no.

    Raises:
        ModelError: it is not.
    """
    if YES_NO not in backbone.capabilities:
        raise ModelError(f"the backbone {backbone.name} gives no probabilities of yes and no")
    answers: AnswersYesNo = backbone
    return answers


def balanced(pictures: Sequence[Labelled], limit: int, seed: int) -> list[Labelled]:
    """At most ``limit`` pictures of each label (0 = all), taken from the sources in turn, by a seed."""
    if not limit:
        return list(pictures)
    rng = np.random.default_rng(seed)
    chosen: list[Labelled] = []
    for label in LABELS:
        by_source: dict[str, list[Labelled]] = {}
        for picture in pictures:
            if picture.label == label:
                by_source.setdefault(picture.source, []).append(picture)
        queues = [[group[i] for i in rng.permutation(len(group))] for _, group in sorted(by_source.items())]
        queues = [queues[i] for i in rng.permutation(len(queues))]
        turns = range(max(map(len, queues), default=0))
        chosen += [queue[turn] for turn in turns for queue in queues if turn < len(queue)][:limit]
    return chosen


def asked_of(picture: Labelled, clues: Catalogue) -> list[Clue]:
    """Clues to ask of a picture: those that suit its category, or all where that is unknown."""
    return [
        clue
        for clue in clues
        if "vlm" in clue.observers and clue.favours and (not picture.category or clue.suits(picture.category))
    ]


def collect(
    backbone: AnswersYesNo, pictures: Sequence[Labelled], file: Path, *, settings: Settings | None = None
) -> Iterator[str]:
    """Ask what was not asked before and append the answers; yields a line of progress now and then.

    Pictures that can't be opened are told and left out.

    Raises:
        SettingsError: the file belongs to other weights, or can't be used.
    """
    settings = settings or load_settings()
    known = read_scores(file, backbone.weights_sha256)
    started, done = time.monotonic(), 0
    for picture in pictures:
        sha256 = digest(picture.image)
        clues = [clue for clue in asked_of(picture, catalogue()) if (sha256, key_of(clue)) not in known]
        if not clues:
            continue
        try:
            pixels = open_case(picture.image, settings=settings).upright
        except InputError as error:
            yield f"left out {error}"
            continue
        odds = backbone.yes_no(pixels, [clue.question for clue in clues])
        row = {
            "weights": backbone.weights_sha256,
            "sha256": sha256,
            "odds": {key_of(clue): round(value, 5) for clue, value in zip(clues, odds, strict=True)},
        }
        append(file, [row])
        done += 1
        if done % 10 == 0:
            yield f"{done} pictures, {(time.monotonic() - started) / done:.1f} s each"


def read_scores(file: Path, weights_sha256: str) -> Scores:
    """Answers that a file holds; none where it is absent.

    Raises:
        SettingsError: it can't be read, or holds the answers of other weights.
    """
    found: Scores = {}
    try:
        for row in read_journal(file):
            if row["weights"] != weights_sha256:
                raise SettingsError(f"{file} holds the answers of other weights; choose another --out")
            found |= {(row["sha256"], clue): float(odds) for clue, odds in row["odds"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{file} does not hold answers to clues: {error!r}") from error
    return found


def assess(backbone: AnswersYesNo, pictures: Sequence[Labelled], file: Path) -> Assessment:
    """Rank the clues by the answers in ``file``.

    Raises:
        SettingsError: no clue was asked of pictures on both sides.
    """
    scores = read_scores(file, backbone.weights_sha256)
    label_of = {digest(picture.image): picture.label for picture in pictures}
    figures = []
    for clue in catalogue():
        odds = {sha: scores[sha, key_of(clue)] for sha in label_of if (sha, key_of(clue)) in scores}
        favoured = np.array([value for sha, value in odds.items() if label_of[sha] in clue.favours])
        others = np.array([value for sha, value in odds.items() if label_of[sha] not in clue.favours])
        reliability = balanced_accuracy(favoured, others)
        if reliability is None:
            continue
        area, area_low, area_high = auc(favoured, others)
        figures.append(
            ClueFigure(
                clue=clue.id,
                version=clue.version,
                category=clue.category,
                balanced_accuracy=reliability.balanced_accuracy,
                low=reliability.low,
                high=reliability.high,
                auc=area,
                auc_low=area_low,
                auc_high=area_high,
                yes=float(np.mean(np.concatenate([favoured, others]) > 0)),
                n=len(odds),
                n_favoured=len(favoured),
            )
        )
    if not figures:
        raise SettingsError("no clue was asked of pictures with and without the labels that it favours")
    return Assessment(
        backbone=backbone.name,
        weights_sha256=backbone.weights_sha256,
        catalogue=catalogue().version,
        pictures={label: list(label_of.values()).count(label) for label in LABELS},
        clues=tuple(sorted(figures, key=lambda row: (-row.balanced_accuracy, -row.auc, row.clue))),
    )


def auc(favoured: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[float, float, float]:
    """Area under the ROC curve with the 95 % interval of Hanley & McNeil; ties count half."""
    from scipy.stats import rankdata

    n, m = len(favoured), len(others)
    ranks = rankdata(np.concatenate([favoured, others]))
    area = float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)) / (n * m)
    half = 1.959964 * math.sqrt(max(variance, 0.0))
    return area, max(0.0, area - half), min(1.0, area + half)


def blind_clues(assessment: Assessment) -> set[str]:
    """Clues whose interval does not lie above chance: what a backbone does not see, it must not learn to say."""
    return {row.clue for row in assessment.clues if row.low <= 0.5}


def answers_beside(out: Path) -> Path:
    """Where the answers behind an assessment are kept."""
    return out.with_name(f"{out.stem}.answers.jsonl")


def write_assessment(out: Path, assessment: Assessment) -> None:
    """Write the JSON and, beside it, the plot."""
    write_atomically(out, assessment.model_dump_json(indent=1) + "\n")
    plot(assessment, out.with_suffix(".png"))


def read_assessment(file: Path) -> Assessment:
    """An assessment that was written before.

    Raises:
        SettingsError: it can't be read or is none.
    """
    try:
        return Assessment.model_validate_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"can't read the assessment {file}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SettingsError(f"{file} is no assessment: {where}: {first['msg']}") from error


def plot(assessment: Assessment, file: Path) -> None:
    """Ranking with intervals as a PNG, best clue on top; chance is marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = assessment.clues[::-1]
    figure = Figure(figsize=(8, 1.2 + 0.2 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    y = np.arange(len(rows))
    middle = np.array([row.balanced_accuracy for row in rows])
    reach = np.array([[row.balanced_accuracy - row.low, row.high - row.balanced_accuracy] for row in rows]).T
    seen = np.array([row.low > 0.5 for row in rows])
    for chosen, colour, meaning in ((seen, "#1b6e53", "seen"), (~seen, "#8a8a8a", "not above chance")):
        if chosen.any():
            axes.errorbar(
                middle[chosen], y[chosen], xerr=np.clip(reach[:, chosen], 0, None), fmt="o", color=colour,
                markersize=4, linewidth=1, label=f"{meaning} ({int(chosen.sum())})",
            )  # fmt: skip
    axes.plot([row.auc for row in rows], y, "|", color="#b0562b", markersize=8, label="AUC of the log-odds")
    axes.axvline(0.5, color="black", linewidth=0.8, linestyle="--")
    axes.set_yticks(y, [row.clue for row in rows], fontsize=7)
    axes.set_ylim(-1, len(rows))
    axes.set_xlim(0, 1)
    axes.set_xlabel("balanced accuracy of yes/no, with 95 % interval")
    count = ", ".join(f"{n} {label}" for label, n in assessment.pictures.items())
    axes.set_title(f"What {assessment.backbone} can see ({count})", fontsize=9)
    axes.legend(fontsize=7, loc="lower right")
    figure.savefig(file, dpi=120)
