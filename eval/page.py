"""The model card, written from the stored figures: ``docs/model-card.md`` and its reliability diagram."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vlmforensics.types import LABELS

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
HEADLINE_BEGIN, HEADLINE_END = "<!-- headline: begin -->", "<!-- headline: end -->"
NAMES = {
    "equalised": "Unseen sources, equalised (centre square, 448 px, JPEG 90)",
    "raw": "Unseen sources, files as found",
    "augmented-1": "Unseen sources, random recompression chain",
}


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['auc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _share(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    if not row["n"]:
        return "none"
    return f"{row['count']} of {row['n']} = {100 * row['count'] / row['n']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _variant(name: str, table: Mapping[str, Any]) -> list[str]:
    n = table["n"]
    lines = [
        f"### {NAMES[name]}",
        "",
        f"{n['real']} real, {n['synthetic']} synthetic, {n['tampered']} tampered pictures.",
        "",
        "| figure | value |",
        "|---|---|",
        f"| AUC, real against synthetic | {_interval(table['real against synthetic'])} |",
        f"| AUC, real against tampered | {_interval(table['real against tampered'])} |",
        f"| three-label balanced accuracy (no abstention) | {table['balanced_accuracy']:.3f} |",
        f"| expected calibration error | {table['ece']:.3f} |",
        f"| Brier score | {table['brier']:.3f} |",
        f"| Cllr, real against the rest (1 = says nothing) | {table['cllr']:.3f} |",
        f"| real pictures accused | {_share(table['false accusations'])} |",
        f"| decided | {100 * table['coverage']:.1f} % |",
        f"| right where decided | {_share(table['right of decided'])} |",
        "",
        "| truth | real | synthetic | tampered | inconclusive |",
        "|---|---|---|---|---|",
    ]
    for truth, row in table["decisions"].items():
        lines.append(
            f"| {truth} | {row['real']} | {row['synthetic']} | {row['tampered']} | {row['inconclusive']} |"
        )
    return [*lines, ""]


def _made(table: Mapping[str, Any]) -> list[str]:
    n, verdicts = table["pictures"], table["verdicts"]
    said = ", ".join(f"{count} {label}" for label, count in sorted(verdicts.items()))
    return [
        "### Forgeries made in code",
        "",
        f"{n['tampered']} forgeries (self-blends, pastes, copy-move, fills, local re-synthesis, colour edits), each "
        "made from a real picture of a source that no part has seen, then sent through the random chain, against "
        f"{n['real']} untouched pictures: AUC {_interval(table)}. The forgeries are called {said}.",
        "",
    ]


def _editing(table: Mapping[str, Any], variant: str) -> list[str]:
    lines = [
        f"### The editing expert alone: AUC of found forgeries, {variant}",
        "",
        "| against | real | tampered | AUC |",
        "|---|---|---|---|",
    ]
    for name, row in table.items():
        lines.append(f"| {name} | {row['real']} | {row['tampered']} | {_interval(row)} |")
    return [*lines, ""]


def _rivals(rivals: Mapping[str, Any], variant: str, n: Mapping[str, int]) -> list[str]:
    lines = [
        f"### Beside baselines: AUC real against synthetic, {variant}, same pictures, same run",
        "",
        f"{n['real']} real and {n['synthetic']} synthetic pictures: every one that the whole-picture expert scored. "
        "Most were not examined by all witnesses; those that were silent contribute nothing.",
        "",
        "| | AUC | fused verdict | gain, paired, 95 % over families |",
        "|---|---|---|---|",
    ]
    for name, row in rivals.items():
        gain = f"{row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]"
        lines.append(f"| {name} | {row['other']:.3f} | {_interval(row)} | {gain} |")
    return [*lines, ""]


def _ablation(table: Mapping[str, Any], variant: str) -> list[str]:
    whole = table["all"]
    lines = [
        f"### What each source adds: AUC of the fused verdict without it, {variant}",
        "",
        "| without | against synthetic | against tampered |",
        "|---|---|---|",
        f"| nothing | {whole['synthetic']:.3f} | {whole['tampered']:.3f} |",
    ]
    for name, row in table.items():
        if name != "all":
            lines.append(f"| `{name}` | {row['synthetic']:.3f} | {row['tampered']:.3f} |")
    return [*lines, ""]


def _sources(rows: Sequence[Mapping[str, Any]], variant: str) -> list[str]:
    lines = [
        f"### By source, {variant}",
        "",
        "| label | source | n | mean probability of the truth | right | inconclusive | wrong |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        chance = row["mean probability of the truth"]
        lines.append(
            f"| {row['label']} | {row['source']} | {row['n']} | {chance:.2f} | "
            f"{row['right']} | {row['inconclusive']} | {row['wrong']} |"
        )
    return [*lines, ""]


def draw_reliability(result: Mapping[str, Any], file: Path) -> None:
    """Reliability diagram: stated confidence against the share that is right, per variant."""
    figure = Figure(figsize=(5.2, 4.6), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0.3, 1], [0.3, 1], color="#888888", linewidth=1, label="perfectly calibrated")
    for (name, table), marker in zip(result["variants"].items(), "os^", strict=False):
        bins = table["reliability"]
        axes.plot(
            [b["confidence"] for b in bins],
            [b["accuracy"] for b in bins],
            marker=marker,
            label=name,
            linewidth=1.2,
        )
    axes.set_xlabel("probability of the most probable label")
    axes.set_ylabel("share of pictures where it is the truth")
    axes.set_xlim(0.3, 1)
    axes.set_ylim(0.2, 1.02)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Software": None})


def render(result: Mapping[str, Any]) -> str:
    """The card's tables as Markdown."""
    lines: list[str] = []
    for name, table in result["variants"].items():
        lines += _variant(name, table)
    if "made" in result:
        lines += _made(result["made"])
    lines += ["![Reliability diagram](img/reliability.png)", ""]
    lines += _rivals(result["rivals"], result["variant of comparisons"], result["pictures of comparisons"])
    if result.get("editing"):
        lines += _editing(result["editing"], result["variant of comparisons"])
    lines += _ablation(result["ablation"], result["variant of ablation"])
    for name, table in result["variants"].items():
        lines += _sources(table["sources"], name)
    return "\n".join(lines)


