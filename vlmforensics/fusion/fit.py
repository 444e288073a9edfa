"""Make a ``Calibration`` from labelled examples, with every number that judges others taken out of fold.

1. Examples are dealt to five folds by group (a source of pictures never lies in two folds).
2. Each source's calibrator is fitted on four folds and read on the fifth: out-of-fold llrs. The shipped
calibrator is
   then fitted on all.
3. Fusion weights and prior are fitted on out-of-fold llrs; the out-of-fold fused score of a picture uses
weights that
   were fitted without its fold.
4. Conformal scores, reliabilities and quality figures come from these out-of-fold numbers. They describe
pictures of
   *sources that were not fitted to*, which is what a user brings. The guarantee of split conformal
   prediction is exact for a disjoint split (``conformal_share`` > 0); out of fold (the default) it is that
   of cross-conformal prediction (Vovk 2015; Barber et al. 2021): close to nominal in practice, twice alpha
   in the worst case, and usually on the safe side here because the shipped model saw more data than the
   fold models.

Classes are weighted alike throughout, so posteriors hold for balanced priors.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from vlmforensics.errors import SettingsError
from vlmforensics.fusion.calibration import Calibration, SourceCalibration
from vlmforensics.fusion.calibrators import Calibrator, Isotonic, Logistic, Table, Vector
from vlmforensics.fusion.conformal import LabelScores, nonconformity
from vlmforensics.fusion.gates import DistanceGate
from vlmforensics.fusion.judge import conformal_decision
from vlmforensics.fusion.logistic import (
    Ints,
    balanced_weights,
    fit_isotonic,
    fit_logistic,
    fit_vector,
    fit_weights,
)
from vlmforensics.fusion.measure import balanced_accuracy, calibration_figures
from vlmforensics.fusion.scale import Floats, cap_for, llr_from_logits, log_softmax
from vlmforensics.fusion.strict import rounded
from vlmforensics.types import LABELS, Evidence, Label, Reliability

TASKS = {
    "real against the rest": (0, (0,), (1, 2)),
    "real against synthetic": (0, (0,), (1,)),
    "real against tampered": (0, (0,), (2,)),
    "synthetic against the rest": (1, (1,), (0, 2)),
    "tampered against the rest": (2, (2,), (0, 1)),
}
"""Task → which label's llr is read, labels for which it should be positive, labels for which negative."""
PROVENANCE = ("c2pa", "camera_exif", "editor_traces", "generation_parameters", "metadata")
"""Sources that read the file around the pixels."""
FOLDS = 5
L2_SCORE = 2.0
L2_FUSION = 30.0
"""Pull of fusion weights to their mean, times the weight of a picture of the rarest label: the fewer these are, the
more each of them sways."""
FEW = 6
"""Numbers of a vector that need no choice of penalty."""
L2_VECTOR = (2000.0, 500.0, 100.0, 20.0, L2_SCORE)


@dataclass(frozen=True)
class Reading:
    """One source's raw output on one picture: what ``Evidence`` carries before fusion."""

    score: float | None = None
    vector: tuple[float, ...] = ()
    code: str = ""


@dataclass(frozen=True)
class Example:
    """One labelled picture.

    Attributes:
        label: the truth.
        group: what must stay on one side of a split: the source of the picture, or its scene.
        readings: source → raw output; sources that did not speak are left out.
        weight: relative weight within its label, > 0.
        complete: all the sources that a user's picture meets were read; only such examples give conformal scores and
            quality figures. Others still help to fit the sources that they hold.
    """

    label: Label
    group: str
    readings: Mapping[str, Reading] = field(default_factory=dict)
    weight: float = 1.0
    complete: bool = True

    @classmethod
    def of(cls, label: Label, group: str, evidence: Iterable[Evidence], weight: float = 1.0) -> Example:
        """From evidence as the witnesses give it."""
        readings = {item.source: Reading(item.score, item.vector, item.code) for item in evidence}
        return cls(label, group, readings, weight)


@dataclass(frozen=True, eq=False)
class _Column:
    """All readings of one source: which rows spoke, and their values in the calibrator's form."""

    kind: str
    rows: Ints
    values: Any


