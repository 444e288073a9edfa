"""The verdict card and the smaller cards, as HTML. Every value passes through ``words.escape``."""

from __future__ import annotations

from collections.abc import Sequence

from vlmforensics.explain import Balance, balance, strength_told, without
from vlmforensics.report.text import LIMITS, percent
from vlmforensics.types import LABELS, Evidence, Report
from vlmforensics.ui.language import ENGLISH, Words
from vlmforensics.ui.words import (
    LABEL_NAMES,
    SUMMARIES,
    TITLES,
    escape,
    right_on,
    source_name,
    stage_name,
    strength,
)

_ICONS = {
    "real": '<circle cx="10.5" cy="10.5" r="6.5"/><path d="m15.5 15.5 5 5"/>',
    "synthetic": '<path d="M12 3v4m0 10v4M3 12h4m10 0h4M6 6l2.5 2.5m7 7L18 18M6 18l2.5-2.5m7-7L18 6"/>',
    "tampered": '<path d="M8 3H4a1 1 0 0 0-1 1v4m13-5h4a1 1 0 0 1 1 1v4"/>'
    '<path d="M3 16v4a1 1 0 0 0 1 1h4m13-5v4a1 1 0 0 1-1 1h-4"/>'
    '<path d="M9 9h6v6H9z" stroke-dasharray="2.4 1.6"/>',
    "inconclusive": '<path d="M9 9a3 3 0 1 1 4.2 2.8c-.8.4-1.2 1-1.2 2v.4"/><path d="M12 17.6v.1"/>'
    '<circle cx="12" cy="12" r="9.5"/>',
}


def verdict_card(report: Report, t: Words = ENGLISH) -> str:
    """The verdict at one glance: words, probabilities, the reasons for and against, what would change it."""
    verdict = report.verdict
    label = verdict.label
    return (
        f'<section class="vf-card vf-verdict vf-{escape(label)}" aria-labelledby="vf-verdict-title">'
        f'<header><span class="vf-mark">{_icon(label)}</span><div>'
        f'<p class="vf-file">{_facts(report, t)}</p>'
        f'<h2 id="vf-verdict-title">{escape(t(TITLES[label]))}</h2></div></header>'
        f'<p class="vf-summary">{escape(t(SUMMARIES[label]))}</p>'
        f"{_abstention(report, t)}"
        f"{_probabilities(report, t)}"
        f"{_reasons(report, t)}"
        f"{_change(report, t)}"
        "</section>"
    )


def _icon(label: str) -> str:
    return (
        '<svg viewBox="0 0 24 24" width="28" height="28" fill="none" stroke="currentColor" stroke-width="1.8" '
        f'stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">{_ICONS[label]}</svg>'
    )


def _facts(report: Report, t: Words) -> str:
    case = report.case
    size = t("{width} × {height} pixels", width=case.width, height=case.height)
    return f"<strong>{escape(report.file)}</strong> · {escape(case.container.format)} · {size}"


def _probabilities(report: Report, t: Words) -> str:
    """Three bars, each with the band in which its label would be ruled out."""
    verdict = report.verdict
    rows = []
    for label in LABELS:
        p, bound = verdict.probabilities[label], verdict.ruled_out_below.get(label, 0.0)
        leading = " vf-leading" if label == verdict.leading else ""
        name = escape(t(LABEL_NAMES[label]).capitalize())
        state = _state(p, bound, t)
        band = f'<b style="width:{100 * bound:.2f}%"></b>' if bound >= 0.005 else ""
        rows.append(
            f'<li class="vf-p vf-{label}{leading}"><span class="vf-p-name">{name}</span>'
            f'<span class="vf-p-bar" aria-hidden="true">{band}<i style="width:{100 * p:.2f}%"></i></span>'
            f'<span class="vf-p-value">{percent(p)}</span><span class="vf-p-state">{state}</span></li>'
        )
    bars = f'<ul class="vf-probabilities" aria-label="{escape(t("Probabilities"))}">{"".join(rows)}</ul>'
    known = any(verdict.ruled_out_below.values())
    how = t(
        "Hatched: a bar that ends there is ruled out. The one label left is the verdict, or the likelier of two that "
        "both speak of manipulation, where they differ clearly; anything else is inconclusive."
    )
    band_note = f'<p class="vf-note vf-band-note">{escape(how)}</p>' if known else ""
    note = report.guarantee or t("Calibrated on a validation set; they hold for pictures like those.")
    lang = ' lang="en"' if report.guarantee else ""
    return f'{bars}{band_note}<p class="vf-note"{lang}>{escape(note)}</p>'


