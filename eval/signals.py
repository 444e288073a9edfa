"""How right each source is, by itself, on files as found; what copy-move finds; and what each source costs.

Nothing is fitted for the figures of scores. A source that measures many numbers is read by a logistic model that is
fitted on the other half of the families, so no picture judges itself; the same halves give the threshold at which a
source's balanced accuracy is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vlmforensics.errors import InputError, SettingsError
from vlmforensics.eval.metrics import auc_of, draws, interval, roc_auc, share
from vlmforensics.eval.overhead import BUDGET, Costs
from vlmforensics.finetune.calibrate import TASKS
from vlmforensics.finetune.journal import append, read_journal
from vlmforensics.finetune.pictures import Picture, load_manifest
from vlmforensics.imaging import open_case
from vlmforensics.signals import load_sources
from vlmforensics.types import LABELS, BoolMask, Evidence, EvidenceSource, Region

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
HIT = 0.3
"""IoU from which a region counts as found."""
_OF_GENERATION = (
    "cfa",
    "cooccurrence",
    "texture_contrast",
)  # until calibration knows them and their question


@dataclass(frozen=True)
class Row:
    """What the sources said of one picture.

    Attributes:
        file: path of the picture, relative to the data.
        label: its true label.
        family: of its source.
        kind: generator or manipulation.
        readings: evidence source → {``score``, ``vector``, ``code``, ``iou`` (None where nothing is to be found),
            ``drawn`` (a region was returned)}.
    """

    file: str
    label: str
    family: str
    kind: str
    readings: Mapping[str, Mapping[str, Any]]


def choose(pictures: Sequence[Picture], real: int, synthetic: int) -> list[Picture]:
    """Every tampered picture, every real one that shares a source with them, and others by hash up to the numbers."""
    near = {picture.source for picture in pictures if picture.label == "tampered"}
    chosen = [p for p in pictures if p.label == "tampered" or (p.label == "real" and p.source in near)]
    for label, most in (("real", real), ("synthetic", synthetic)):
        have = sum(picture.label == label for picture in chosen)
        others = [p for p in pictures if p.label == label and p not in chosen]
        chosen += sorted(others, key=lambda p: p.sha256)[: max(0, most - have)]
    return chosen


def _mask(path: Path, shape: tuple[int, int]) -> BoolMask | None:
    mask = open_case(path).upright[..., 0] > 127
    return mask if mask.shape == shape else None


def truth_of(picture: Picture, shape: tuple[int, int]) -> BoolMask | None:
    """The tampered pixels, bool (H, W), with a copy's source where the data marks it; None where unknown."""
    if picture.mask is None:
        return None
    mask = _mask(picture.mask, shape)
    source = picture.mask.with_name(picture.mask.name.replace(".mask.", ".mask_source."))
    if mask is not None and picture.kind == "copy-move" and source.exists():
        other = _mask(source, shape)
        mask = mask if other is None else mask | other
    return mask


def overlap(region: Region | None, truth: BoolMask) -> float:
    """Intersection over union of a region (its box where it has no mask) with the truth; 0 for no region."""
    if region is None:
        return 0.0
    mask = region.mask
    if mask is None:
        mask = np.zeros(truth.shape, bool)
        mask[region.box.y0 : region.box.y1, region.box.x0 : region.box.x1] = True
    return float((mask & truth).sum() / max((mask | truth).sum(), 1))


def _reading(evidence: Evidence, truth: BoolMask | None) -> dict[str, Any]:
    return {
        "score": evidence.score,
        "vector": [float(f"{value:.6g}") for value in evidence.vector],
        "code": evidence.code,
        "drawn": evidence.region is not None,
        "iou": None if truth is None else round(overlap(evidence.region, truth), 4),
    }


def examine(
    pictures: Sequence[Picture], data: Path, file: Path, sources: Sequence[EvidenceSource] | None = None
) -> Iterator[str]:
    """Examine pictures with every source and append a line for each; what the file holds already is left out.

    Yields a line of progress for every 25 pictures, and for each that can't be opened.
    """
    done = {row.file for row in read_rows(file)}
    witnesses = load_sources() if sources is None else sources
    for count, picture in enumerate(pictures, start=1):
        name = picture.path.relative_to(data).as_posix()
        if name in done:
            continue
        try:
            case = open_case(picture.path)
            truth = truth_of(picture, case.upright.shape[:2])
        except InputError as error:
            yield f"left out {error}"
            continue
        found = [evidence for source in witnesses for evidence in source.examine(case)]
        line = {
            "file": name,
            "label": picture.label,
            "family": picture.family,
            "kind": picture.kind,
            "readings": {evidence.source: _reading(evidence, truth) for evidence in found},
        }
        append(file, [line])
        if count % 25 == 0:
            yield f"{count} of {len(pictures)}"