def fit_calibration(
    examples: Sequence[Example],
    *,
    seed: int = 0,
    levels: Mapping[str, float] | None = None,
    margin: float = 0.5,
    fixed_tables: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
    table_basis: str = "declared from domain knowledge, not fitted",
    provenance: Iterable[str] = PROVENANCE,
    kinds: Mapping[str, str] | None = None,
    tasks: Mapping[str, str] | None = None,
    unweighed: Iterable[str] = (),
    conformal_share: float = 0.0,
    alpha: float = 0.01,
    distance: DistanceGate | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Calibration:
    """Fit calibrators, fusion weights, conformal scores and reliabilities. Deterministic for a seed.

    Args:
        examples: labelled pictures, all three labels present.
        seed: of dealing groups to folds.
        levels: label → miss level of synthetic and tampered (a label is excluded where its p-value is at
            most that); .05 each by default.
        margin: log-odds by which synthetic and tampered must differ where both remain and real does not.
        fixed_tables: source → code → label → llr, for sources whose ratios are declared (provenance facts).
        table_basis: where those ratios come from.
        provenance: sources that read the file around the pixels; gates about pixels do not silence them.
        kinds: source → ``logistic``, ``curved`` (with the square), ``isotonic``, ``vector`` or ``table``.
            By default vector where there is one (long ones with the penalty that predicts best out of
            fold), table where only codes exist, else logistic; the curved form is taken where it lowers the
            out-of-fold log loss by over one per cent.
        tasks: source → a key of ``TASKS`` that its reliability is measured on; real against the rest by
            default.
        unweighed: sources that are read and told of, and count nothing.
        conformal_share: share of the examples set aside for conformal scores, 0 = out-of-fold scores of all.
        alpha: for the figures in ``quality`` only; judging takes its own.
        distance: gate to store.
        notes: further entries of ``origin``.

    Raises:
        SettingsError: a label without examples, an unknown kind, task or label.
    """
    fixed_tables = fixed_tables or {}
    labels = np.array([LABELS.index(example.label) for example in examples], dtype=np.int64)
    _check(labels, kinds or {}, tasks or {}, fixed_tables)
    held = _held_out(examples, labels, conformal_share, seed)
    folds = _folds(examples, labels, seed)
    raw_weights = np.array([example.weight for example in examples])
    names = sorted({name for example in examples for name in example.readings} - set(fixed_tables))
    columns = {name: _column(name, examples, (kinds or {}).get(name)) for name in names}
    names = [name for name in names if _usable(columns[name], labels, held)]
    llrs = np.zeros((len(examples), len(names), 3))
    calibrators: dict[str, Calibrator] = {}
    for place, name in enumerate(names):
        calibrators[name], llrs[:, place] = _source(columns[name], labels, folds, raw_weights, held)
    tables = {name: _declared(table, table_basis) for name, table in sorted(fixed_tables.items())}
    fixed = _fixed_contributions(examples, tables)
    counted = np.array([name not in set(unweighed) for name in names], dtype=bool)
    weights = np.zeros((len(names), 3))
    weights[counted], prior, fused = _fuse(llrs[:, counted], fixed, labels, folds, raw_weights, held)
    sources = {
        name: _describe(
            calibrators[name], columns[name].rows, llrs[:, place], labels, weights[place],
            (tasks or {}).get(name, "real against the rest"), name in set(provenance),
        )
        for place, name in enumerate(names)
    }  # fmt: skip
    sources |= {name: _describe_fixed(table, name, examples, labels) for name, table in tables.items()}
    whole = np.array([example.complete for example in examples])
    scored = whole & held if conformal_share > 0 else whole
    draft = Calibration(
        prior=prior,
        sources=MappingProxyType(dict(sorted(sources.items()))),
        conformal=_conformal_scores(examples, labels, fused, scored),
        levels=MappingProxyType({label: (levels or {}).get(label, 0.05) for label in LABELS[1:]}),
        margin=margin,
        distance=distance,
        origin=MappingProxyType({
            "seed": seed, "folds": int(folds.max()) + 1,
            "groups": len({example.group for example in examples}),
            "examples": {label: int((labels == index).sum()) for index, label in enumerate(LABELS)},
            "conformal": "disjoint split" if conformal_share > 0 else "out of fold", **(notes or {}),
        }),
    )  # fmt: skip
    quality = calibration_figures(fused[scored], labels[scored], balanced_weights(labels[scored]))
    quality["decisions"] = {"alpha": alpha, **_decisions(draft, fused[scored], labels[scored], alpha)}
    calibration = replace(draft, quality=MappingProxyType(quality))
    # As if read from its own file, so that a fitted and a loaded calibration judge alike to the last digit.
    return Calibration.from_json(rounded(calibration.to_json()))


def _conformal_scores(
    examples: Sequence[Example], labels: Ints, fused: Floats, scored: np.ndarray[Any, Any]
) -> Mapping[str, LabelScores]:
    scores = nonconformity(fused)
    result: dict[str, LabelScores] = {}
    for index, label in enumerate(LABELS):
        rows = np.flatnonzero(scored & (labels == index))
        if len(rows) == 0:
            raise SettingsError(f"no complete example of {label} is left for conformal scores")
        result[label] = LabelScores.of(scores[rows, index], len({examples[int(row)].group for row in rows}))
    return MappingProxyType(result)


def _decisions(calibration: Calibration, log_probs: Floats, labels: Ints, alpha: float) -> dict[str, Any]:
    """True label → verdict → number of pictures, on the pictures behind the conformal scores."""
    table: dict[str, dict[str, int]] = {label: {} for label in LABELS}
    for row, truth in zip(log_probs, labels, strict=True):
        verdict = conformal_decision(row, calibration, alpha).label
        own = table[LABELS[int(truth)]]
        own[verdict] = own.get(verdict, 0) + 1
    return dict(table)


def _check(
    labels: Ints, kinds: Mapping[str, str], tasks: Mapping[str, str], tables: Mapping[str, Any]
) -> None:
    missing = [label for index, label in enumerate(LABELS) if not (labels == index).any()]
    if missing:
        raise SettingsError(f"calibration needs examples of every label; none of {', '.join(missing)}")
    strange = sorted(set(kinds.values()) - {"logistic", "curved", "isotonic", "vector", "table"})
    strange += sorted(set(tasks.values()) - set(TASKS))
    strange += sorted(
        {label for table in tables.values() for row in table.values() for label in row} - set(LABELS)
    )
    if strange:
        raise SettingsError(f"unknown kind, task or label: {', '.join(strange)}")


def _held_out(examples: Sequence[Example], labels: Ints, share: float, seed: int) -> np.ndarray[Any, Any]:
    """(n,) bool: rows set aside for conformal scores, a seeded share of each label's rows."""
    if not 0 <= share < 1:
        raise SettingsError(f"conformal_share must lie in [0, 1), not {share}")
    held = np.zeros(len(examples), dtype=bool)
    generator = np.random.default_rng(seed)
    for label in range(3):
        rows = np.flatnonzero(labels == label)
        held[generator.permutation(rows)[: round(share * len(rows))]] = True
    return held


def _folds(examples: Sequence[Example], labels: Ints, seed: int) -> Ints:
    """(n,) fold numbers; groups stay whole, each label spread as evenly as its groups allow.

    A label that has a single group is dealt picture by picture, for no other way leaves it in every
    training set.
    """
    keys: list[str] = []
    for label in range(3):
        if len({example.group for example, own in zip(examples, labels, strict=True) if own == label}) == 1:
            lone = next(example.group for example, own in zip(examples, labels, strict=True) if own == label)
            keys.append(lone)
    members: dict[tuple[str, int], list[int]] = {}
    for row, example in enumerate(examples):
        part = row if example.group in keys else -1
        members.setdefault((example.group, part), []).append(row)
    order = sorted(members)
    random.Random(seed).shuffle(order)  # noqa: S311 - dealing, not secrecy
    order.sort(key=lambda key: -len(members[key]))
    load = np.zeros((FOLDS, 3))
    folds = np.zeros(len(examples), dtype=np.int64)
    for key in order:
        rows = members[key]
        counts = np.bincount(labels[rows], minlength=3)
        main = int(counts.argmax())
        best = min(range(FOLDS), key=lambda fold: (load[fold, main], load[fold].sum(), fold))
        load[best] += counts
        folds[rows] = best
    return folds


def _column(name: str, examples: Sequence[Example], kind: str | None) -> _Column:
    """Gather one source's readings."""
    spoken = [
        (row, example.readings[name]) for row, example in enumerate(examples) if name in example.readings
    ]
    if kind is None:
        if any(reading.vector for _, reading in spoken):
            kind = "vector"
        elif any(reading.score is not None for _, reading in spoken):
            kind = "auto"
        else:
            kind = "table"
    if kind == "vector":
        kept = [(row, reading) for row, reading in spoken if reading.vector]
        if len({len(reading.vector) for _, reading in kept}) > 1:
            raise SettingsError(f"source {name} gives vectors of different lengths")
        values: Any = np.array([reading.vector for _, reading in kept], dtype=np.float64)
    elif kind == "table":
        kept = [(row, reading) for row, reading in spoken if reading.code]
        values = np.array([reading.code for _, reading in kept])
    else:
        kept = [(row, reading) for row, reading in spoken if reading.score is not None]
        values = np.array([reading.score for _, reading in kept], dtype=np.float64)
    return _Column(kind, np.array([row for row, _ in kept], dtype=np.int64), values)


def _usable(column: _Column, labels: Ints, held: np.ndarray[Any, Any]) -> bool:
    """Whether it spoke on at least eight fitted pictures of every label; else it stays uncalibrated."""
    rows = column.rows[~held[column.rows]]
    return bool((np.bincount(labels[rows], minlength=3) >= 8).all())


def _forms(column: _Column) -> tuple[tuple[str, float], ...]:
    """Kinds and penalties to choose from, the preferred one first."""
    if column.kind == "auto":
        return (("logistic", L2_SCORE), ("curved", L2_SCORE))
    if column.kind == "vector" and column.values.shape[1] > FEW:
        return tuple(("vector", penalty) for penalty in L2_VECTOR)
    return ((column.kind, L2_SCORE),)


def _fit_one(form: tuple[str, float], values: Any, labels: Ints, weights: Floats) -> Calibrator:
    kind, l2 = form
    balanced = balanced_weights(labels, weights)
    if kind == "vector":
        return fit_vector(values, labels, balanced, l2=l2)
    if kind == "isotonic":
        return fit_isotonic(values, labels, balanced, target=0)
    if kind == "table":
        return _counted(values, labels)
    return fit_logistic(values, labels, balanced, curved=kind == "curved", l2=l2)


def _read(calibrator: Calibrator, values: Any, cap: float) -> Floats:
    """(n, 3) llr of many raw outputs."""
    if isinstance(calibrator, Table):
        zero = np.zeros(3)
        return np.stack([np.clip(calibrator.rows.get(str(code), zero), -cap, cap) for code in values])
    if isinstance(calibrator, Logistic | Isotonic | Vector):
        return llr_from_logits(calibrator.logits(values), cap)
    raise TypeError(f"unknown calibrator {calibrator.kind}")


def _source(
    column: _Column, labels: Ints, folds: Ints, weights: Floats, held: np.ndarray[Any, Any]
) -> tuple[Calibrator, Floats]:
    """The shipped calibrator and out-of-fold llrs (n, 3), zero where the source did not speak."""
    own = labels[column.rows]
    cap = cap_for(int(np.bincount(own, minlength=3).min()))
    usable = ~held[column.rows]

    def cross(form: tuple[str, float]) -> Floats:
        result = np.zeros((len(column.rows), 3))
        for fold in np.unique(folds):
            test = folds[column.rows] == fold
            train = ~test & usable
            if test.any() and (np.bincount(own[train], minlength=3) >= 4).all():
                fitted = _fit_one(form, column.values[train], own[train], weights[column.rows][train])
                result[test] = _read(fitted, column.values[test], cap)
        return result

    attempts = {form: cross(form) for form in _forms(column)}
    balanced = balanced_weights(own, weights[column.rows])
    loss = {form: _single_loss(llr, own, balanced) for form, llr in attempts.items()}
    # A form further down the list must be better by one per cent, not by chance.
    chosen = next(iter(attempts))
    for form in attempts:
        if loss[form] < 0.99 * loss[chosen]:
            chosen = form
    final = _fit_one(chosen, column.values[usable], own[usable], weights[column.rows][usable])
    out = np.zeros((len(labels), 3))
    out[column.rows] = attempts[chosen]
    if held.any():
        inside = held[column.rows]
        out[column.rows[inside]] = _read(final, column.values[inside], cap)
    return final, out


def _single_loss(llr: Floats, labels: Ints, weights: Floats) -> float:
    """Weighted log loss of one source alone, from its llrs."""
    # Posterior of a label against the rest under balanced priors, renormalised over the three.
    log_p = -np.logaddexp(0, -(llr - np.log(2)))
    log_p = log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    return float(-(weights * log_p[np.arange(len(labels)), labels]).sum() / weights.sum())


def _counted(codes: Any, labels: Ints) -> Table:
    """A table from counts; frequencies are smoothed by one picture spread over the codes (Laplace)."""
    names = sorted({str(code) for code in codes})
    totals = np.bincount(labels, minlength=3)
    rows, counts = {}, {}
    for name in names:
        count = np.bincount(labels[codes == name], minlength=3).astype(np.float64)
        frequency = (count + 1.0 / len(names)) / (totals + 1.0)
        rows[name] = llr_from_logits(np.log(frequency), cap_for(int(totals.min())))
        counts[name] = count
    return Table(rows, counts, "counted on calibration pictures")


def _declared(table: Mapping[str, Mapping[str, float]], basis: str) -> Table:
    rows = {
        code: np.array([float(row.get(label, 0.0)) for label in LABELS])
        for code, row in sorted(table.items())
    }
    return Table(rows, {}, basis)


def _fixed_contributions(examples: Sequence[Example], tables: Mapping[str, Table]) -> Floats:
    """(n, 3) sum of declared llrs."""
    total = np.zeros((len(examples), 3))
    for row, example in enumerate(examples):
        for name, table in tables.items():
            reading = example.readings.get(name)
            if reading is not None and reading.code in table.rows:
                total[row] += table.rows[reading.code]
    return total


def _fuse(
    llrs: Floats, fixed: Floats, labels: Ints, folds: Ints, weights: Floats, held: np.ndarray[Any, Any]
) -> tuple[Floats, Floats, Floats]:
    """Shipped weights and prior, and out-of-fold fused log-probabilities (n, 3)."""

    def fit(rows: np.ndarray[Any, Any]) -> tuple[Floats, Floats]:
        balanced = balanced_weights(labels[rows], weights[rows])
        return fit_weights(llrs[rows], fixed[rows], labels[rows], balanced, L2_FUSION * float(balanced.max()))

    def apply(rows: np.ndarray[Any, Any], w: Floats, prior: Floats) -> Floats:
        return log_softmax(prior + fixed[rows] + np.einsum("nsl,sl->nl", llrs[rows], w))

    shipped, prior = fit(~held)
    fused = apply(np.ones(len(labels), dtype=bool), shipped, prior)
    for fold in np.unique(folds):
        test = (folds == fold) & ~held
        train = (folds != fold) & ~held
        if test.any() and (np.bincount(labels[train], minlength=3) > 0).all():
            fused[test] = apply(test, *fit(train))
    return shipped, prior, fused


def _reliability(task: str, llr: Floats, labels: Ints) -> Reliability | None:
    """None also where the source said one thing of all pictures: these then tell nothing of how often it is right."""
    label, positive, negative = TASKS[task]
    value = llr[:, label]
    if len(np.unique(value)) < 2:
        return None
    return balanced_accuracy(value[np.isin(labels, positive)], value[np.isin(labels, negative)])


def _counts(rows: Ints, labels: Ints) -> Mapping[str, int]:
    return {
        label: int(count) for label, count in zip(LABELS, np.bincount(labels[rows], minlength=3), strict=True)
    }


def _describe(
    calibrator: Calibrator, rows: Ints, llr: Floats, labels: Ints, weight: Floats, task: str, provenance: bool
) -> SourceCalibration:
    own = labels[rows]
    return SourceCalibration(
        calibrator=calibrator,
        weight=weight,
        cap=cap_for(int(np.bincount(own, minlength=3).min())),
        reach=_reach(llr[rows]),
        provenance=provenance,
        fixed=False,
        counts=_counts(rows, labels),
        task=task,
        reliability=_reliability(task, llr[rows], own),
    )


def _reach(llr: Floats) -> Floats:
    """(3,): the largest llr for *real* and the smallest for the others, of (n, 3); never against the picture."""
    furthest = np.concatenate([llr[:, :1].max(axis=0, initial=0.0), llr[:, 1:].min(axis=0, initial=0.0)])
    return np.asarray(furthest, dtype=np.float64)


def _describe_fixed(table: Table, name: str, examples: Sequence[Example], labels: Ints) -> SourceCalibration:
    """A declared table counts with weight one; its reliability is measured where its code is known."""
    spoken = [
        row
        for row, example in enumerate(examples)
        if name in example.readings and example.readings[name].code in table.rows
    ]
    rows = np.array(spoken, dtype=np.int64)
    task = "real against the rest"
    llr = np.array([table.rows[examples[row].readings[name].code] for row in spoken]).reshape(-1, 3)
    largest = max(float(np.abs(row).max()) for row in table.rows.values())
    return SourceCalibration(
        calibrator=table, weight=np.ones(3), cap=largest, reach=_reach(np.stack([*table.rows.values()])),
        provenance=True, fixed=True,
        counts=_counts(rows, labels), task=task, reliability=_reliability(task, llr, labels[rows]),
    )  # fmt: skip
