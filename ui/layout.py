"""The page's parts and where they stand: verdict and picture on the left, the conversation on the right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes.utils.fonts import LocalFont

from vlmforensics.settings import MIB, Settings
from vlmforensics.ui import cards
from vlmforensics.ui.uploads import PICTURES, MessageBox, PictureButton, PictureFile

HERE = Path(__file__).parent
QUESTIONS = ("Why?", "Where?", "How sure?", "What about the metadata?")
EXAMPLES = (("Photograph", "photograph.jpg"), ("Spliced picture", "spliced.jpg"))
"""(name, file in ``examples/``)."""

_SHOW_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-overlay]');
  if (button) trigger('click', {overlay: button.dataset.overlay});
});
"""


@dataclass(frozen=True, eq=False)
class Parts:
    """The components that handlers read and write, by what they show."""

    case_id: Any
    header: Any
    timer: Any
    verdict: Any
    intro: Any
    drop: Any
    examples: tuple[Any, ...]
    panel: Any
    cases: Any
    overlay: Any
    picture: Any
    caption: Any
    slider: Any
    table: Any
    table_box: Any
    facts: Any
    metadata: Any
    chat: Any
    suggestions: Any
    questions: tuple[Any, ...]
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


def place(settings: Settings, status: tuple[str, str]) -> Parts:
    """Build all parts inside the current ``gr.Blocks``; ``status`` is the model's state in words and as a kind."""
    case_id = gr.State("")
    header = gr.HTML(cards.header(*status), elem_id="vf-header")
    timer = gr.Timer(1.5)
    with gr.Row(elem_id="vf-main", equal_height=False):
        with gr.Column(scale=7, min_width=320, elem_id="vf-left"):
            left = _left(settings)
        with gr.Column(scale=5, min_width=320, elem_id="vf-right"):
            right = _right()
    with gr.Column(visible=False, elem_id="vf-below") as table_box:
        table = gr.HTML(elem_id="vf-table", js_on_load=_SHOW_JS)
        with gr.Accordion("What the file says about itself", open=False):
            metadata = gr.HTML(elem_classes="vf-html")
        with gr.Accordion("Hashes, versions and method", open=False):
            facts = gr.HTML(elem_classes="vf-html")
    with gr.Accordion("What no verdict here can tell", open=False, elem_id="vf-limits"):
        gr.HTML(cards.limits(), elem_classes="vf-html")
    return Parts(
        case_id=case_id, header=header, timer=timer, table=table, table_box=table_box, facts=facts, metadata=metadata,
        **left, **right,
    )  # fmt: skip


def _left(settings: Settings) -> dict[str, Any]:
    verdict = gr.HTML(visible=False, elem_id="vf-verdict")
    with gr.Column(elem_id="vf-intro") as intro:
        gr.HTML(cards.welcome(settings.max_bytes // MIB), elem_id="vf-welcome")
        drop = PictureFile(
            label="Picture to examine", show_label=False, file_types=PICTURES, height=230, elem_id="vf-drop"
        )
        with gr.Row(elem_id="vf-examples"):
            examples = tuple(
                gr.Button(f"Try: {name.lower()}", size="md", icon=HERE / "examples" / file, min_width=120)
                for name, file in EXAMPLES
            )
    with gr.Column(visible=False, elem_id="vf-panel") as panel:
        cases = gr.Radio([], label="Pictures in this conversation", visible=False, elem_id="vf-cases")
        with gr.Tabs(elem_id="vf-views"):
            with gr.Tab("Marked picture"):
                picture = gr.Image(
                    format="png", interactive=False, show_label=False, buttons=["fullscreen"], elem_id="vf-picture",
                    label="Picture with marks",
                )  # fmt: skip
            with gr.Tab("Before and after"):
                slider = gr.ImageSlider(
                    format="png", interactive=False, show_label=False, buttons=["fullscreen"], elem_id="vf-slider",
                    label="Picture as received, and with marks", max_height=640,
                )  # fmt: skip
        caption = gr.HTML(elem_id="vf-caption")
        overlay = gr.Radio([], label="Show on the picture", elem_id="vf-overlay")
        with gr.Row(elem_id="vf-actions"):
            another = PictureButton(
                "Examine another picture",
                file_types=PICTURES,
                size="sm",
                variant="primary",
                elem_id="vf-another",
            )
            save_html = gr.Button("Save report (HTML)", size="sm", elem_id="vf-save-html")
            save_json = gr.Button("Save record (JSON)", size="sm", elem_id="vf-save-json")
            save_mask = gr.Button("Save mask (PNG)", size="sm", elem_id="vf-save-mask")
        with gr.Row(elem_id="vf-files"):
            # Never seen: a click on a button above writes the file, then the page follows the link that appears here.
            files = (
                gr.DownloadButton("Report file", elem_id="vf-file-html"),
                gr.DownloadButton("Record file", elem_id="vf-file-json"),
                gr.DownloadButton("Mask file", elem_id="vf-file-mask"),
            )
    return {
        "verdict": verdict, "intro": intro, "drop": drop, "examples": examples, "panel": panel, "cases": cases,
        "overlay": overlay, "picture": picture, "caption": caption, "slider": slider, "another": another,
        "save_html": save_html, "save_json": save_json, "save_mask": save_mask, "files": files,
    }  # fmt: skip


def _right() -> dict[str, Any]:
    chat = gr.Chatbot(
        label="Conversation about the picture",
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
        placeholder="### Ask about the picture\n\nDrop a picture. You get a verdict with its probabilities, "
        "the evidence behind it, and an explanation; then ask what you want to know.",
    )
    with gr.Row(visible=False, elem_id="vf-suggestions") as suggestions:
        questions = tuple(gr.Button(text, size="sm", min_width=60, scale=0) for text in QUESTIONS)
    box = MessageBox(
        label="Your question",
        show_label=False,
        placeholder="Ask about the evidence, or add another picture",
        sources=["upload"],
        file_count="multiple",
        file_types=PICTURES,
        max_plain_text_length=2000,
        elem_id="vf-box",
    )
    return {"chat": chat, "suggestions": suggestions, "questions": questions, "box": box}
