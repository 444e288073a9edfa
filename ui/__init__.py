"""The chat interface: drop a picture, read the verdict, question it. Gradio is imported only when it is built."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmforensics.assistant import Assistant
    from vlmforensics.settings import Settings

__all__ = ["build_app", "serve"]


def build_app(assistant_loader: Callable[[], Assistant], settings: Settings) -> Any:
    """Build the page without serving it.

    Args:
        assistant_loader: makes the assistant; called once, in a background thread, when the page is built.
        settings: limits shown to the user; the assistant has its own.

    Returns:
        The ``gradio.Blocks`` application, queue configured; ``vlmforensics.ui.serve`` launches one safely.

    Raises:
        MissingExtra: gradio is not installed.
    """
    _prepare()
    from vlmforensics.ui.app import build_app as build

    return build(assistant_loader, settings)


def serve(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    auth: str | None = None,
    root_path: str | None = None,
    mcp: bool = False,
    assistant_loader: Callable[[], Assistant] | None = None,
) -> None:
    """Serve the page until interrupted (Ctrl-C or SIGTERM).

    The page answers before the model is loaded; what is still loading is shown on it.

    Args:
        settings: for the assistant and the limits.
        host: address to bind; anything but loopback needs ``auth``.
        port: TCP port, 0 for a free one; the address is printed.
        auth: ``USER:PASSWORD`` asked of every visitor; by default the variable ``VLMFORENSICS_AUTH``.
        root_path: public path behind a reverse proxy, e.g. ``/forensics``.
        mcp: also offer the endpoint as a tool to programs that speak the Model Context Protocol.
        assistant_loader: replaces ``Assistant.load(settings.model, settings=settings)``.

    Raises:
        SettingsError: an address that others can reach without ``auth``, malformed ``auth``, a port in use.
        MissingExtra: gradio is not installed, or ``mcp`` without its package.
    """
    _prepare()
    from vlmforensics.ui.server import serve as run

    run(settings, host, port, auth=auth, root_path=root_path, mcp=mcp, assistant_loader=assistant_loader)


def _prepare() -> None:
    """Switch gradio's telemetry off before its import, which is when it reads the switch."""
    from importlib.util import find_spec

    from vlmforensics.errors import MissingExtra

    if find_spec("gradio") is None:
        raise MissingExtra('the chat page needs gradio: pip install "vlmforensics[ui]"')
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
