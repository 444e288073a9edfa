"""What the report says, as a list of blocks that page and Markdown render alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmforensics.eval.report import charts
from vlmforensics.eval.report.errors import Miss
from vlmforensics.eval.report.words import aim_value, aim_verdict, number, percent, ranged
from vlmforensics.eval.samples import TRUTHS
from vlmforensics.eval.score import AIMS

Row = Sequence[str]


@dataclass(frozen=True)
class Heading:
    """A section's title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; ``kind`` may be ``alarm`` or ``note``."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row."""

    head: Row
    rows: Sequence[Row]
    caption: str = ""


@dataclass(frozen=True)
class Chart:
    """An SVG with what it shows in words."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Bars:
    """Stacked shares by row: (name, note, shares of right, inconclusive, wrong as counts)."""

    rows: Sequence[tuple[str, str, int, int, int]]
    caption: str


@dataclass(frozen=True)
class Gallery:
    """The worst errors."""

    misses: Sequence[Miss] = field(default_factory=tuple)


Block = Heading | Text | Table | Chart | Bars | Gallery


def build(result: Mapping[str, Any], misses: Sequence[Miss]) -> list[Block]:
    """All blocks of one scored run."""
    blocks: list[Block] = [*_top(result)]
    for name, table in result["conditions"].items():
        blocks += _condition(name, table, main=name == result["main"])
    if result.get("robustness"):
        blocks += _robustness(result["robustness"])
    if result.get("injection"):
        blocks += _injection(result["injection"])
    blocks += _literature(result["literature"])
    if misses:
        blocks += [
            Heading(f"Worst errors ({result['main']})"),
            Text("Wrong verdicts first, then the pictures whose truth was given the least probability."),
            Gallery(misses),
        ]
    blocks += _repeat(result)
    return blocks


def _top(result: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = [Text(f"Alarm: {alarm}", "alarm") for alarm in result["alarms"]]
    if result["aims"]:
        missed = [aim["name"] for aim in result["aims"] if not aim["reached"]]
        blocks.append(
            Text(
                f"Not reached: {', '.join(missed)}."
                if missed
                else "Every aim that this suite measures is reached.",
                "alarm" if missed else "note",
            )
        )
        rows = [
            (aim["name"], f"{aim['sign']} {aim['aim']:g}", aim_value(aim), aim_verdict(aim))
            for aim in result["aims"]
        ]
        blocks.append(Table(("figure", "aim", f"measured ({result['main'] or 'all'})", ""), rows, "Aims"))
    if not result["unseen"]:
        blocks.append(
            Text(
                "These sources were not declared unseen (--unseen). Figures on pictures of sources that a model was "
                "trained or calibrated on flatter it.",
                "note",
            )
        )
    if result["errors"]:
        blocks.append(
            Text(
                f"{len(result['errors'])} pictures could not be examined and are in no figure; see results.json.",
                "note",
            )
        )
    return blocks


def _condition(name: str, table: Mapping[str, Any], *, main: bool) -> list[Block]:
    counts = ", ".join(f"{n} {label}" for label, n in table["n"].items())
    blocks: list[Block] = [Heading(f"Condition: {name}"), Text(f"{counts} pictures.")]
    blocks += [_figures(table)]
    if main:
        blocks += _charts(table)
    said = (*TRUTHS, "inconclusive")
    columns = [c for c in said if any(row.get(c) for row in table["decisions"].values())]
    rows = [
        (truth, *(str(table["decisions"][truth][column]) for column in columns))
        for truth in said
        if truth in table["decisions"]
    ]
    blocks.append(Table(("truth", *columns), rows, "Verdicts by truth"))
    bars = [
        (f"{row['label']} · {row['source']}", f"n = {row['n']}, p = {row['truth_probability']:.2f}", row["right"],
         row["inconclusive"], row["wrong"])
        for row in table["sources"]
    ]  # fmt: skip
    blocks.append(Bars(bars, "By source: right, inconclusive, wrong; p = mean probability of the truth"))
    if table.get("baselines"):
        blocks.append(_baselines(table["baselines"]))
    if table.get("alone"):
        alone = [
            (r["source"], str(r["n"]), number(r["auc"]), number(r["mean_weight"], 2)) for r in table["alone"]
        ]
        head = ("source", "pictures", "AUC, real against the rest", "mean weight in log-odds")
        blocks.append(Table(head, alone, "Each source of evidence alone"))
    parts: dict[str, Callable[[Any], list[Block]]] = {
        "localisation": _localisation, "faithfulness": _faithfulness, "words": _words, "fairness": _fairness,
        "speed": _speed,
    }  # fmt: skip
    for key, make in parts.items():
        if table.get(key):
            blocks += make(table[key])
    return blocks


def _figures(table: Mapping[str, Any]) -> Table:
    rows: list[Row] = []
    for label, found in table["detection"].items():
        rows += [
            (f"AUC, real against {label}", ranged(found["auc"])),
            (f"average precision, {label}", number(found["ap"])),
            (f"{label} found at 1 % of real accused", number(found["tpr_at_1_fpr"])),
            (f"equal error rate, {label}", number(found["eer"])),
            (
                f"Cllr (after best recalibration), {label}",
                f"{number(found['cllr'])} ({number(found['min_cllr'])})",
            ),
        ]
    binary = table["binary"]
    rows += [
        ("two labels, accuracy", ranged(binary["accuracy"])),
        ("two labels, balanced accuracy", ranged(binary["balanced_accuracy"])),
        ("two labels, F1 with real positive", number(binary["f1_real_positive"])),
        ("two labels, F1 with fake positive", number(binary["f1_fake_positive"])),
    ]
    if table.get("labels"):
        rows += [
            ("three labels, balanced accuracy", ranged(table["labels"]["balanced_accuracy"])),
            ("three labels, macro F1", number(table["labels"]["macro_f1"])),
        ]
    if table.get("calibration"):
        found = table["calibration"]
        rows += [
            ("expected calibration error", ranged(found["ece"])),
            ("Brier score (0 to 2)", number(found["brier"])),
            (
                "Cllr of real (after best recalibration)",
                f"{number(found['cllr_real'])} ({number(found['min_cllr_real'])})",
            ),
        ]
    chosen = table["selective"]
    rows += [
        ("decided", percent(chosen["coverage"])),
        ("right among the decided", percent(chosen["right_of_decided"])),
        ("real pictures accused", percent(chosen["false_accusations"])),
        ("area under risk and coverage", number(chosen["aurc"])),
    ]
    return Table(
        ("figure", "value [95 % interval]"),
        rows,
        "Figures without abstention unless said; intervals over families",
    )


def _charts(table: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    if table.get("calibration"):
        blocks.append(Chart(charts.reliability(table["calibration"]["reliability"]), "Reliability diagram"))
    curves = {label: found["roc"] for label, found in table["detection"].items() if found["roc"]}
    if curves:
        blocks.append(Chart(charts.roc(curves), "ROC curves"))
    curves = {label: found["det"] for label, found in table["detection"].items() if found["det"]}
    if curves:
        blocks.append(Chart(charts.det(curves), "Detection error trade-off"))
    chosen = table["selective"]
    if chosen["risk_coverage"]:
        right = chosen["right_of_decided"]["value"]
        svg = charts.risk_coverage(
            chosen["risk_coverage"],
            coverage=chosen["coverage"]["value"],
            risk=None if right is None else 1 - right,
            aim=(AIMS["coverage"][2], 1 - AIMS["right_of_decided"][2]),
        )
        blocks.append(Chart(svg, "Risk and coverage"))
    return blocks


def _baselines(rows: Sequence[Mapping[str, Any]]) -> Table:
    made = []
    for row in rows:
        gain = "–"
        if row.get("gain") is not None:
            gain = f"{row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]"
        made.append((row["name"], number(row["auc"]), number(row.get("ours")), gain, str(row["n"])))
    head = ("baseline, measured here", "AUC, real against the rest", "this model", "gain, paired", "n")
    return Table(head, made, "Beside baselines on the same pictures")


def _localisation(found: Mapping[str, Any]) -> list[Block]:
    names = {
        "f1": "F1, the model's own mask", "iou": "IoU, the model's own mask", "best_f1": "F1, best threshold a picture",
        "auc": "pixel AUC",
    }  # fmt: skip
    rows = [
        (title, ranged(found["figures"].get(key)), ranged(found["figures"].get(f"trufor_{key}")))
        for key, title in names.items()
    ]
    blocks: list[Block] = [
        Heading("Where it was tampered with", 3),
        Table(
            ("figure", "plain", "by TruFor's rule (better of map and inverse, no border)"),
            rows,
            f"{found['n']} tampered pictures",
        ),
        Text(
            f"Marked of real pictures: {ranged(found['marked_of_real'])} of the area on average; "
            f"real pictures with any region: {percent(found['real_with_region'])}."
        ),
    ]
    by = [
        (name, str(row["n"]), number(row["f1"]), number(row["iou"]))
        for name, row in found["by_source"].items()
    ]
    if len(by) > 1:
        blocks.append(Table(("source", "n", "F1", "IoU"), by, "Masks by source"))
    return blocks


def _faithfulness(found: Mapping[str, Any]) -> list[Block]:
    rows = [
        ("citation precision", percent(found["citation_precision"])),
        ("recall of contributing evidence", percent(found["citation_recall"])),
        ("contradictions a sentence", percent(found["contradictions"])),
        ("numbers that nothing cited holds", percent(found["number_errors"])),
        ("deletion test passed", percent(found["deletion"])),
        ("… of which log-odds moved by exactly the contribution", percent(found["deletion_exact"])),
        ("swap test: the text follows the evidence", percent(found["swap"])),
        ("paraphrased questions: overlap of cited evidence", number(found["paraphrase_overlap"])),
        ("generated sentences that pass before any is replaced", percent(found["own_sentences"])),
    ]
    blocks: list[Block] = [
        Heading("Do explanations follow the evidence?", 3),
        Table(("test", "result"), rows, f"{found['n']} explanations"),
    ]
    blocks += [Text(error, "note") for error in found["errors"]]
    return blocks


def _words(found: Mapping[str, Any]) -> list[Block]:
    rows = [
        ("ROUGE-L, best reference", number(found["rouge_l"])),
        ("CSS, best reference", number(found["css"])),
        ("accuracy by the published reading of the text", percent(found["published_accuracy"])),
        ("texts that the published reading would toss a coin for", percent(found["published_unreadable"])),
    ]
    return [
        Heading("Against reference explanations", 3),
        Table(("figure", "value"), rows, f"{found['n']} explanations; references reward their own templates"),
    ]


def _fairness(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    made = [
        (f"{row['column']}: {row['value']}", str(sum(row["n"].values())), percent(row["false_accusations"]),
         percent(row["inconclusive"]), ranged(row["auc"]), ranged(row["real_probability"]))
        for row in rows
    ]  # fmt: skip
    head = ("subgroup", "n", "real accused", "inconclusive", "AUC", "p(real) of real")
    return [Heading("Subgroups", 3), Table(head, made, "By subgroup")]


def _speed(found: Mapping[str, Any]) -> list[Block]:
    rows = [(stage, number(seconds)) for stage, seconds in found["seconds"].items()]
    text = f"The whole takes {number(found['over_networks'], 2)} times the networks' forward passes (median)."
    return [
        Heading("Time", 3),
        Table(("stage", "median seconds"), rows, f"{found['n']} pictures"),
        Text(text),
    ]


def _robustness(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    labels = sorted({label for row in rows for label in row["truth"]})
    made = [
        (row["condition"], ranged(row["auc"], 2), *(ranged(row["truth"].get(label), 2) for label in labels),
         percent(row["false_accusations"]), percent(row["coverage"]), percent(row["changed"]))
        for row in rows
    ]  # fmt: skip
    head = (
        "condition",
        "AUC",
        *(f"p of the truth, {label}" for label in labels),
        "real accused",
        "decided",
        "verdict changed",
    )
    return [
        Heading("Robustness"),
        Text("What a picture's life does to the verdict; pixels = the same pixels as PNG, without metadata."),
        *[
            Chart(svg, f"Probability of the truth under {kind}")
            for kind, svg in charts.robustness(rows).items()
        ],
        Table(head, made, "Conditions"),
    ]


def _injection(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    made = [
        (row["text"], str(row["n"]), percent(row["flips"]), percent(row["beyond"]),
         f"{row['moved']['text']:.2f} ({row['moved']['control']:.2f})", ranged(row["real_gain"]))
        for row in rows
    ]  # fmt: skip
    head = (
        "text drawn in", "n", "verdicts flipped by reading", "beyond the bound", "median shift, nats (control)",
        "p(real), text less control",
    )  # fmt: skip
    drawn = "; ".join(f"{row['text']}: {' / '.join(row['lines'])}" for row in rows)
    return [
        Heading("Text drawn into pictures"),
        Text(
            "The control is the same plate with the letters of each line shuffled: nothing to read. A verdict "
            "flips by reading where the text changes it and the control does not; a picture is beyond the bound where "
            "the text moves some log-probability by half a nat more than the control does."
        ),
        Table(head, made, "Injection"),
        Text(drawn, "note"),
    ]


def _literature(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not rows:
        return []
    made = [(row["system"], row["set"], row["figures"], row["source"]) for row in rows]
    return [
        Heading("Published figures"),
        Text(
            "As published, on other pictures, and not measured here: they say what others report, not who is better."
        ),
        Table(("system", "pictures", "figures", "source"), made, "From the literature"),
    ]


def _repeat(result: Mapping[str, Any]) -> list[Block]:
    model = result["model"]
    rows = [
        ("suite", f"{result['suite']}: {result['about']}"),
        ("pictures, predictions", f"{result['pictures']}, {result['predictions']}"),
        (
            "seed, bootstrap rounds",
            f"{result['seed']}, {result['bootstrap_rounds']} (families of sources drawn)",
        ),
        ("model", f"{model['name']} {model['version']}"),
        ("weights", str(model["weights_sha256"])),
        ("calibration", str(model.get("calibration_sha256", ""))),
        ("settings", str(model.get("settings_sha256", ""))),
    ]
    return [Heading("To repeat this"), Table(("what", "value"), rows, "Run")]