def _state(p: float, bound: float, t: Words) -> str:
    """In words what the band shows."""
    if bound < 0.005:
        return ""
    if p <= bound:
        return escape(t("ruled out"))
    return escape(t("possible; ruled out below {bound}", bound=percent(bound)))


def _abstention(report: Report, t: Words) -> str:
    reason = report.verdict.abstention
    if reason is None:
        return ""
    leading = report.verdict.leading
    leaning = t(
        "It leans towards “{label}” ({share}), which is not enough to say so.",
        label=t(LABEL_NAMES[leading]),
        share=percent(report.verdict.probabilities[leading]),
    )
    helps = "".join(f"<li>{escape(item)}</li>" for item in what_would_help(report, t))
    return (
        f'<div class="vf-why"><h3>{escape(t("Why no verdict"))}</h3><p><span lang="en">{escape(reason)}</span> '
        f"{escape(leaning)}</p>"
        f"<h3>{escape(t('What would help'))}</h3><ul>{helps}</ul></div>"
    )


def what_would_help(report: Report, t: Words = ENGLISH) -> list[str]:
    """Advice for an inconclusive case, from what this file lacks."""
    case = report.case
    advice = []
    if min(case.width, case.height) < 512:
        advice.append(
            t(
                "A larger copy: this one has only {width} × {height} pixels.",
                width=case.width,
                height=case.height,
            )
        )
    jpeg = case.container.jpeg
    if jpeg is not None and jpeg.quality is not None and jpeg.quality < 75:
        advice.append(
            t(
                "A copy that was compressed less: this one was saved at JPEG quality {quality}.",
                quality=jpeg.quality,
            )
        )
    if not case.container.exif:
        advice.append(
            t("The original file from the camera or phone, rather than a copy sent through an app.")
        )
    if report.failures:
        names = ", ".join(source_name(failure.source, t) for failure in report.failures)
        advice.append(t("A file that every method can read; these broke on this one: {names}.", names=names))
    advice.append(
        t("An earlier copy, found by a reverse image search, and other pictures of the same scene.")
    )
    return advice


def _reasons(report: Report, t: Words) -> str:
    parts = balance(report)
    speaks = t("Speaks for “{label}”", label=t(LABEL_NAMES[parts.label]))
    pro = _reason_list("vf-pro", speaks, parts.pros[:3], parts, t)
    contra = _reason_list("vf-contra", t("Speaks against it"), parts.cons[:2], parts, t)
    return f'<div class="vf-reasons">{pro}{contra}</div>'


def _reason_list(kind: str, title: str, items: Sequence[Evidence], parts: Balance, t: Words) -> str:
    sign = "+" if kind == "vf-pro" else "−"
    rows = "".join(
        f'<li><span class="vf-sign" aria-hidden="true">{sign}</span><div><span lang="en">{escape(item.statement)}'
        f'</span> {_cite(item, t)}<p class="vf-small">{escape(_trust(item, parts, t))}</p></div></li>'
        for item in items
    )
    nothing = t("Nothing that was measured clearly does.")
    body = f"<ul>{rows}</ul>" if items else f'<p class="vf-small">{escape(nothing)}</p>'
    return f'<div class="{kind}"><h3>{escape(title)}</h3>{body}</div>'


