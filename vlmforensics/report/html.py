"""A report as one self-contained page: no script, no request to anywhere, every string escaped.

Contents follow what forensic practice asks of a report: the exhibit identified by digest, observation apart
from conclusion, degrees of support between stated alternatives, error rates with n, localisation with scale
and threshold, limits and alternative explanations, and everything that repeating needs. The page is made from
the record, so that a stored record gives the same page again (without the maps, which are not stored).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from vlmforensics.errors import InputError
from vlmforensics.report import text as words
from vlmforensics.report.figures import Figures, record_figures, report_figures
from vlmforensics.report.record import digest, to_record
from vlmforensics.types import LABELS, CaseImage, Report


def to_html(report: Report, *, written: datetime | None = None) -> str:
    """Render the page of a report.

    Args:
        report: with or without explanation and conversation.
        written: when the page is written, shown at its top; None leaves it out, for byte-identical pages.
    """
    return _render(to_record(report), report_figures(report), report.case, written)


def record_to_html(
    record: Mapping[str, Any], case: CaseImage | None, *, written: datetime | None = None
) -> str:
    """Render the page of a stored record.

    Args:
        record: as :func:`vlmforensics.report.to_record` made it.
        case: the picture it is about, or None where it is not at hand; then the page has no pictures.
        written: as in :func:`to_html`.

    Raises:
        InputError: ``case`` is another picture than the record's, or the record is of a failure.
    """
    if record.get("error") is not None:
        raise InputError(
            f"this record is of a picture that could not be examined: {record['error']['message']}"
        )
    check_picture(record, case)
    return _render(record, Figures() if case is None else record_figures(record, case), case, written)


def check_picture(record: Mapping[str, Any], case: CaseImage | None) -> None:
    """Raise ``InputError`` where ``case`` is another picture than the record's."""
    if case is not None and case.sha256 != record["sha256"]:
        raise InputError(
            f"{case.file} is not the picture of this record: its SHA-256 differs", code="img.other"
        )


@cache
def environment() -> Environment:
    """Templates of this room; everything is escaped, and a name that is missing is an error."""
    return Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(template),
    )


def template(name: str) -> str:
    """Text of a file in ``templates/``."""
    return files("vlmforensics.report").joinpath("templates", name).read_text(encoding="utf-8")


def _render(
    record: Mapping[str, Any], figures: Figures, case: CaseImage | None, written: datetime | None
) -> str:
    evidence = record["evidence"]
    check = record.get("explanation_check") or {}
    context = {
        "css": Markup(template("report.css")),  # noqa: S704 - our own style sheet, no input in it
        "tool_version": words.printable(str(record["software"].get("vlmforensics", "")), 40),
        "written": written.strftime("%Y-%m-%d %H:%M UTC") if written else None,
        "headline": words.HEADLINES[record["verdict"]],
        "file": words.printable(record["file"], 300),
        "verdict": record["verdict"],
        "abstention": _shown(record.get("abstention")),
        "mask_agreement": _shown(record.get("mask_agreement")),
        "guarantee": words.printable(record["guarantee"]),
        "bars": [_bar(label, record["probabilities"][label]) for label in LABELS],
        "explanation": [_pieces(part) for part in (record["explanation"] or "").split("\n") if part.strip()],
        "generated": check.get("generated", 0),
        "replaced": check.get("replaced", 0),
        "figures": figures.main,
        "small_figures": figures.small,
        "no_picture": case is None,
        "no_mask": None if record["mask"] and record["mask"].get("boxes") else _no_mask(evidence),
        "evidence": [_row(item) for item in evidence],
        "prior": _by_label(record["prior"]),
        "failures": [{key: words.printable(str(f.get(key, "")), 300) for key in ("source", "code", "message")}
                     for f in record["failures"]],
        "conversation": [
            {"question": words.printable(answer["question"]), "pieces": _pieces(answer["text"])}
            for answer in record["conversation"]
        ],
        "exhibit": exhibit_facts(record, case),
        "notes": [words.printable(note, 300) for note in record["notes"]],
        "limits": words.LIMITS,
        "alternatives": words.ALTERNATIVES,
        "next_steps": words.NEXT_STEPS,
        "method": method_facts(record),
        "recompute": [(f"{i['id']} {words.printable(i['source'], 60)}", _compact_json(i["recompute"]))
                      for i in evidence if i["recompute"]],
        "timing": [(words.printable(name, 60), f"{spent:.2f} s") for name, spent in record["timing"].items()],
        "digest": digest(record),
    }  # fmt: skip
    return environment().get_template("report.html").render(context)