def headline(result: Mapping[str, Any]) -> str:
    """The README's table: a column for each variant, rivals beside it."""
    names = [name for name in NAMES if name in result["variants"]]
    tables = [result["variants"][name] for name in names]
    probe, svm = (result["rivals"][name]["other"] for name in ("linear probe", "RBF-SVM"))
    figures: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "pictures: real / synthetic / tampered": lambda t: " / ".join(
            f"{t['n'][label]:,}" for label in LABELS
        ),
        "AUC, real against synthetic": lambda t: _interval(t["real against synthetic"]),
        "AUC, real against tampered": lambda t: _interval(t["real against tampered"]),
        "three-label balanced accuracy (no abstention)": lambda t: f"{t['balanced_accuracy']:.3f}",
        "expected calibration error": lambda t: f"{t['ece']:.3f}",
        "real pictures accused": lambda t: _share(t["false accusations"]),
        "decided": lambda t: f"{100 * t['coverage']:.1f} %",
        "right where decided": lambda t: _share(t["right of decided"]),
    }
    lines = [
        f"| on pictures of unseen sources | {' | '.join(map(_chain, names))} |",
        "|---" * (1 + len(names)) + "|",
        *(f"| {what} | {' | '.join(map(read, tables))} |" for what, read in figures.items()),
        "",
        f"For comparison, {_chain(result['variant of comparisons'])}, real against synthetic: a linear probe on the "
        f"bare tower has an AUC of {probe:.3f}, an RBF-SVM {svm:.3f}.",
    ]
    return "\n".join(lines) + "\n"


def _chain(variant: str) -> str:
    return NAMES[variant].split(", ", 1)[1]


def _put(file: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two markers; the text around them is written by hand."""
    before, _, rest = file.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    file.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")


def write_card(figures: Path, docs: Path) -> None:
    """Put the tables into ``model-card.md`` and the headline into the README beside the folder of docs."""
    result = json.loads(figures.read_text(encoding="utf-8"))
    _put(docs / "model-card.md", BEGIN, END, render(result))
    _put(docs.parent / "README.md", HEADLINE_BEGIN, HEADLINE_END, headline(result))
    draw_reliability(result, docs / "img" / "reliability.png")
