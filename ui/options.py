"""The settings tab: language and looks for oneself; model, device, calibration and bound for whoever runs the page."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from vlmforensics import weights
from vlmforensics.errors import SettingsError, VlmForensicsError
from vlmforensics.settings import Settings
from vlmforensics.ui.flow import Model
from vlmforensics.ui.language import ENGLISH, LANGUAGES, Words
from vlmforensics.ui.layout import Labels
from vlmforensics.ui.state import Sessions
from vlmforensics.ui.uploads import PictureFile, Upload
from vlmforensics.ui.words import error_sentence, escape

Changes = dict[Any, Any]
MODELS: Mapping[str, tuple[str, str]] = {
    "compact": (
        "the built-in model, 157 million parameters",
        "any processor, about 2 GB of memory; weights of 200 MB are fetched once",
    ),
    "llava-1.5-7b": (
        "LLaVA 1.5 7B with our adapter where one was trained",
        "a CUDA GPU of 8 GB (4 bits) or 18 GB (bf16); weights of 14 GB in the cache",
    ),
    "fakevlm": (
        "the published FakeVLM checkpoint",
        "a CUDA GPU of 8 GB (4 bits) or 18 GB (bf16); weights of 14 GB in the cache",
    ),
    "folder": ("a LLaVA-family checkpoint or adapter of yours", "its path on this computer"),
    "http(s)://…/v1": (
        "an OpenAI-compatible server",
        "VLMF_REMOTE_ENABLED=1 when the page is started, since pictures then leave this computer",
    ),
}
"""Name → (what it is, what it needs)."""


class OptionsTab:
    """Parts and behaviour of the tab."""

    def __init__(self, model: Model, sessions: Sessions, settings: Settings) -> None:
        self.model = model
        self.sessions = sessions
        self.settings = settings

    def place(self, label: Labels) -> None:
        """Lay out."""
        mine = self.model.reloader is not None
        label(gr.HTML(), value=lambda t: f'<h2 class="vf-title">{escape(t("For you"))}</h2>')
        with gr.Row():
            self.language = label(
                gr.Radio(
                    [(name, code) for code, name in LANGUAGES.items()], value="en", elem_id="vf-language"
                ),
                label="Language of the page",
                info="Findings and explanations are written in English.",
            )
            self.looks = label(
                gr.Radio(["system"], value="system", elem_id="vf-looks"),
                label="Appearance",
                choices=lambda t: [
                    (t("as the system"), "system"),
                    (t("light"), "light"),
                    (t("dark"), "dark"),
                ],
            )
        label(
            gr.HTML(),
            value=lambda t: f'<h2 class="vf-title">{escape(t("For this page"))}</h2>{scope(mine, t)}',
        )
        self.about = label(gr.HTML(elem_classes="vf-html"), value=lambda t: needs(self.settings, t))
        with gr.Row():
            self.name = label(
                gr.Dropdown(
                    ["compact", "llava-1.5-7b", "fakevlm"], value=self.settings.model, allow_custom_value=True,
                    interactive=mine, elem_id="vf-model",
                ),
                label="Model",
                info="A name of the list, a folder, or the address of a server.",
            )  # fmt: skip
            self.device = label(
                gr.Dropdown(
                    devices(self.settings), value=self.settings.device, interactive=mine, elem_id="vf-device"
                ),
                label="Device",
                info="auto takes a GPU where there is one.",
            )
        with gr.Row():
            self.alpha = label(
                gr.Number(
                    100 * self.settings.alpha, minimum=0.1, maximum=49, step=0.1, precision=2, interactive=mine,
                    elem_id="vf-alpha",
                ),
                label="At most this share of real pictures may be accused (α, in %)",
                info="Higher gives more verdicts and more false accusations.",
            )  # fmt: skip
            self.calibration = label(
                PictureFile(file_types=[".json"], height=130, interactive=mine, elem_id="vf-calibration"),
                label="Calibration file (JSON); none for the shipped one",
            )
        self.apply = label(
            gr.Button(variant="primary", size="md", interactive=mine, elem_id="vf-apply"),
            value="Load with these settings",
        )
        self.said = gr.HTML(elem_id="vf-applied")

    def connect(self, quiet: Mapping[str, Any], queue: str) -> Any:
        """Wire the parts up; returns the event after which the model may be another."""
        self.looks.input(None, self.looks, None, js="(mode) => { window.vlmforensics.looks(mode); }", **quiet)
        inputs = [self.name, self.device, self.alpha, self.calibration]
        return self.apply.click(
            self.reload, inputs, [self.said, self.apply, self.about, self.name, self.device, self.alpha],
            concurrency_id=queue, show_progress="hidden", api_visibility="private",
        )  # fmt: skip

    def reload(
        self, name: str, device: str, alpha: float, calibration: Upload | None, request: gr.Request
    ) -> Iterator[Changes]:
        """Load the model anew; the present one stays where that fails."""
        t = self.sessions.known(str(request.session_hash or "")).t
        waiting = t("Loading… The page keeps its present model until the new one is there.")
        yield {
            self.said: f'<p class="vf-note" role="status">{escape(waiting)}</p>',
            self.apply: gr.update(interactive=False),
        }
        try:
            settings = self._wanted(name, device, alpha, calibration)
            self.model.reload(settings)
        except VlmForensicsError as error:
            said = f"{error_sentence(error, '', t)} {t('The page still uses the model it had.')}"
            card = f'<p class="vf-problem" role="alert">{escape(said)}</p>'
        else:
            self.settings = settings
            self.sessions.forget_looks()
            card = f'<p class="vf-note" role="status">{escape(t("Loaded. Pictures examined from now on use it."))}</p>'
        now = self.settings
        yield {
            self.said: card,
            self.apply: gr.update(interactive=True),
            self.about: needs(now, t),
            self.name: now.model,
            self.device: gr.update(choices=devices(now), value=now.device),
            self.alpha: 100 * now.alpha,
        }

    def _wanted(self, name: str, device: str, alpha: float, calibration: Upload | None) -> Settings:
        if alpha is None or not 0.1 <= float(alpha) <= 49:
            raise SettingsError("the share of accused real pictures must lie between 0.1 % and 49 %")
        file = None
        if calibration is not None:
            # kept for as long as the page runs: uploads are swept
            file = Path(os.environ["GRADIO_TEMP_DIR"]) / "calibration.json"
            shutil.copyfile(calibration.path, file)
        return replace(
            self.settings,
            model=str(name or "").strip() or self.settings.model,
            device=device or self.settings.device,
            alpha=float(alpha) / 100,
            calibration=file,
        )


def devices(settings: Settings) -> list[str]:
    """What the networks may run on here, as far as it is known without loading anything."""
    found = ["auto", "cpu"]
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "cuda"):
        if torch.cuda.is_available():
            found += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            found.append("mps")
    return found if settings.device in found else [*found, settings.device]


def scope(mine: bool, t: Words = ENGLISH) -> str:
    """Who may change what."""
    text = (
        t("These change the page for everybody who uses it now; what was examined keeps its verdict.")
        if mine
        else t("Set by whoever runs this page; shown for your information.")
    )
    return f'<p class="vf-note">{escape(text)}</p>'


def needs(settings: Settings, t: Words = ENGLISH) -> str:
    """Every model with what it is, what it needs, and whether it is there."""
    states = {row.name: row.state for row in weights.list_models(settings)}
    named = {
        "ready": t("in the cache"),
        "absent": t("fetched at first use"),
        "damaged": t("damaged; vlmforensics models pull rebuilds it"),
    }
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}{_now(name, settings, t)}</th><td>{escape(t(what))}</td>'
        f"<td>{escape(t(wants))}</td><td>{escape(named.get(states.get(name, ''), '–'))}</td></tr>"
        for name, (what, wants) in MODELS.items()
    )
    heads = "".join(
        f'<th scope="col">{escape(t(head))}</th>'
        for head in ("Model", "What it is", "What it needs", "Weights")
    )
    caption = escape(t("Models and what they need"))
    return (
        f'<table class="vf-plain"><caption class="vf-hidden">{caption}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _now(name: str, settings: Settings, t: Words) -> str:
    return f' <span class="vf-badge">{escape(t("in use"))}</span>' if name == settings.model else ""