def read_rows(file: Path) -> list[Row]:
    """Read what :func:`examine` wrote; a torn last line is cut off, see ``journal``.

    Raises:
        SettingsError: the file can't be read, or holds other lines.
    """
    try:
        return [Row(**row) for row in read_journal(file)]
    except TypeError as error:
        raise SettingsError(
            f"can't read the observations in {file}: {error}; delete it and run again"
        ) from error


def _halves(families: Sequence[str]) -> NDArray[np.intp]:
    """0 or 1 for each row: families dealt out in turn, the largest first, so that both halves have all they can."""
    names, counts = np.unique(np.array(families), return_counts=True)
    order = np.lexsort((names, -counts))
    side = {str(names[index]): place % 2 for place, index in enumerate(order)}
    return np.array([side[family] for family in families], dtype=np.intp)


def _scores(rows: Sequence[Row], name: str, positive: str) -> NDArray[np.float64]:
    """One number for each row: the score, or where the source gives many, the other half's model of them."""
    readings = [row.readings[name] for row in rows]
    if not readings[0]["vector"]:
        return np.array([float(reading["score"]) for reading in readings])
    vectors = np.array([reading["vector"] for reading in readings])
    truth = np.array([row.label == positive for row in rows])
    half = _halves([row.family for row in rows])
    out = np.zeros(len(rows))
    for side in (0, 1):
        fit = half != side
        if truth[fit].all() or not truth[fit].any() or fit.all():
            return np.full(len(rows), np.nan)
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.03, class_weight="balanced", max_iter=2000)
        )
        out[~fit] = model.fit(vectors[fit], truth[fit]).decision_function(vectors[~fit])
    return out


def _balanced(
    rows: Sequence[Row], scores: NDArray[np.float64], positive: NDArray[np.bool_]
) -> dict[str, Any]:
    """Balanced accuracy at the threshold that is best on the other half of the families, with exact intervals."""
    half = _halves([row.family for row in rows])
    said = np.zeros(len(rows), bool)
    for side in (0, 1):
        fit = half != side
        if not (positive[fit].any() and not positive[fit].all()):
            return {}
        values = np.unique(scores[fit])
        steps = (values[:-1] + values[1:]) / 2 if len(values) > 1 else values
        rates = [
            (scores[fit & positive] >= step).mean() + (scores[fit & ~positive] < step).mean()
            for step in steps
        ]
        said[half == side] = scores[half == side] >= steps[int(np.argmax(rates))]
    hits, clear = (
        share(int(said[positive].sum()), int(positive.sum())),
        share(int((~said)[~positive].sum()), int((~positive).sum())),
    )
    middle = [(hits[key] + clear[key]) / 2 for key in ("value", "low", "high")]
    return {"value": middle[0], "low": middle[1], "high": middle[2], "n": len(rows)}


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Every figure of the table, source by source, and copy-move's own."""
    names = sorted({name for row in rows for name in row.readings})
    table = {name: _figures_of(rows, name) for name in names}
    numbers = {label: sum(row.label == label for row in rows) for label in LABELS}
    return {"pictures": numbers, "sources": table, "copy_move": copy_move(rows)}


def _figures_of(rows: Sequence[Row], name: str) -> dict[str, Any]:
    task = TASKS.get(name) or (
        "real against synthetic" if name in _OF_GENERATION else "real against tampered"
    )
    label = task.rsplit(" ", 1)[-1]
    asked = [row for row in rows if row.label in ("real", label)]
    spoken = [row for row in asked if name in row.readings]
    out: dict[str, Any] = {"task": task, "coverage": share(len(spoken), len(asked))}
    drawn = [row for row in rows if name in row.readings and row.readings[name]["iou"] is not None]
    if any(row.readings[name]["drawn"] for row in spoken):
        found = sum(row.readings[name]["iou"] > HIT for row in drawn)
        real = [row for row in spoken if row.label == "real"]
        out["located"] = share(found, len(drawn))
        out["drawn on real"] = share(sum(row.readings[name]["drawn"] for row in real), len(real))
    scored = [row for row in spoken if row.readings[name]["score"] is not None]
    positive = np.array([row.label != "real" for row in scored], dtype=bool)
    if len(scored) < 20 or not positive.any() or positive.all():
        return out
    scores = _scores(scored, name, label)
    if not np.isfinite(scores).all():
        return out
    weights = draws([row.label for row in scored], [row.family for row in scored])
    low, high = interval(auc_of(positive, scores, weights))
    out["auc"] = {"value": roc_auc(positive, scores), "low": low, "high": high}
    out["n"] = {"real": int((~positive).sum()), label: int(positive.sum())}
    out["reliability"] = _balanced(scored, scores, positive)
    return out


