"""Upload components that take files and nothing else.

Gradio resolves ``{"path": "https://…"}`` in a request by downloading it, whatever the page offers. These components
refuse that, and hand over the untouched bytes' path with the name that the user's file had.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

import gradio as gr
from gradio.component_meta import ComponentMeta

PICTURES = [
    "image", ".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".heic", ".heif",
]  # fmt: skip
"""What the browser's file dialogue offers; what a file really is, the decoder alone decides."""


@dataclass(frozen=True)
class Upload:
    """A received file: where its bytes lie, and what the user called it (a label, never a path to open)."""

    path: Path
    name: str


@dataclass(frozen=True)
class Message:
    """What was typed and attached."""

    text: str
    files: tuple[Upload, ...]


def refuse() -> NoReturn:
    """Raise the sentence that answers an address in place of a file."""
    raise gr.Error(
        "Addresses are not fetched here; save the picture and upload the file.", print_exception=False
    )


def is_address(resource: object) -> bool:
    """True for anything that names a scheme, e.g. ``https://…`` or ``file://…``."""
    return "://" in str(resource)[:32]


class _FilesOnly:
    """Mixin: no component of ours lets the server fetch an address."""

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        if is_address(url_or_file_path):
            refuse()
        moved: str | None = await super().async_move_resource_to_block_cache(url_or_file_path)  # type: ignore[misc]
        return moved

    def move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        if is_address(url_or_file_path):
            refuse()
        moved: str | None = super().move_resource_to_block_cache(url_or_file_path)  # type: ignore[misc]
        return moved


def _upload(data: Any) -> Upload:
    path = Path(data.path)
    given = data.orig_name or path.name
    # Both separators: the browser may run on another system than the server.
    name = PureWindowsPath(PurePosixPath(given).name).name or path.name
    return Upload(path, name[:200])


class _Quiet(ComponentMeta):
    """Makes component classes as gradio does, but without writing a ``.pyi`` file beside this one at import."""

    def __new__(cls, name: str, bases: tuple[type, ...], attrs: dict[str, Any]) -> type:
        return ABCMeta.__new__(cls, name, bases, attrs)


class _Picture(_FilesOnly):
    """Mixin: the value is an ``Upload`` or None."""

    def preprocess(self, payload: Any) -> Any:
        """``Upload``, or None where there is no file."""
        return None if payload is None else _upload(_single(payload))


class PictureFile(_Picture, gr.File, metaclass=_Quiet):
    """A drop zone for one picture."""

    def get_block_name(self) -> str:
        """Front-end component to use."""
        return "file"


class PictureFiles(_FilesOnly, gr.File, metaclass=_Quiet):
    """A drop zone for many files; the value is a list of ``Upload``."""

    def get_block_name(self) -> str:
        """Front-end component to use."""
        return "file"

    def preprocess(self, payload: Any) -> Any:
        """A list of ``Upload``, empty where there is no file."""
        files = getattr(payload, "root", payload) or []
        return [_upload(file) for file in (files if isinstance(files, list) else [files])]


class PictureButton(_Picture, gr.UploadButton, metaclass=_Quiet):
    """A button that asks for one picture."""

    def get_block_name(self) -> str:
        """Front-end component to use."""
        return "uploadbutton"


class MessageBox(_FilesOnly, gr.MultimodalTextbox, metaclass=_Quiet):
    """A text box that also takes pictures, by button, drop or paste."""

    def get_block_name(self) -> str:
        """Front-end component to use."""
        return "multimodaltextbox"

    def preprocess(self, payload: Any) -> Any:
        """``Message``; names of files are not checked, for the decoder judges contents."""
        if payload is None:
            return Message("", ())
        return Message(payload.text or "", tuple(_upload(file) for file in payload.files))


def guard_endpoint(blocks: gr.Blocks, names: Sequence[str]) -> None:
    """Make the parameters of ``gr.api`` endpoints refuse addresses too: gradio itself makes those components."""
    for function in blocks.fns.values():
        if function.api_name in names:
            for component in function.inputs:
                _guard(component)


def _guard(component: Any) -> None:
    original = component.async_move_resource_to_block_cache

    async def move(url_or_file_path: str | Path | None) -> str | None:
        if is_address(url_or_file_path):
            refuse()
        moved: str | None = await original(url_or_file_path)
        return moved

    component.async_move_resource_to_block_cache = move


def _single(payload: Any) -> Any:
    root = getattr(payload, "root", payload)
    return root[0] if isinstance(root, list) else root
