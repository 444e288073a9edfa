"""The picture's viewer, the evidence table and what the file says, as HTML; escaped like the cards."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from vlmforensics.explain import Balance, balance, speaks_for, strength_told
from vlmforensics.types import Evidence, Report
from vlmforensics.ui import views
from vlmforensics.ui.language import ENGLISH, Words
from vlmforensics.ui.words import LABEL_NAMES, escape, right_on, source_name, strength


def viewer(
    report: Report,
    case_id: str,
    asked: Sequence[views.Asked] = (),
    chosen: Collection[str] = (),
    t: Words = ENGLISH,
) -> str:
    """The picture with its layers; ``static/viewer.js`` brings it to life.

    Args:
        report: whose picture.
        case_id: under which the server shows its layers.
        asked: regions that the visitor asked about.
        chosen: keys of the layers to show first.
        t: language.
    """
    case = report.case
    size = t("{width} × {height} pixels", width=case.width, height=case.height)
    plain = f"{t('The picture as received, nothing drawn.')} {size}."
    switches = "".join(
        f'<label class="vf-layer"><input type="checkbox" data-layer="{escape(layer.key)}" '
        f'data-caption="{escape(layer.caption)}"{" checked" if layer.key in chosen else ""}> '
        f"{escape(layer.name)}</label>"
        for layer in views.layers(report, asked, t)
    )
    shown = (
        f'<fieldset class="vf-layers"><legend>{escape(t("Show on the picture"))}</legend>{switches}</fieldset>'
        if switches
        else f'<p class="vf-small">{escape(t("No finding has a place on this picture."))}</p>'
    )
    help_ = t("Picture. Arrow keys move it when zoomed in, + and − zoom, 0 shows the whole.")
    return (
        f'<section class="vf-card vf-viewer" aria-label="{escape(t("The picture and what was found on it"))}" '
        f'data-case="{escape(case_id)}" data-file="{escape(report.file)}" data-plain="{escape(plain)}" '
        f'data-width="{case.width}" data-height="{case.height}">'
        f'<div class="vf-frame" tabindex="0" role="group" aria-label="{escape(help_)}"><div class="vf-sheet">'
        '<img class="vf-whole" alt="" draggable="false"><img class="vf-piece" alt="" draggable="false" hidden>'
        '<img class="vf-marks" alt="" draggable="false" hidden><i class="vf-rubber" hidden></i></div>'
        '<i class="vf-line" hidden></i></div>'
        f'<p class="vf-caption" role="status">{escape(plain)}</p>{shown}'
        f'<div class="vf-tools">{_slider("opacity", t("Opacity of the marks"), 100)}'
        f"{_slider('split', t('Before and after'), 0)}{_slider('zoom', t('Zoom'), 0)}"
        f'<output class="vf-scale">100 %</output></div>'
        f'<div class="vf-tools">{_button("fit", t("Whole picture"))}{_button("pixels", t("Pixels"))}'
        f"{_button('full', t('Full screen'))}"
        f'<button type="button" class="vf-tool vf-tool-main" data-act="ask" aria-pressed="false">'
        f"{escape(t('Ask about a region'))}</button></div>{_region_form(report, t)}</section>"
    )


def _slider(tool: str, label: str, value: int) -> str:
    return (
        f'<label class="vf-slider"><span>{escape(label)}</span>'
        f'<input type="range" min="0" max="100" value="{value}" data-tool="{tool}"></label>'
    )


def _button(act: str, label: str) -> str:
    return f'<button type="button" class="vf-tool" data-act="{act}">{escape(label)}</button>'


def _region_form(report: Report, t: Words) -> str:
    case = report.case
    bounds = (("x0", t("left"), case.width), ("y0", t("top"), case.height), ("x1", t("right"), case.width),
              ("y1", t("bottom"), case.height))  # fmt: skip
    fields = "".join(
        f'<label>{escape(label)} <input type="number" name="{name}" min="0" max="{most}" step="1" value="0" required>'
        "</label>"
        for name, label, most in bounds
    )
    how = t("Draw a box on the picture, click on a spot, or type the corners in pixels.")
    return (
        f'<form class="vf-region" hidden><p class="vf-small">{escape(how)}</p><div class="vf-corners">{fields}</div>'
        f"<label>{escape(t('Question (may be left empty)'))} "
        f'<input type="text" name="question" maxlength="500" autocomplete="off"></label><div class="vf-tools">'
        f'<button type="submit" class="vf-tool vf-tool-main">{escape(t("Examine this region"))}</button>'
        f"{_button('cancel', t('Cancel'))}</div></form>"
    )


def evidence_table(report: Report, shown: Collection[str], case_id: str = "", t: Words = ENGLISH) -> str:
    """All findings, sortable and to be filtered; ``shown`` holds the ids that have something to draw."""
    parts = balance(report)
    label = parts.label
    weights = [item.contribution[label] for item in report.evidence]
    scale = max([abs(weight) for weight in weights], default=0.0) or 1.0
    first = views.first_choice(report)
    rows = "".join(
        _row(item, parts, weight, scale, item.id in shown, item.id in first, t)
        for item, weight in zip(report.evidence, weights, strict=True)
    )
    name = t(LABEL_NAMES[label])
    heads = (
        ("ID", "id", "number", ""),
        (t("Finding"), "finding", "text", ""),
        (t("Strength"), "strength", "number",
         t("How strongly the finding alone discriminates, on the verbal scale of ENFSI")),
        (t("Speaks"), "favours", "text", ""),
        (t("Weight"), "weight", "number",
         t("Log-odds in favour of “{label}”; with the prior they add up", label=name)),
    )  # fmt: skip
    head = "".join(
        f'<th scope="col" aria-sort="{"ascending" if key == "id" else "none"}"><button type="button" data-sort="{key}" '
        f'data-kind="{kind}" title="{escape(hint)}">{escape(title)}<span class="vf-arrow" aria-hidden="true"></span>'
        "</button></th>"
        for title, key, kind, hint in heads
    )
    note = t(
        "Weight is what a finding adds to the log-odds of “{label}”; another outcome may gain more by it. The sum is "
        "exact.",
        label=name,
    )
    return (
        f'<section class="vf-card vf-evidence" aria-labelledby="vf-evidence-title" data-case="{escape(case_id)}">'
        f'<h2 id="vf-evidence-title">{escape(t("Evidence"))}</h2><p class="vf-note">{escape(note)}</p>'
        f"{_filter(t)}"
        f'<table class="vf-table" id="vf-evidence-rows"><caption class="vf-hidden">'
        f"{escape(t('Findings, with what they speak for'))}</caption>"
        f'<thead><tr>{head}<th scope="col"><span class="vf-hidden">{escape(t("On the picture"))}</span></th></tr>'
        f"</thead><tbody>{rows}</tbody></table>"
        f'<p class="vf-none" hidden>{escape(t("No finding matches the filter."))}</p>{_failures(report, t)}</section>'
    )


def _filter(t: Words) -> str:
    options = "".join(
        f'<option value="{value}">{escape(name)}</option>'
        for value, name in (
            ("", t("all findings")),
            ("told", t("that moved the verdict")),
            ("real", t("for “{label}”", label=t(LABEL_NAMES["real"]))),
            ("synthetic", t("for “{label}”", label=t(LABEL_NAMES["synthetic"]))),
            ("tampered", t("for “{label}”", label=t(LABEL_NAMES["tampered"]))),
            ("placed", t("with a place on the picture")),
            ("observed", t("observed by the model")),
        )
    )
    return (
        f'<div class="vf-filter"><label>{escape(t("Filter"))} <input type="search" data-filter="text" '
        f'aria-controls="vf-evidence-rows" placeholder="{escape(t("a word, e.g. noise"))}"></label>'
        f"<label>{escape(t('Show'))} "
        f'<select data-filter="kind" aria-controls="vf-evidence-rows">{options}</select></label>'
        '<span class="vf-small" data-filter="count" role="status"></span></div>'
    )


def _row(
    item: Evidence, parts: Balance, weight: float, scale: float, drawable: bool, on: bool, t: Words
) -> str:
    name = escape(item.id)
    found, towards = parts.direction(item), speaks_for(item)
    label_name = t(LABEL_NAMES[found.label]) if found else ""
    if found is None:
        says, dot = t("neither way"), "none"
    elif found.sign > 0:
        says, dot = t("for “{label}”", label=label_name), found.label
    else:
        says, dot = t("against “{label}”", label=label_name), "none"
    label = escape(t("Show {name} on the picture", name=item.id))
    button = (
        f'<button type="button" class="vf-show" data-overlay="{name}" aria-label="{label}" '
        f'aria-pressed="{"true" if on else "false"}">{escape(t("Show"))}</button>'
        if drawable
        else ""
    )
    width = 50 * abs(weight) / scale
    trust = right_on(item.reliability, t) if item.reliability else t("reliability not measured")
    side = "vf-plus" if weight >= 0 else "vf-minus"
    how = t("measured") if item.status == "measured" else t("observed by the model")
    strongest = max(abs(value) for value in item.llr.values())
    number = item.id[1:] if item.id[1:].isdigit() else "0"
    source = escape(source_name(item.source, t))
    heads = {key: escape(t(key)) for key in ("Finding", "Strength", "Speaks", "Weight")}
    return (
        f'<tr id="evidence-{name}" tabindex="-1" data-id="{number}" data-finding="{source}" '
        f'data-strength="{strongest:.6f}" data-favours="{escape(says)}" data-weight="{weight:.6f}" '
        f'data-for="{escape(towards or "")}" data-placed="{int(drawable)}" data-status="{escape(item.status)}">'
        f'<th scope="row" data-label="ID"><span class="vf-cite">{name}</span></th>'
        f'<td data-label="{heads["Finding"]}"><strong>{source}</strong> '
        f'<span class="vf-small">{escape(how)}</span><p lang="en">{escape(item.statement)}</p>'
        f'<p class="vf-small">{escape(trust)}</p></td>'
        f'<td data-label="{heads["Strength"]}" data-said>{escape(strength(strength_told(item, parts), t))}</td>'
        f'<td data-label="{heads["Speaks"]}" data-said class="vf-says">'
        f'<span class="vf-dot vf-{escape(dot)}" aria-hidden="true"></span>{escape(says)}</td>'
        f'<td data-label="{heads["Weight"]}" data-said class="vf-weight">'
        f'<span class="vf-number">{signed(weight)}</span>'
        f'<span class="vf-diverge" aria-hidden="true"><i class="{side}" style="width:{width:.1f}%"></i></span></td>'
        f'<td class="vf-action">{button}</td></tr>'
    )


def signed(weight: float) -> str:
    """``+0.31``, ``−1.20`` or ``0``."""
    if abs(weight) < 0.005:
        return "0"
    return f"{'+' if weight > 0 else '−'}{abs(weight):.2f}"


def _failures(report: Report, t: Words) -> str:
    if not report.failures:
        return ""
    rows = "".join(
        f'<li>{escape(source_name(failure.source, t))}: <span lang="en">{escape(failure.message or failure.code)}'
        "</span></li>"
        for failure in report.failures
    )
    title = escape(t("Could not be measured"))
    return f'<div class="vf-failures"><h3>{title}</h3><ul>{rows}</ul></div>'


def details(report: Report, t: Words = ENGLISH) -> str:
    """Hashes, versions and conversions: what repeating the examination needs."""
    case, model = report.case, report.model
    facts: list[tuple[str, str]] = [
        (t("SHA-256 of the file"), case.sha256),
        (t("Size"), f"{len(case.data):,} bytes"),
        (t("Model"), f"{model.name} {model.version}"),
        (t("Weights (SHA-256)"), model.weights_sha256),
        (t("Calibration (SHA-256)"), model.calibration_sha256),
        (t("Settings (SHA-256)"), model.settings_sha256),
        (t("Bound on accused real pictures (α)"), f"{100 * report.verdict.alpha:.3g} %"),
    ]
    if report.verdict.mask_agreement:
        facts.append((t("Verdict and region"), report.verdict.mask_agreement))
    facts += [(t("Conversion"), note) for note in case.notes]
    seconds = report.timing.get("total") or sum(report.timing.values())
    if seconds:
        facts.append((t("Time"), f"{seconds:.1f} s"))
    return _list(facts)


def metadata(report: Report, t: Words = ENGLISH) -> str:
    """What the file says about itself: container, EXIF, IPTC, text chunks, XMP."""
    box = report.case.container
    groups: list[tuple[str, list[tuple[str, str]]]] = [
        (
            t("Container"),
            [(t("Format"), box.format), (t("Colour mode"), box.mode), (t("Bits per channel"), str(box.bit_depth))],
        ),
        ("EXIF", list(box.exif.items())),
        ("IPTC", list(box.iptc.items())),
        (t("Text chunks"), list(box.text.items())),
        ("XMP", [(t("Packet"), box.xmp)] if box.xmp else []),
    ]  # fmt: skip
    if box.jpeg is not None:
        quality = str(box.jpeg.quality) if box.jpeg.quality is not None else t("no standard tables")
        groups[0][1].extend([(t("JPEG quality"), quality), (t("Chroma subsampling"), box.jpeg.subsampling)])
    if box.icc:
        groups[0][1].append((t("Colour profile"), box.icc))
    if box.trailing_bytes:
        groups[0][1].append((t("Bytes after the end"), f"{box.trailing_bytes:,}"))
    parts = [f"<h3>{escape(title)}</h3>{_list(pairs[:200])}" for title, pairs in groups if pairs]
    note = t("Metadata is trivially forged, and its absence says next to nothing.")
    return f'<p class="vf-note">{escape(note)}</p>' + "".join(parts)


def credentials(report: Report, t: Words = ENGLISH) -> str:
    """What a C2PA manifest says, as far as it was found."""
    found = next((item for item in report.evidence if item.source == "c2pa"), None)
    if found is None:
        text = t(
            "The file carries no C2PA manifest. Most files do not, and sharing removes them: that says nothing."
        )
        return f"<p>{escape(text)}</p>"
    kinds = found.recompute.get("source_types") or ()
    facts = [
        (t("State"), str(found.recompute.get("state", ""))),
        (t("Declared source"), ", ".join(str(kind) for kind in kinds)),
    ]
    note = t("A valid signature proves who signed, not that the picture is true.")
    return f'<p lang="en">{escape(found.statement)} {_id(found)}</p>{_list(facts)}<p class="vf-note">{escape(note)}</p>'


_GENERATOR_KEYS = ("parameters", "prompt", "workflow", "comment", "description", "software", "title", "dream",
                   "usercomment", "sd-metadata", "invokeai")  # fmt: skip


def generation(report: Report, t: Words = ENGLISH) -> str:
    """Generation parameters: what was recognised, and the text fields in which generators write them."""
    found = next((item for item in report.evidence if item.source == "generation_parameters"), None)
    head = f'<p lang="en">{escape(found.statement)} {_id(found)}</p>' if found is not None else ""
    box = report.case.container
    fields = [
        (name, value)
        for name, value in [*box.text.items(), *box.exif.items()]
        if any(key in name.lower() for key in _GENERATOR_KEYS)
    ]
    if not fields:
        none = t("The file has no text field in which generators write their parameters.")
        return f'{head}<p class="vf-note">{escape(none)}</p>'
    return head + _list(fields[:40], "vf-long")


def _id(item: Evidence) -> str:
    return f'<a class="vf-cite" href="#evidence-{escape(item.id)}">{escape(item.id)}</a>'


def _list(pairs: Iterable[tuple[str, str]], extra: str = "") -> str:
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs if value
    )
    return f'<dl class="vf-facts {extra}">{rows}</dl>' if rows else ""
