"""The verdict card, the evidence table and the smaller cards, as HTML. Every value passes through ``words.escape``."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from vlmforensics.report.text import LIMITS, percent
from vlmforensics.types import LABELS, Evidence, Report
from vlmforensics.ui.words import (
    LABEL_NAMES,
    SUMMARIES,
    TITLES,
    escape,
    favours,
    right_on,
    source_name,
    stage_name,
    weight_for,
)

_TELLING = 0.05
"""Weights below this (nats) are not worth a reason."""

_ICONS = {
    "real": '<circle cx="10.5" cy="10.5" r="6.5"/><path d="m15.5 15.5 5 5"/>',
    "synthetic": '<path d="M12 3v4m0 10v4M3 12h4m10 0h4M6 6l2.5 2.5m7 7L18 18M6 18l2.5-2.5m7-7L18 6"/>',
    "tampered": '<path d="M8 3H4a1 1 0 0 0-1 1v4m13-5h4a1 1 0 0 1 1 1v4"/>'
    '<path d="M3 16v4a1 1 0 0 0 1 1h4m13-5v4a1 1 0 0 1-1 1h-4"/>'
    '<path d="M9 9h6v6H9z" stroke-dasharray="2.4 1.6"/>',
    "inconclusive": '<path d="M9 9a3 3 0 1 1 4.2 2.8c-.8.4-1.2 1-1.2 2v.4"/><path d="M12 17.6v.1"/>'
    '<circle cx="12" cy="12" r="9.5"/>',
}


def verdict_card(report: Report) -> str:
    """The verdict at one glance: words, probabilities, the reasons for and against, what would change it."""
    verdict = report.verdict
    label = verdict.label
    return (
        f'<section class="vf-card vf-verdict vf-{escape(label)}" aria-labelledby="vf-verdict-title">'
        f'<header><span class="vf-mark">{_icon(label)}</span><div>'
        f'<p class="vf-file">{_facts(report)}</p>'
        f'<h2 id="vf-verdict-title">{escape(TITLES[label])}</h2></div></header>'
        f'<p class="vf-summary">{escape(SUMMARIES[label])}</p>'
        f"{_abstention(report)}"
        f"{_probabilities(report)}"
        f"{_reasons(report)}"
        f"{_change(report)}"
        "</section>"
    )


def _icon(label: str) -> str:
    return (
        '<svg viewBox="0 0 24 24" width="28" height="28" fill="none" stroke="currentColor" stroke-width="1.8" '
        f'stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">{_ICONS[label]}</svg>'
    )


def _facts(report: Report) -> str:
    case = report.case
    size = f"{case.width} × {case.height}"
    return f"<strong>{escape(report.file)}</strong> · {escape(case.container.format)} · {size} pixels"


def _probabilities(report: Report) -> str:
    verdict = report.verdict
    rows = []
    for label in LABELS:
        p = verdict.probabilities[label]
        leading = " vf-leading" if label == verdict.leading else ""
        name = escape(LABEL_NAMES[label].capitalize())
        rows.append(
            f'<li class="vf-p vf-{label}{leading}"><span class="vf-p-name">{name}</span>'
            f'<span class="vf-p-bar" aria-hidden="true"><i style="width:{100 * p:.2f}%"></i></span>'
            f'<span class="vf-p-value">{percent(p)}</span></li>'
        )
    note = report.guarantee or "Calibrated on a validation set; they hold for pictures like those."
    bars = f'<ul class="vf-probabilities" aria-label="Probabilities">{"".join(rows)}</ul>'
    return f'{bars}<p class="vf-note">{escape(note)}</p>'


def _abstention(report: Report) -> str:
    reason = report.verdict.abstention
    if reason is None:
        return ""
    leading = report.verdict.leading
    leaning = (
        f"It leans towards “{LABEL_NAMES[leading]}” ({percent(report.verdict.probabilities[leading])}), "
        "which is not enough to say so."
    )
    helps = "".join(f"<li>{escape(item)}</li>" for item in what_would_help(report))
    return (
        f'<div class="vf-why"><h3>Why no verdict</h3><p>{escape(reason)} {escape(leaning)}</p>'
        f"<h3>What would help</h3><ul>{helps}</ul></div>"
    )


def what_would_help(report: Report) -> list[str]:
    """Advice for an inconclusive case, from what this file lacks."""
    case = report.case
    advice = []
    if min(case.width, case.height) < 512:
        advice.append(f"A larger copy: this one has only {case.width} × {case.height} pixels.")
    jpeg = case.container.jpeg
    if jpeg is not None and jpeg.quality is not None and jpeg.quality < 75:
        advice.append(f"A copy that was compressed less: this one was saved at JPEG quality {jpeg.quality}.")
    if not case.container.exif:
        advice.append("The original file from the camera or phone, rather than a copy sent through an app.")
    if report.failures:
        names = ", ".join(source_name(failure.source) for failure in report.failures)
        advice.append(f"A file that every method can read; these broke on this one: {names}.")
    advice.append("An earlier copy, found by a reverse image search, and other pictures of the same scene.")
    return advice


def _reasons(report: Report) -> str:
    label = report.verdict.leading
    ranked = sorted(report.evidence, key=lambda item: weight_for(item, label), reverse=True)
    pro = [item for item in ranked if weight_for(item, label) >= _TELLING][:3]
    contra = [item for item in reversed(ranked) if weight_for(item, label) <= -_TELLING][:2]
    name = LABEL_NAMES[label]
    return (
        '<div class="vf-reasons">'
        f"{_reason_list('vf-pro', f'Speaks for “{name}”', pro, 'Nothing that was measured clearly does.')}"
        f"{_reason_list('vf-contra', 'Speaks against it', contra, 'Nothing that was measured clearly does.')}"
        "</div>"
    )


def _reason_list(kind: str, title: str, items: Sequence[Evidence], nothing: str) -> str:
    sign = "+" if kind == "vf-pro" else "−"
    rows = "".join(
        f'<li><span class="vf-sign" aria-hidden="true">{sign}</span><div>{escape(item.statement)} {_cite(item)}'
        f'<p class="vf-small">{escape(_trust(item))}</p></div></li>'
        for item in items
    )
    body = f"<ul>{rows}</ul>" if items else f'<p class="vf-small">{escape(nothing)}</p>'
    return f'<div class="{kind}"><h3>{escape(title)}</h3>{body}</div>'


def _cite(item: Evidence) -> str:
    name = escape(item.id)
    return f'<a class="vf-cite" href="#evidence-{name}" aria-label="Evidence {name}">{name}</a>'


def _trust(item: Evidence) -> str:
    strength = item.strength[:1].upper() + item.strength[1:]
    if item.reliability is None:
        return f"{strength}; how often this source is right has not been measured"
    return f"{strength}; {right_on(item.reliability)}"


def without(report: Report, evidence_id: str) -> dict[str, float]:
    """The probabilities that fusion would give without one finding: exact, for fusion is additive."""
    odds = {
        label: report.verdict.prior[label]
        + sum(item.contribution[label] for item in report.evidence if item.id != evidence_id)
        for label in LABELS
    }
    top = max(odds.values())
    total = sum(math.exp(value - top) for value in odds.values())
    return {label: math.exp(value - top) / total for label, value in odds.items()}


def _change(report: Report) -> str:
    """What hangs on the single strongest finding."""
    label = report.verdict.leading
    now = report.verdict.probabilities[label]
    shifts = [(abs(without(report, item.id)[label] - now), item) for item in report.evidence]
    if not shifts:
        return ""
    shift, item = max(shifts, key=lambda pair: pair[0])
    if shift < 0.01:
        text = (
            "No single finding decides it: leaving any one out moves the probability by less than one point."
        )
    else:
        then = without(report, item.id)
        stand = f"{percent(then[label])} instead of {percent(now)}"
        text = f"Without {item.id}, “{LABEL_NAMES[label]}” would stand at {stand}."
        best = max(LABELS, key=lambda name: then[name])
        if best != label:
            text += f" “{LABEL_NAMES[best].capitalize()}” would then lead."
    return f'<p class="vf-change"><strong>What would change this.</strong> {escape(text)}</p>'


def welcome(megabytes: int) -> str:
    """What to do first, and what becomes of the picture."""
    return (
        '<div class="vf-welcome"><h2>Examine a picture</h2><p>Drop a file below, choose one, or paste it into the '
        "conversation. Send the original file where you can: every copy loses traces.</p>"
        '<p class="vf-note">JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF or HEIC, up to '
        f"{megabytes} MB. The picture stays on the computer that runs this page, and is forgotten when you leave.</p>"
        "</div>"
    )


def stage_card(file: str, stages: Sequence[str]) -> str:
    """Progress: what is done, what is under way (the last of ``stages``)."""
    done = "".join(f'<li class="vf-done">{escape(stage_name(stage))}</li>' for stage in stages[:-1])
    now = f'<li class="vf-now" aria-current="step">{escape(stage_name(stages[-1]))}…</li>' if stages else ""
    return (
        '<section class="vf-card vf-stage"><h2>Examining</h2>'
        f'<p class="vf-file"><strong>{escape(file)}</strong></p><ol>{done}{now}</ol></section>'
    )


def refused_card(sentence: str) -> str:
    """A picture that could not be examined, and why."""
    return (
        '<section class="vf-card vf-refused" role="alert"><h2>Not examined</h2>'
        f"<p>{escape(sentence)}</p></section>"
    )


def evidence_table(report: Report, shown: Collection[str]) -> str:
    """All findings, sortable; ``shown`` holds the ids that have something to draw on the picture."""
    label = report.verdict.leading
    weights = [weight_for(item, label) for item in report.evidence]
    scale = max([abs(weight) for weight in weights], default=0.0) or 1.0
    rows = "".join(
        _row(item, weight, scale, item.id in shown)
        for item, weight in zip(report.evidence, weights, strict=True)
    )
    heads = (
        ("ID", "id", "number", ""),
        ("Finding", "finding", "text", ""),
        (
            "Strength",
            "strength",
            "number",
            "How strongly the finding alone discriminates, on the verbal scale of ENFSI",
        ),
        ("Speaks for", "favours", "text", ""),
        (
            "Weight",
            "weight",
            "number",
            f"Log-odds in favour of “{LABEL_NAMES[label]}”; with the prior they add up",
        ),
    )
    head = "".join(
        f'<th scope="col" aria-sort="{"ascending" if key == "id" else "none"}"><button type="button" data-sort="{key}" '
        f'data-kind="{kind}" title="{escape(hint)}">{escape(name)}<span class="vf-arrow" aria-hidden="true"></span>'
        "</button></th>"
        for name, key, kind, hint in heads
    )
    return (
        '<section class="vf-card vf-evidence" aria-labelledby="vf-evidence-title">'
        f'<h2 id="vf-evidence-title">Evidence</h2>'
        f'<p class="vf-note">Weight is how far a finding moved the verdict towards (+) or away from (−) '
        f"“{escape(LABEL_NAMES[label])}”. The sum is exact.</p>"
        f'<table><caption class="vf-hidden">Findings, with what they speak for</caption>'
        f'<thead><tr>{head}<th scope="col"><span class="vf-hidden">On the picture</span></th></tr></thead>'
        f"<tbody>{rows}</tbody></table>{_failures(report)}</section>"
    )


def _row(item: Evidence, weight: float, scale: float, drawable: bool) -> str:
    name = escape(item.id)
    towards = favours(item)
    says = LABEL_NAMES[towards] if towards else "neither way"
    button = (
        f'<button type="button" class="vf-show" data-overlay="{name}" aria-label="Show {name} on the picture">'
        "Show</button>"
        if drawable
        else ""
    )
    width = 50 * abs(weight) / scale
    trust = right_on(item.reliability) if item.reliability else "reliability not measured"
    side = "vf-plus" if weight >= 0 else "vf-minus"
    how = "measured" if item.status == "measured" else "observed by the model"
    strongest = max(abs(value) for value in item.llr.values())
    number = item.id[1:] if item.id[1:].isdigit() else "0"
    return (
        f'<tr id="evidence-{name}" tabindex="-1" data-id="{number}" data-finding="{escape(source_name(item.source))}" '
        f'data-strength="{strongest:.6f}" data-favours="{escape(says)}" data-weight="{weight:.6f}">'
        f'<th scope="row" data-label="ID"><span class="vf-cite">{name}</span></th>'
        f'<td data-label="Finding"><strong>{escape(source_name(item.source))}</strong> '
        f'<span class="vf-small">{how}</span><p>{escape(item.statement)}</p>'
        f'<p class="vf-small">{escape(trust)}</p></td>'
        f'<td data-label="Strength">{escape(item.strength)}</td>'
        f'<td data-label="Speaks for"><span class="vf-dot vf-{escape(towards or "none")}" aria-hidden="true"></span>'
        f"{escape(says)}</td>"
        f'<td data-label="Weight" class="vf-weight"><span class="vf-number">{_signed(weight)}</span>'
        f'<span class="vf-diverge" aria-hidden="true"><i class="{side}" style="width:{width:.1f}%"></i></span></td>'
        f'<td class="vf-action">{button}</td></tr>'
    )


def _signed(weight: float) -> str:
    if abs(weight) < 0.005:
        return "0"
    return f"{'+' if weight > 0 else '−'}{abs(weight):.2f}"


def _failures(report: Report) -> str:
    if not report.failures:
        return ""
    rows = "".join(
        f"<li>{escape(source_name(failure.source))}: {escape(failure.message or failure.code)}</li>"
        for failure in report.failures
    )
    return f'<div class="vf-failures"><h3>Could not be measured</h3><ul>{rows}</ul></div>'


def details(report: Report) -> str:
    """Hashes, versions and conversions: what repeating the examination needs."""
    case, model = report.case, report.model
    facts: list[tuple[str, str]] = [
        ("SHA-256 of the file", case.sha256),
        ("Size", f"{len(case.data):,} bytes"),
        ("Model", f"{model.name} {model.version}"),
        ("Weights (SHA-256)", model.weights_sha256),
        ("Calibration (SHA-256)", model.calibration_sha256),
        ("Settings (SHA-256)", model.settings_sha256),
    ]
    if report.verdict.mask_agreement:
        facts.append(("Verdict and region", report.verdict.mask_agreement))
    facts += [("Conversion", note) for note in case.notes]
    seconds = report.timing.get("total") or sum(report.timing.values())
    if seconds:
        facts.append(("Time", f"{seconds:.1f} s"))
    return f'<dl class="vf-facts">{_pairs(facts)}</dl>'


def metadata(report: Report) -> str:
    """What the file says about itself: container, EXIF, IPTC, text chunks, XMP."""
    box = report.case.container
    groups: list[tuple[str, list[tuple[str, str]]]] = [
        (
            "Container",
            [("Format", box.format), ("Colour mode", box.mode), ("Bits per channel", str(box.bit_depth))],
        ),
        ("EXIF", list(box.exif.items())),
        ("IPTC", list(box.iptc.items())),
        ("Text chunks", list(box.text.items())),
        ("XMP", [("Packet", box.xmp)] if box.xmp else []),
    ]
    if box.jpeg is not None:
        quality = str(box.jpeg.quality) if box.jpeg.quality is not None else "no standard tables"
        groups[0][1].extend([("JPEG quality", quality), ("Chroma subsampling", box.jpeg.subsampling)])
    if box.icc:
        groups[0][1].append(("Colour profile", box.icc))
    if box.trailing_bytes:
        groups[0][1].append(("Bytes after the end", f"{box.trailing_bytes:,}"))
    parts = [
        f'<h3>{escape(title)}</h3><dl class="vf-facts">{_pairs(pairs[:200])}</dl>'
        for title, pairs in groups
        if pairs
    ]
    note = '<p class="vf-note">Metadata is trivially forged, and its absence says next to nothing.</p>'
    return note + "".join(parts)


def limits() -> str:
    """What no verdict here can tell."""
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in LIMITS) + "</ul>"


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs if value
    )


def header(status: str, kind: str) -> str:
    """The page's head line with the model's state; ``kind`` is ``loading``, ``ready`` or ``failed``."""
    return (
        '<div class="vf-header"><div><h1>vlmforensics</h1><p>Was this picture made or changed by a machine? '
        "A verdict, and the evidence behind it.</p></div>"
        f'<p class="vf-status vf-status-{escape(kind)}" role="status"><span aria-hidden="true"></span>'
        f"{escape(status)}</p></div>"
    )
