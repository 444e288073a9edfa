"""Traces of editing software: software tags, Photoshop resources, XMP history, library comments.

A trace says that software wrote the file, not what it changed: nearly every published photograph has passed an editor.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from vlmforensics.signals.wording import SCAN, count, quote, xmp_values
from vlmforensics.types import CaseImage, Evidence

CODES = ("ai-editor", "editor", "developer", "converter", "camera-firmware", "unknown-software")
"""Outcomes, the most telling first: generative or retouching tools; editors that paint; raw developers and photo
managers; encoders and libraries; version strings of cameras and phones; anything else."""

_AI = (
    r"generative (?:fill|expand|remove)|firefly|magic (?:editor|eraser)|\bremini\b|\bfaceapp\b|facetune|faceswap|"
    r"reface|deepfacelab|\broop\b|luminar|topaz|photoroom|cleanup\.pictures|iopaint|lama[- ]?cleaner|"
    r"clipdrop|\bkrea\b|magnific|inpaint|remove\.bg|edited with google ai"
)
_EDITORS = (
    r"photoshop|\bgimp\b|paint\.net|affinity|pixelmator|snapseed|picsart|\bcanva\b|\bkrita\b|paint ?shop|"
    r"corel|photopea|pixlr|photoscape|photofiltre|imageready|photo ?impact|microsoft paint|mspaint|"
    r"fotor|befunky|meitu|beautyplus|faceu|vsco|polarr|sketchbook|procreate|acorn|inkscape|illustrator|figma"
)
_DEVELOPERS = (
    r"lightroom|camera raw|capture one|darktable|rawtherapee|dxo|photolab|aperture|iphoto|picasa|acdsee|acd systems|"
    r"digital photo professional|nikon transfer|nx studio|capture nx|viewnx|silkypix|finepix viewer|olympus (?:master|"
    r"viewer|camedia)|camedia master|pmb|playmemories|imagedata converter|windows photo|photo gallery|google photos|"
    r"digikam|shotwell|irfanview|xnview|faststone|photo mechanic|bridge"
)
_CONVERTERS = (
    r"gd-jpeg|imagemagick|graphicsmagick|libjpeg|mozjpeg|jpegli|guetzli|jpegmini|lavc|ffmpeg|pillow|\bpil\b|opencv|"
    r"libvips|quicktime|applemark|ezgif|tinypng|compress|scansnap|scanner|optimizer|leadtools|intel\(r\) jpeg|"
    r"matplotlib|wordpress|instagram|whatsapp|facebook|screenshot|snipping"
)
_FIRMWARE = re.compile(
    r"(?:(?:firmware|ver(?:sion)?\.?|v)[ .:]?)?\s?v?\d{1,4}(?:[.\-]\d{1,4}){0,4}[a-z]?|"
    r"(?:digital camera|hdr\+|camera:? ?).{0,60}|[A-Z]{1,3}\d{3,4}[A-Z]{0,4}\d?[A-Z]{2}\w{2,12}|"
    r"[vm]\d{3,5}[a-z]?-\d{2,5}|.{0,40}\bfirmware\b.{0,40}",
    re.IGNORECASE,
)
_CLASSES = tuple(
    (code, re.compile(pattern, re.IGNORECASE))
    for code, pattern in (
        ("ai-editor", _AI),
        ("editor", _EDITORS),
        ("developer", _DEVELOPERS),
        ("converter", _CONVERTERS),
    )
)
_SOFTWARE_KEYS = ("Software", "ProcessingSoftware", "HostComputer", "Exif:Software", "OriginatingProgram")


@dataclass(frozen=True)
class Trace:
    """One trace: its class (of :data:`CODES`), where it stands, and the text found there (hostile)."""

    code: str
    where: str
    text: str


def classify(text: str, has_camera: bool) -> str:
    """Sort a software string into one of :data:`CODES`; ``has_camera``: the EXIF names a camera."""
    for code, pattern in _CLASSES:
        if pattern.search(text[:1024]):
            return code
    return "camera-firmware" if has_camera and _FIRMWARE.fullmatch(text.strip()[:120]) else "unknown-software"


def photoshop_resources(data: bytes) -> int:
    """Count Photoshop image resource blocks (``8BIM``) in the first 256 KiB, where JPEG and TIFF keep them.

    Only blocks other than IPTC and its digest (0x0404, 0x0425) count, for cameras and agencies write those too.
    """
    head = data[:SCAN]
    kinds = [match.group(1) for match in re.finditer(rb"8BIM(..)\x00", head, re.DOTALL)]
    return sum(kind not in (b"\x04\x04", b"\x04\x25") for kind in kinds)


def find_traces(case: CaseImage) -> list[Trace]:
    """Collect traces, the most telling first; those that only repeat another are dropped."""
    container = case.container
    has_camera = bool(container.exif.get("Make") or container.exif.get("Model"))
    named: list[tuple[str, str]] = [
        (f"EXIF {k}", container.exif[k]) for k in _SOFTWARE_KEYS if k in container.exif
    ]
    named += [(f"IPTC {k}", container.iptc[k]) for k in ("OriginatingProgram",) if k in container.iptc]
    for key, value in container.text.items():
        if key.split(" (")[0].lower() in ("software", "comment", "creator"):
            # Comments of people are no trace; those of libraries are known by name.
            known = key.lower().startswith("software") or classify(value, False) != "unknown-software"
            named += [(f"text {key}", value)] if known else []
    named += [("XMP CreatorTool", value) for value in xmp_values(container.xmp, "CreatorTool", 4)]
    named += [("XMP softwareAgent", value) for value in xmp_values(container.xmp, "softwareAgent", 32)]
    traces = [Trace(classify(value, has_camera), where, value) for where, value in named if value.strip()]
    blocks = photoshop_resources(case.data) if container.format in ("JPEG", "TIFF") else 0
    if blocks:
        traces.append(Trace("editor", "Photoshop resources", count(blocks, "block")))
    markers = Counter(container.jpeg.markers) if container.jpeg else Counter()
    if markers["APP12"] and b"Ducky" in case.data[:4096]:
        traces.append(Trace("editor", "APP12 marker", "Ducky, written by Photoshop's Save for Web"))
    if container.xmp and re.search(r"\bcrs:[A-Z]\w+\s{0,4}[=>]", container.xmp[:SCAN]):
        traces.append(Trace("developer", "XMP crs", "Camera Raw settings"))
    if {"date:create", "date:modify"} <= set(container.text):
        traces.append(Trace("converter", "text date:create", "ImageMagick"))
    distinct = {(trace.code, trace.text): trace for trace in traces}
    return sorted(distinct.values(), key=lambda trace: CODES.index(trace.code))


class EditorTraces:
    """Evidence from what editing software wrote into the file; none where it wrote nothing."""

    name, version, cost = "editor_traces", "1", "milliseconds"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence naming the most telling trace, or an empty list."""
        traces = find_traces(case)
        if not traces:
            return []
        best = traces[0]
        steps = len(xmp_values(case.container.xmp, "softwareAgent", 32))
        meaning = {
            "ai-editor": "a tool that can generate or retouch content",
            "editor": "an editor that can paint, which says nothing of what was changed",
            "developer": "a raw developer or photo manager, as most photographs pass",
            "converter": "an encoder or conversion library",
            "camera-firmware": "a camera's or phone's own version string",
            "unknown-software": "software of unknown kind",
        }[best.code]
        text = f"{count(len(traces), 'software trace')}: {quote(best.text)} in {quote(best.where, 40)[1:-1]}, {meaning}"
        text += f"; the XMP history lists {count(steps, 'step')}" if steps else ""
        others = [quote(trace.text, 32) for trace in traces[1:3]]
        text += f"; also {' and '.join(others)}" if others else ""
        recompute = {"version": self.version, "traces": [[t.code, t.where[:80]] for t in traces[:16]]}
        return [Evidence(self.name, text + ".", code=best.code, recompute=recompute)]