def exhibit_facts(record: Mapping[str, Any], case: CaseImage | None) -> list[tuple[str, str]]:
    """What identifies the exhibit: name and value, in the order of the page."""
    container = record["container"]
    orientation = (
        "" if container["orientation"] == 1 else f" (EXIF orientation {container['orientation']} applied)"
    )
    facts = [
        ("File name as received", words.printable(record["file"], 500)),
        ("Size", words.byte_size(record["bytes"])),
        ("SHA-256", record["sha256"]),
        (
            "Format (by content)",
            f"{record['format']}, {container['mode']}, {container['bit_depth']} bits a channel",
        ),
        ("Dimensions", f"{record['width']} × {record['height']} pixels upright{orientation}"),
    ]
    if case is not None:
        facts.insert(3, ("SHA-512", hashlib.sha512(case.data).hexdigest()))
    jpeg = container["jpeg"]
    if jpeg is not None:
        quality = "not a standard table" if jpeg["quality"] is None else f"about quality {jpeg['quality']}"
        facts.append(("JPEG", f"{quality}, subsampling {jpeg['subsampling']}"))
    if container["frames"] > 1:
        facts.append(("Frames", f"{container['frames']}; only the first was examined"))
    counts = [
        (container[f"{kind}_fields"], name)
        for kind, name in (("exif", "EXIF"), ("text", "text"), ("iptc", "IPTC"))
    ]
    found = [f"{count} {name} field{'s' if count != 1 else ''}" for count, name in counts if count]
    facts.append(
        ("Metadata", ", ".join([*found, *(["an XMP packet"] if container["xmp"] else [])]) or "none found")
    )
    if container["trailing_bytes"]:
        facts.append(("After the picture's end", words.byte_size(container["trailing_bytes"])))
    return facts


def method_facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Versions and digests that repeating needs."""
    model = record["model"]
    return [
        ("Model", f"{words.printable(model['name'], 200)} {model['version']}".strip()),
        ("Weights SHA-256", model["weights_sha256"] or "not known"),
        *((f"– {name}", str(value)) for name, value in model.get("parts", {}).items()),
        ("Calibration SHA-256", model.get("calibration_sha256") or "none"),
        ("Settings SHA-256", model.get("settings_sha256") or "none"),
        ("Bound asked for", f"{100 * record['alpha']:g} % of real pictures called synthetic or tampered"),
        ("Software", ", ".join(f"{name} {number}" for name, number in record["software"].items())),
    ]


def _bar(label: str, probability: float) -> dict[str, str]:
    return {
        "label": label,
        "meaning": words.MEANINGS[label],
        "percent": words.percent(probability),
        "width": f"{100 * probability:.1f}",
    }


def _row(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": item["id"],
        "source": words.printable(item["source"], 60),
        "status": item["status"],
        "statement": words.printable(item["statement"]),
        "strength": words.printable(item["strength"], 60),
        "llr": _by_label(item["llr"]),
        "contribution": _by_label(item["contribution"]),
        "error_rate": words.error_rate(item["reliability"]),
    }


def _by_label(values: Mapping[str, float]) -> list[str]:
    return [f"{label} {round(values.get(label, 0.0), 2) + 0.0:+.2f}" for label in LABELS]


def _pieces(text: str) -> list[dict[str, Any]]:
    return [{"text": words.printable(part, 4000), "ids": ids} for part, ids in words.split_citations(text)]


def _shown(text: str | None) -> str | None:
    return None if text is None else words.printable(text)


def _no_mask(evidence: list[Mapping[str, Any]]) -> str:
    if any(item["source"] == "mask" for item in evidence):
        return "No mask: the mask head found no region above its threshold."
    return "No mask: the mask head did not run on this picture."


def _compact_json(values: Mapping[str, Any]) -> str:
    return words.printable(json.dumps(dict(values), ensure_ascii=False, default=str), 400)
