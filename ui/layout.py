"""The page's parts and where they stand: verdict and picture on the left, the conversation on the right; more tabs."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes.utils.fonts import LocalFont

from vlmforensics.settings import MIB, Settings
from vlmforensics.ui import cards
from vlmforensics.ui.language import ENGLISH, Words
from vlmforensics.ui.uploads import PICTURES, MessageBox, PictureButton, PictureFile

HERE = Path(__file__).parent
QUESTIONS = ("Why?", "Where?", "How sure?", "What would change your mind?", "What about the metadata?")
"""Suggested questions; the engine is asked in English."""
EXAMPLES = (("Photograph", "photograph.jpg"), ("Spliced picture", "spliced.jpg"))
"""(name, file in ``examples/``)."""


_EVIDENCE_JS = """
element.addEventListener('click', (event) => {
  const link = event.target.closest('a[href*="#evidence-"]');
  if (link) event.preventDefault();
});
window.vlmforensics.openCase = (name) => trigger('select', {case: name});
"""
_VIEWER_JS = "window.vlmforensicsViewer(element, trigger);"


class Labels:
    """The texts of components, each remembered with its English, so that the page can change its language."""

    def __init__(self) -> None:
        self._items: list[tuple[Any, dict[str, str | Callable[[Words], Any]]]] = []

    def __call__(self, component: Any, **texts: str | Callable[[Words], Any]) -> Any:
        """Give a component its English texts and remember them.

        Args:
            component: any; returned.
            texts: property → English text, or a function of the language.
        """
        self._items.append((component, texts))
        for name, text in texts.items():
            setattr(component, name, _said(text, ENGLISH))
        return component

    @property
    def components(self) -> list[Any]:
        """All components with texts."""
        return [component for component, _ in self._items]

    def said(self, t: Words) -> dict[Any, Any]:
        """The update that puts the page into a language."""
        return {
            component: gr.update(**{name: _said(text, t) for name, text in texts.items()})
            for component, texts in self._items
        }


def _said(text: str | Callable[[Words], Any], t: Words) -> Any:
    return t(text) if isinstance(text, str) else text(t)


@dataclass(frozen=True, eq=False)
class Parts:
    """The components that handlers read and write, by what they show."""

    case_id: Any
    verdict: Any
    intro: Any
    drop: Any
    examples: tuple[Any, ...]
    panel: Any
    cases: Any
    viewer: Any
    table: Any
    below: Any
    facts: Any
    metadata: Any
    credentials: Any
    generation: Any
    preview: Any
    chat: Any
    suggestions: Any
    questions: tuple[Any, ...]
    compare: Any
    box: Any
    another: Any
    save_html: Any
    save_json: Any
    save_mask: Any
    files: tuple[Any, Any, Any]


def theme() -> gr.themes.Base:
    """Calm neutrals and one accent; the fonts come with gradio, so that nothing is fetched."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
        # 700: gradio ships the semi-bold face with a part of its letters only
        font=(LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"),
    ).set(
        body_background_fill="#f5f6f8",
        body_background_fill_dark="#10141a",
        body_text_color="#1b2430",
        body_text_color_dark="#e8ecf2",
        body_text_color_subdued="#4a5666",
        body_text_color_subdued_dark="#adb8c6",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#1a2029",
        background_fill_secondary="#f0f3f7",
        background_fill_secondary_dark="#232b36",
        border_color_primary="#d9dee5",
        border_color_primary_dark="#313b48",
        border_color_accent="#1d4f91",
        border_color_accent_dark="#8ab4f8",
        border_color_accent_subdued="#d9dee5",
        border_color_accent_subdued_dark="#313b48",
        color_accent_soft="#e7eef8",
        color_accent_soft_dark="#22324a",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1a2029",
        block_border_color="#d9dee5",
        block_border_color_dark="#313b48",
        block_border_width="1px",
        block_radius="12px",
        block_shadow="none",
        block_label_text_color="#4a5666",
        block_label_text_color_dark="#adb8c6",
        block_title_text_color="#1b2430",
        block_title_text_color_dark="#e8ecf2",
        input_background_fill="#ffffff",
        input_background_fill_dark="#1a2029",
        input_border_color="#d9dee5",
        input_border_color_dark="#313b48",
        input_placeholder_color="#5d6979",
        input_placeholder_color_dark="#9aa6b5",
        checkbox_label_background_fill="#f0f3f7",
        checkbox_label_background_fill_dark="#232b36",
        checkbox_label_background_fill_selected="#e7eef8",
        checkbox_label_background_fill_selected_dark="#22324a",
        checkbox_background_color_selected="#1d4f91",
        checkbox_background_color_selected_dark="#8ab4f8",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#232b36",
        button_secondary_background_fill_hover="#f0f3f7",
        button_secondary_background_fill_hover_dark="#2c3644",
        button_secondary_border_color="#c3cbd6",
        button_secondary_border_color_dark="#3d4958",
        button_secondary_text_color="#1b2430",
        button_secondary_text_color_dark="#e8ecf2",
        button_border_width="1px",
        button_primary_background_fill="#1d4f91",
        button_primary_background_fill_hover="#163d72",
        button_primary_text_color="#ffffff",
        button_primary_border_color="#1d4f91",
        button_primary_background_fill_dark="#8ab4f8",
        button_primary_background_fill_hover_dark="#a8c7fa",
        button_primary_text_color_dark="#10141a",
        button_primary_border_color_dark="#8ab4f8",
    )