def _cite(item: Evidence, t: Words) -> str:
    name = escape(item.id)
    label = escape(t("Evidence {name}", name=item.id))
    return f'<a class="vf-cite" href="#evidence-{name}" aria-label="{label}">{name}</a>'


def _trust(item: Evidence, parts: Balance, t: Words) -> str:
    said = strength(strength_told(item, parts), t)
    said = said[:1].upper() + said[1:]
    if item.reliability is None:
        return f"{said}; {t('how often this source is right has not been measured')}"
    return f"{said}; {right_on(item.reliability, t)}"


def _change(report: Report, t: Words) -> str:
    """What hangs on the single strongest finding."""
    label = report.verdict.leading
    now = report.verdict.probabilities[label]
    shifts = [(abs(without(report, [item])[label] - now), item) for item in report.evidence]
    if not shifts:
        return ""
    shift, item = max(shifts, key=lambda pair: pair[0])
    if shift < 0.01:
        text = t(
            "No single finding decides it: leaving any one out moves the probability by less than one point."
        )
    else:
        then = without(report, [item])
        text = t(
            "Without {name}, “{label}” would stand at {then} instead of {now}.",
            name=item.id,
            label=t(LABEL_NAMES[label]),
            then=percent(then[label]),
            now=percent(now),
        )
        best = max(LABELS, key=lambda name: then[name])
        if best != label:
            text += " " + t("“{label}” would then lead.", label=t(LABEL_NAMES[best]).capitalize())
    return f'<p class="vf-change"><strong>{escape(t("What would change this."))}</strong> {escape(text)}</p>'


def welcome(megabytes: int, t: Words = ENGLISH) -> str:
    """What to do first, and what becomes of the picture."""
    first = t(
        "Drop a file below, choose one, or paste it into the conversation. Send the original file where you can: "
        "every copy loses traces."
    )
    then = t(
        "JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF or HEIC, up to {megabytes} MB. The picture stays on the computer that "
        "runs this page, and is forgotten when you leave.",
        megabytes=megabytes,
    )
    return (
        f'<div class="vf-welcome"><h2>{escape(t("Examine a picture"))}</h2><p>{escape(first)}</p>'
        f'<p class="vf-note">{escape(then)}</p></div>'
    )


def stage_card(file: str, stages: Sequence[str], t: Words = ENGLISH) -> str:
    """Progress: what is done, what is under way (the last of ``stages``)."""
    done = "".join(f'<li class="vf-done">{escape(stage_name(stage, t))}</li>' for stage in stages[:-1])
    now = ""
    if stages:
        now = f'<li class="vf-now" aria-current="step">{escape(stage_name(stages[-1], t))}…</li>'
    return (
        f'<section class="vf-card vf-stage"><h2>{escape(t("Examining"))}</h2>'
        f'<p class="vf-file"><strong>{escape(file)}</strong></p><ol>{done}{now}</ol></section>'
    )


def refused_card(sentence: str, t: Words = ENGLISH) -> str:
    """A picture that could not be examined, and why."""
    return (
        f'<section class="vf-card vf-refused" role="alert"><h2>{escape(t("Not examined"))}</h2>'
        f"<p>{escape(sentence)}</p></section>"
    )


def limits(t: Words = ENGLISH) -> str:
    """What no verdict here can tell."""
    return "<ul>" + "".join(f"<li>{escape(t(item))}</li>" for item in LIMITS) + "</ul>"


def header(status: str, kind: str, t: Words = ENGLISH) -> str:
    """The page's head line with the model's state; ``kind`` is ``loading``, ``ready`` or ``failed``."""
    claim = t("Was this picture made or changed by a machine? A verdict, and the evidence behind it.")
    return (
        f'<div class="vf-header" data-lang="{escape(t.code)}"><div><h1>vlmforensics</h1><p>{escape(claim)}</p></div>'
        f'<p class="vf-status vf-status-{escape(kind)}" role="status"><span aria-hidden="true"></span>'
        f"{escape(status)}</p></div>"
    )
