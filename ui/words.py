"""Words of the page, and the one place where text becomes HTML or Markdown that can't carry markup of its own."""

from __future__ import annotations

import html
import re
from collections.abc import Container, Mapping

from vlmforensics.errors import VlmForensicsError
from vlmforensics.report.text import printable, split_citations
from vlmforensics.types import Reliability
from vlmforensics.ui.language import ENGLISH, Words

TITLES: Mapping[str, str] = {
    "real": "No sign of manipulation found",
    "synthetic": "Wholly synthetic",
    "tampered": "Tampered with",
    "inconclusive": "Inconclusive",
}
"""The verdict in plain words; ``real`` is never "authentic", for absence of evidence is what was measured."""

LABEL_NAMES: Mapping[str, str] = {
    "real": "no sign of manipulation",
    "synthetic": "wholly synthetic",
    "tampered": "tampered with",
}

SUMMARIES: Mapping[str, str] = {
    "real": "Nothing that was measured tells this picture from an untouched photograph; that is no proof of one.",
    "synthetic": "What was measured fits a picture made as a whole by a generator better than a photograph.",
    "tampered": "What was measured fits a photograph of which a part was replaced or redrawn.",
    "inconclusive": "The evidence is too weak, or too contradictory, for a verdict that would be right often enough.",
}

SOURCES: Mapping[str, str] = {
    "vlm": "Vision-language model",
    "blending": "Blending detector",
    "mask": "Region search",
    "camera_exif": "Camera metadata",
    "editor_traces": "Editing software",
    "generation_parameters": "Generation parameters",
    "c2pa": "Content Credentials (C2PA)",
    "jpeg_tables": "JPEG tables",
    "jpeg_double": "Double JPEG compression",
    "jpeg_ghost": "JPEG ghosts",
    "jpeg_grid": "JPEG grid",
    "jpeg_crop": "JPEG crop",
    "npr": "Neighbouring pixels (NPR)",
    "whole": "Picture as a whole",
    "edited": "Editing, picture as a whole",
    "noise": "Noise consistency",
    "spectrum": "Frequency spectrum",
    "upsampling": "Upsampling traces",
    "copy_move": "Copied areas",
    "jpeg_votes": "JPEG grid votes",
    "residual_clusters": "Residual statistics by part",
    "cooccurrence": "Residual runs",
    "cfa": "Demosaicing",
    "cfa_part": "Demosaicing by part",
    "chromatic": "Chromatic aberration",
    "texture_contrast": "Rich and poor texture",
    "thumbnail": "Embedded thumbnail",
    "faces": "Sharpness of faces",
}

STAGES: Mapping[str, str] = {
    "loading": "Loading the model",
    "decoding": "Reading the file",
    "signals": "Measuring traces of cameras, codecs and generators",
    "blending": "Looking for blended edges",
    "looking": "Looking at the whole picture",
    "mask": "Searching for a suspect region",
    "judging": "Weighing the evidence",
}


def escape(text: str) -> str:
    """Any text as HTML text or a quoted attribute value; controls and bidirectional marks become visible."""
    return html.escape(printable(text, limit=4000), quote=True)


def chat_text(text: str, known: Container[str] = (), case: str = "") -> str:
    """Text of a model or of a file as Markdown that shows it literally, citations of known evidence linked.

    A link names the ``case`` too, for a conversation may be about several pictures. Marks that Markdown acts upon
    become numeric entities, so that neither a picture (which would load!), nor HTML, nor a link can arise from it.
    """
    parts = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = [
            _chat_line(printable(line.strip(), limit=4000), known, case) for line in paragraph.splitlines()
        ]
        parts.append("\n".join(line for line in lines if line))
    return "\n\n".join(part for part in parts if part)


def _chat_line(line: str, known: Container[str], case: str) -> str:
    shown = []
    for piece, cited in split_citations(line):
        if cited and all(name in known for name in cited):
            of = f"~{case}" if case else ""
            shown.append(" ".join(f"[{name}](#evidence-{name}{of})" for name in cited))
        else:
            shown.append(_literal(piece))
    return "".join(shown)


_MARKDOWN = re.compile(
    r"[\\`*_{}\[\]<>#|~!&$@^=]"  # emphasis, code, links, HTML, headings, tables, mathematics
    r"|(?<=www)\.|:(?=//)"  # addresses that become links by themselves
    r"|^[-+](?=\s|$)|^-+$|(?<=^\d)[.)]|(?<=^\d\d)[.)]",  # lists and rules
    re.IGNORECASE,
)


def _literal(text: str) -> str:
    return _MARKDOWN.sub(lambda found: "".join(f"&#{ord(character)};" for character in found.group()), text)


def source_name(source: str, t: Words = ENGLISH) -> str:
    """A source's name for readers."""
    return t(SOURCES.get(source, source.replace("_", " ").replace("-", " ").capitalize()))


def stage_name(stage: str, t: Words = ENGLISH) -> str:
    """A stage of the examination for readers."""
    return t(STAGES.get(stage, stage.replace("_", " ").capitalize()))


def right_on(reliability: Reliability, t: Words = ENGLISH) -> str:
    """How often a source is right: ``right on 83 % of 512 validation pictures (80–86 %)``."""
    return t(
        "right on {share} % of {n} validation pictures ({low}–{high} %)",
        share=f"{100 * reliability.balanced_accuracy:.0f}",
        n=f"{reliability.n:,}",
        low=f"{100 * reliability.low:.0f}",
        high=f"{100 * reliability.high:.0f}",
    )


def strength(text: str, t: Words = ENGLISH) -> str:
    """Fusion's words for a finding's strength (``moderate support for synthetic``), labels as the page names them."""
    found = re.fullmatch(r"(.+) (for|against) (real|synthetic|tampered)", text)
    if found is None:
        return t(text)
    label = t(LABEL_NAMES[found[3]])
    way = t("for “{label}”", label=label) if found[2] == "for" else t("against “{label}”", label=label)
    return f"{t(found[1])} {way}"


def error_sentence(error: BaseException, file: str, t: Words = ENGLISH) -> str:
    """One sentence (or two) for a reader: what went wrong with ``file`` and what can be done."""
    if isinstance(error, VlmForensicsError):
        message = error.message[:1].upper() + error.message[1:]
        stop = "" if message.endswith((".", "!", "?")) else "."
        return f"{file}: {message}{stop}" if file else f"{message}{stop}"
    return t(
        "{file}: something broke on our side ({kind}), and the picture was not judged. The program's log has the "
        "details; please report it.",
        file=file or t("This picture"),
        kind=type(error).__name__,
    )