def place(settings: Settings, label: Labels) -> Parts:
    """Build the examination's parts inside the current ``gr.Blocks``."""
    case_id = gr.State("")
    with gr.Row(elem_id="vf-main", equal_height=False):
        with gr.Column(scale=7, min_width=320, elem_id="vf-left"):
            left = _left(settings, label)
        with gr.Column(scale=5, min_width=320, elem_id="vf-right"):
            right = _right(label)
    with gr.Column(visible=False, elem_id="vf-below") as below:
        table = gr.HTML(elem_id="vf-table", js_on_load=_EVIDENCE_JS)
        with gr.Tabs(elem_id="vf-file"):
            with label(gr.Tab(), label="Metadata"):
                metadata = gr.HTML(elem_classes="vf-html")
            with label(gr.Tab(), label="Content Credentials (C2PA)"):
                credentials = gr.HTML(elem_classes="vf-html")
            with label(gr.Tab(), label="Generation parameters"):
                generation = gr.HTML(elem_classes="vf-html")
            with label(gr.Tab(), label="Preview inside the file"):
                preview = gr.HTML(elem_classes="vf-html")
            with label(gr.Tab(), label="Hashes, versions and method"):
                facts = gr.HTML(elem_classes="vf-html")
    with label(gr.Accordion(open=False, elem_id="vf-limits"), label="What no verdict here can tell"):
        label(gr.HTML(elem_classes="vf-html"), value=cards.limits)
    return Parts(
        case_id=case_id, table=table, below=below, facts=facts, metadata=metadata, credentials=credentials,
        generation=generation, preview=preview, **left, **right,
    )  # fmt: skip


def _left(settings: Settings, label: Labels) -> dict[str, Any]:
    verdict = gr.HTML(visible=False, elem_id="vf-verdict")
    with gr.Column(elem_id="vf-intro") as intro:
        megabytes = settings.max_bytes // MIB
        label(gr.HTML(elem_id="vf-welcome"), value=lambda t: cards.welcome(megabytes, t))
        drop = label(
            PictureFile(show_label=False, file_types=PICTURES, height=230, elem_id="vf-drop"),
            label="Picture to examine",
        )
        with gr.Row(elem_id="vf-examples"):
            examples = tuple(_example(name, file, label) for name, file in EXAMPLES)
    with gr.Column(visible=False, elem_id="vf-panel") as panel:
        cases = label(gr.Radio([], visible=False, elem_id="vf-cases"), label="Pictures in this conversation")
        viewer = gr.HTML(elem_id="vf-viewer", js_on_load=_VIEWER_JS)
        with gr.Row(elem_id="vf-actions"):
            another = label(
                PictureButton(file_types=PICTURES, size="sm", variant="primary", elem_id="vf-another"),
                label="Examine another picture",
            )
            save_html = label(gr.Button(size="sm", elem_id="vf-save-html"), value="Save report (HTML)")
            save_json = label(gr.Button(size="sm", elem_id="vf-save-json"), value="Save record (JSON)")
            save_mask = label(gr.Button(size="sm", elem_id="vf-save-mask"), value="Save mask (PNG)")
        with gr.Row(elem_id="vf-files", elem_classes="vf-unseen"):
            # Never seen: a click on a button above writes the file, then the page follows the link that appears here.
            files = (
                gr.DownloadButton("Report file", elem_id="vf-file-html"),
                gr.DownloadButton("Record file", elem_id="vf-file-json"),
                gr.DownloadButton("Mask file", elem_id="vf-file-mask"),
            )
    return {
        "verdict": verdict, "intro": intro, "drop": drop, "examples": examples, "panel": panel, "cases": cases,
        "viewer": viewer, "another": another, "save_html": save_html, "save_json": save_json, "save_mask": save_mask,
        "files": files,
    }  # fmt: skip


def _example(name: str, file: str, label: Labels) -> Any:
    """A button with its picture, which is handed to updates as it was first served: its folder may be blocked later."""
    button = gr.Button(size="md", icon=_served(HERE / "examples" / file), min_width=120)
    icon = button.icon
    return label(button, icon=lambda t: icon, value=lambda t: t("Try: {name}", name=t(name).lower()))


def _right(label: Labels) -> dict[str, Any]:
    chat = label(
        gr.Chatbot(
            show_label=False,
            elem_id="vf-chat",
            height=560,
            buttons=[],
            layout="bubble",
            sanitize_html=True,
            allow_tags=False,
            latex_delimiters=[],
            allow_file_downloads=False,
            feedback_options=None,
        ),
        label="Conversation about the picture",
        placeholder="### Ask about the picture\n\nDrop a picture. You get a verdict with its probabilities, "
        "the evidence behind it, and an explanation; then ask what you want to know.",
    )
    with gr.Row(visible=False, elem_id="vf-suggestions") as suggestions:
        questions = tuple(
            label(gr.Button(size="sm", min_width=60, scale=0), value=text) for text in QUESTIONS
        )
        compare = label(
            gr.Button(size="sm", min_width=60, scale=0, visible=False, elem_id="vf-compare"),
            value="Which of the two was edited?",
        )
    box = label(
        MessageBox(
            show_label=False,
            sources=["upload"],
            file_count="multiple",
            file_types=PICTURES,
            max_plain_text_length=2000,
            elem_id="vf-box",
        ),
        label="Your question",
        placeholder="Ask about the evidence, or add another picture",
    )
    return {
        "chat": chat, "suggestions": suggestions, "questions": questions, "compare": compare, "box": box,
    }  # fmt: skip


def _served(file: Path) -> Path:
    """A copy where files may be served from: the folder that the server was started in is not such a place."""
    folder = Path(tempfile.mkdtemp(prefix="vlmforensics-examples-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(shutil.copy(file, folder / file.name))
