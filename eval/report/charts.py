"""Charts as SVG, told apart by marker and dash as well as colour; drawn small, so that a phone shows them whole."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from scipy.stats import norm

from vlmforensics.eval.conditions import GRID

# Okabe and Ito 2008: told apart by every common kind of colour vision
COLOURS = {"real": "#0072B2", "synthetic": "#E69F00", "tampered": "#CC79A7", "fake": "#D55E00"}
MARKERS = {"real": "o", "synthetic": "s", "tampered": "^", "fake": "D"}
DASHES = {"real": "-", "synthetic": "--", "tampered": ":", "fake": "-."}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vlmforensics",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def _canvas(width: float = 4.6, height: float = 3.7) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    return figure, axes


def _svg(figure: Figure) -> str:
    figure.tight_layout()
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = out.getvalue()
    return text[text.index("<svg") :]


def reliability(bins: Sequence[Mapping[str, Any]]) -> str:
    """Stated probability against the share that was right."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas()
        axes.plot([0.3, 1], [0.3, 1], color="#777777", linewidth=1, label="as stated")
        axes.plot(
            [b["confidence"] for b in bins],
            [b["accuracy"] for b in bins],
            "o-",
            color=COLOURS["real"],
            label="measured",
        )
        axes.set(
            xlabel="probability of the most probable label",
            ylabel="share that was right",
            xlim=(0.3, 1),
            ylim=(0, 1.02),
        )
        axes.legend(frameon=False, loc="upper left")
        return _svg(figure)


def roc(curves: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """True against false positives, real against each label."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas()
        axes.plot([0, 1], [0, 1], color="#777777", linewidth=1, label="chance")
        for label, points in curves.items():
            axes.plot(
                [p[0] for p in points],
                [p[1] for p in points],
                DASHES[label],
                color=COLOURS[label],
                label=f"real against {label}",
            )
        axes.set(
            xlabel="real pictures accused", ylabel="manipulated pictures found", xlim=(0, 1), ylim=(0, 1.01)
        )
        axes.legend(frameon=False, loc="lower right")
        return _svg(figure)


def det(curves: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Misses against false alarms on probit axes: straight lines for Gaussian scores."""
    ticks = (0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas()
        for label, points in curves.items():
            axes.plot(
                [p[0] for p in points],
                [p[1] for p in points],
                DASHES[label],
                color=COLOURS[label],
                label=f"real against {label}",
            )
        places, names = [float(norm.ppf(t)) for t in ticks], [f"{100 * t:g}" for t in ticks]
        axes.set(xlabel="false alarms, %", ylabel="misses, %", xlim=(-2.4, 1.8), ylim=(-2.4, 1.8))
        axes.set_xticks(places, names)
        axes.set_yticks(places, names)
        axes.legend(frameon=False, loc="upper right")
        return _svg(figure)


def risk_coverage(
    curve: Sequence[Sequence[float]], *, coverage: float | None, risk: float | None, aim: tuple[float, float]
) -> str:
    """Error rate among the decided as coverage grows, with the setting in use and the aim."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas()
        axes.plot(
            [p[0] for p in curve],
            [p[1] for p in curve],
            color=COLOURS["real"],
            label="most probable label, by confidence",
        )
        axes.plot([aim[0], 1], [aim[1]] * 2, color="#777777", linestyle="--", linewidth=1)
        axes.plot(
            [aim[0]] * 2,
            [0, aim[1]],
            color="#777777",
            linestyle="--",
            linewidth=1,
            label="aim: below and right of this",
        )
        if coverage is not None and risk is not None:
            axes.plot([coverage], [risk], "D", color=COLOURS["fake"], label="verdicts as given")
        axes.set(
            xlabel="share of pictures decided",
            ylabel="share of these that is wrong",
            xlim=(0, 1.01),
            ylim=(0, 1.01),
        )
        axes.legend(frameon=False, loc="upper right")
        return _svg(figure)


def robustness(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """One chart a kind of distortion: mean probability of the truth by label over the levels, with intervals."""
    plain = next((row for row in rows if row["condition"] == "pixels"), None)
    kinds: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for row in rows:
        kind, dash, level = row["condition"].partition("-")
        if dash and kind in GRID:
            kinds.setdefault(kind, []).append((float(level), row))
    found = {}
    for kind, levels in kinds.items():
        levels.sort(key=lambda pair: pair[0])
        with mpl.rc_context(_STYLE):
            figure, axes = _canvas(3.6, 2.8)
            places = list(range(len(levels) + (plain is not None)))
            shown = ([plain] if plain is not None else []) + [row for _, row in levels]
            names = (["none"] if plain is not None else []) + [f"{level:g}" for level, _ in levels]
            for label in COLOURS:
                points = [
                    (x, row["truth"][label])
                    for x, row in zip(places, shown, strict=True)
                    if label in row["truth"]
                ]
                points = [(x, t) for x, t in points if t["value"] is not None]
                if not points:
                    continue
                spread = [
                    [max(0.0, t["value"] - t["low"]) for _, t in points],
                    [max(0.0, t["high"] - t["value"]) for _, t in points],
                ]
                axes.errorbar(
                    [x for x, _ in points], [t["value"] for _, t in points], yerr=spread, capsize=2,
                    fmt=MARKERS[label] + DASHES[label], color=COLOURS[label], label=label, markersize=4, linewidth=1.2,
                )  # fmt: skip
            axes.set(ylim=(0, 1), ylabel="probability of the truth", xlabel=kind)
            axes.set_xticks(places, names)
            axes.legend(frameon=False, fontsize=8)
            found[kind] = _svg(figure)
    return found
