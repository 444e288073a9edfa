"""The one public endpoint: a picture in, a record out."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import api

from vlmforensics.errors import Defect, VlmForensicsError
from vlmforensics.report import error_record, to_record
from vlmforensics.types import ModelInfo, Report
from vlmforensics.ui.flow import Model
from vlmforensics.ui.uploads import guard_endpoint

ENDPOINT = "examine"


def add_endpoint(blocks: gr.Blocks, model: Model, concurrency_id: str) -> None:
    """Add ``/examine`` to ``blocks``; it waits in the same queue as the page's runs."""

    def examine(picture: gr.FileData, text: bool = True) -> dict[str, Any]:
        """Examine one uploaded picture.

        Args:
            picture: the uploaded file (upload first; addresses are refused).
            text: also write the explanation.

        Returns:
            A record of schema ``vlmforensics.record/1``; where the picture can't be examined its ``error`` says why.
        """
        data = picture if isinstance(picture, dict) else picture.model_dump()
        path = Path(data["path"])
        name = Path(data.get("orig_name") or path.name).name
        return examine_file(model, path, name, text=text)

    api(examine, api_name=ENDPOINT, concurrency_id=concurrency_id)
    guard_endpoint(blocks, [ENDPOINT])


def examine_file(model: Model, path: Path, name: str, *, text: bool) -> dict[str, Any]:
    """The record of one file, failures included."""
    stop = threading.Event()
    try:
        *_, report = model.examine(path, name, stop)
        if not isinstance(report, Report):
            raise Defect("an examination ended without a report", file=name)
        if text:
            for _ in model.explain(report, stop):
                pass
        return to_record(report, with_text=text)
    except VlmForensicsError as error:
        info = model.wait().model if model.state == "ready" else ModelInfo("", "", "")
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        return error_record(name, digest, error, info)