def copy_move(rows: Sequence[Row]) -> dict[str, Any]:
    """Copy-move pictures found, against the union of source and copy, and alarms on untouched pictures."""
    copies = [row for row in rows if row.kind == "copy-move" and "copy_move" in row.readings]
    real = [row for row in rows if row.label == "real" and "copy_move" in row.readings]
    found = sum((row.readings["copy_move"]["iou"] or 0) > HIT for row in copies)
    alarms = [row.file for row in real if row.readings["copy_move"]["drawn"]]
    return {
        "found": share(found, len(copies)),
        "false_alarms": share(len(alarms), len(real)),
        "alarms_on": alarms,
    }


def _cell(figure: Mapping[str, Any] | None, percent: bool = False) -> str:
    if not figure or figure.get("value") is None:
        return "–"
    factor, form = (100, ".0f") if percent else (1, ".2f")
    value, low, high = (format(factor * figure[key], form) for key in ("value", "low", "high"))
    n = f", n = {figure['n']}" if "n" in figure else ""
    return f"{value}{' %' if percent else ''} [{low}, {high}]{n}"


def page(result: Mapping[str, Any]) -> list[str]:
    """The tables as Markdown lines."""
    n = result["pictures"]
    lines = [
        f"{n['real']} real, {n['synthetic']} synthetic and {n['tampered']} tampered pictures, files as found.",
        "",
        "| source | question | AUC | balanced accuracy | speaks of | locates (IoU > 0.3) | draws on real |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in result["sources"].items():
        count = row.get("n")
        auc = _cell(row.get("auc"))
        auc += f", n = {' + '.join(str(value) for value in count.values())}" if count else ""
        lines.append(
            f"| `{name}` | {row['task']} | {auc} | {_cell(row.get('reliability'))} | {_cell(row['coverage'], True)} | "
            f"{_cell(row.get('located'), True)} | {_cell(row.get('drawn on real'), True)} |"
        )
    copied = result["copy_move"]
    lines += [
        "",
        f"Copy-move pictures found with source and copy (IoU > {HIT}): {_cell(copied['found'], True)}; "
        f"alarms on untouched pictures: {_cell(copied['false_alarms'], True)}.",
        "",
    ]
    if "cost" in result:
        lines += ["| source | processor time, × decoding the same 12-megapixel JPEG |", "|---|---|"]
        cost = Costs(**result["cost"])
        rows = sorted(cost.sources.items(), key=lambda item: -item[1])
        lines += [f"| `{name}` | {ratio:.2f} |" for name, ratio in rows]
        lines.append(f"| all together | {cost.total:.1f} |")
        lines += [f"| {name}, for comparison | {ratio:.2f} |" for name, ratio in cost.tower.items()]
        lines.append(f"| allowed: {BUDGET:.0f}, and the towers' pass | {cost.allowed:.1f} |")
    return lines


def write_page(result: Mapping[str, Any], file: Path) -> None:
    """Put the tables between the marks of a page.

    Raises:
        SettingsError: the page has no marks.
    """
    text = file.read_text(encoding="utf-8") if file.exists() else f"{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise SettingsError(f"{file} has no lines {BEGIN} and {END} to put the tables between")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    body = "\n".join(page(result))
    file.write_text(f"{head}{BEGIN}\n{body}\n{END}{tail}", encoding="utf-8")


def measure(data: Path, file: Path, real: int, synthetic: int, only: str = "") -> Iterator[str]:
    """Examine what is missing of the chosen pictures with all sources, or those named; see :func:`examine`.

    Raises:
        SettingsError: a name that no source has.
    """
    sources = load_sources()
    names = {name.strip() for name in only.split(",")} - {""}
    unknown = sorted(names - {source.name for source in sources})
    if unknown:
        raise SettingsError(
            f"no source is named {unknown[0]}; there are {', '.join(s.name for s in sources)}"
        )
    chosen = [source for source in sources if not names or source.name in names]
    yield from examine(choose(load_manifest(data), real, synthetic), data, file, chosen)
