"""Serving the page: on this computer alone unless told otherwise, and then only behind a password."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmforensics.batch.process import return_freed_memory
from vlmforensics.errors import MissingExtra, SettingsError
from vlmforensics.settings import Settings
from vlmforensics.ui.flow import Model

if TYPE_CHECKING:
    import gradio as gr

    from vlmforensics.assistant import Assistant

_LOG = logging.getLogger(__name__)
AUTH_VARIABLE = "VLMFORENSICS_AUTH"
STATIC = Path(__file__).parent / "static"
MOST_PICTURES = 8
"""Pictures of the greatest size that one upload may hold together."""
MEMORY_SECONDS = 15.0
"""How often memory that runs have freed goes back to the system."""
SCRIPTS = ("page.js", "viewer.js")

CONTENT_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""The browser itself refuses to load anything from elsewhere; gradio's templates need inline code and ``eval``."""


def is_loopback(host: str) -> bool:
    """True where only this computer can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def parse_auth(text: str | None) -> tuple[str, str] | None:
    """``USER:PASSWORD`` → both, or None for nothing.

    Raises:
        SettingsError: no colon, an empty user, or a password of fewer than eight characters.
    """
    if not text:
        return None
    user, colon, password = text.partition(":")
    if not colon or not user or len(password) < 8:
        raise SettingsError("auth must be USER:PASSWORD, with a password of at least eight characters")
    return user, password


def launch(
    blocks: gr.Blocks,
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    auth: tuple[str, str] | None = None,
    root_path: str | None = None,
    mcp: bool = False,
) -> str:
    """Start serving in a background thread and return the address.

    Args:
        blocks: of ``build_app``.
        settings: ``max_bytes`` bounds an upload.
        host: address to bind.
        port: TCP port, 0 for a free one.
        auth: (user, password), or None.
        root_path: public path behind a proxy.
        mcp: serve the endpoint as a tool of the Model Context Protocol too.

    Raises:
        SettingsError: reachable by others without ``auth``, or the port is in use.
        MissingExtra: ``mcp`` without its package.
    """
    from vlmforensics.ui.layout import theme
    from vlmforensics.ui.routes import install

    if mcp and find_spec("mcp") is None:
        raise MissingExtra('the MCP server needs the package mcp: pip install "gradio[mcp]"')

    if not is_loopback(host) and auth is None:
        raise SettingsError(
            f"{host} can be reached from other computers: give --auth USER:PASSWORD (or {AUTH_VARIABLE}), "
            "or stay on 127.0.0.1"
        )
    try:
        app, local, _ = blocks.launch(
            server_name=host,
            server_port=port or _free_port(host),
            auth=auth,
            root_path=root_path,
            theme=theme(),
            css_paths=[STATIC / "page.css"],
            head="".join(
                f"<script>{(STATIC / name).read_text(encoding='utf-8')}</script>" for name in SCRIPTS
            ),
            favicon_path=STATIC / "icon.svg",
            app_kwargs={"middleware": _middleware(host, settings)},
            max_file_size=settings.max_bytes,
            blocked_paths=blocked_paths(),
            allowed_paths=[],
            footer_links=["api"],
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            show_error=False,
            enable_monitoring=False,
            run_history=False,
            mcp_server=mcp,
            strict_cors=True,
            pwa=False,
            inbrowser=False,
        )
    except OSError as error:
        raise SettingsError(
            f"{host}:{port} can't be served: the port is in use, or the address is not this machine's; try --port 0"
        ) from error
    except ValueError as error:
        if "localhost" not in str(error):
            raise
        raise SettingsError(
            f"the page on {host} does not answer this machine itself in time: the machine is too busy, or "
            "a proxy stands between; try again, or set NO_PROXY=127.0.0.1"
        ) from error
    install(app, blocks.vlmforensics_routes)  # type: ignore[attr-defined]
    return str(local)


def blocked_paths() -> list[str]:
    """The folder the server was started in, unless temporary files, which must be served, lie below it."""
    here = Path.cwd().resolve()
    needed = [Path(tempfile.gettempdir()), Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())]
    return [] if any(path.resolve().is_relative_to(here) for path in needed) else [str(here)]


def serve(
    settings: Settings,
    host: str,
    port: int,
    *,
    auth: str | None,
    root_path: str | None,
    mcp: bool = False,
    assistant_loader: Callable[[], Assistant] | None,
) -> None:
    """See ``vlmforensics.ui.serve``."""
    pair = parse_auth(auth or os.environ.get(AUTH_VARIABLE))
    if not is_loopback(host) and pair is None:
        # Said before the model loads: launch() would say the same, minutes later.
        raise SettingsError(
            f"{host} can be reached from other computers: give --auth USER:PASSWORD (or {AUTH_VARIABLE}), "
            "or stay on 127.0.0.1"
        )
    _keep_loopback_from_proxies()
    with tempfile.TemporaryDirectory(prefix="vlmforensics-ui-") as folder:
        # Uploads lie in a folder of this process, mode 0700, gone when it ends; gradio reads the name when it
        # makes components.
        os.environ["GRADIO_TEMP_DIR"] = folder
        loader = assistant_loader or _loader(settings)
        # Behind a proxy, or a password, visitors are not who runs the page: its model is not theirs to change.
        mine = is_loopback(host) and pair is None and not root_path and assistant_loader is None
        model = Model(loader, (lambda changed: _loader(changed)()) if mine else None)
        _serve_until_told(settings, host, port, pair, root_path, mcp, model)


def _serve_until_told(
    settings: Settings,
    host: str,
    port: int,
    auth: tuple[str, str] | None,
    root_path: str | None,
    mcp: bool,
    model: Model,
) -> None:
    from vlmforensics.ui.app import build_app
    from vlmforensics.ui.state import Sessions

    done = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: done.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    sessions = Sessions()
    try:
        blocks = build_app(model, settings, sessions)
        address = launch(blocks, settings, host, port, auth=auth, root_path=root_path, mcp=mcp)
        # Only now: importing the networks beside gradio would keep the page waiting.
        model.start()
        _say(f"vlmforensics is served on {address}  (Ctrl-C ends it)")
        while not done.wait(MEMORY_SECONDS):
            return_freed_memory()
        _say("\nStopping…")
        sessions.clear()
        blocks.close(verbose=False)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _keep_loopback_from_proxies() -> None:
    """Gradio calls its own address when it starts; a proxy of the environment must not get to see that."""
    for name in ("NO_PROXY", "no_proxy"):
        kept = [part for part in os.environ.get(name, "").split(",") if part]
        os.environ[name] = ",".join([*kept, "127.0.0.1", "localhost", "::1"])


def _loader(settings: Settings) -> Callable[[], Assistant]:
    def load() -> Assistant:
        from vlmforensics.assistant import Assistant

        _say(f"Loading the model “{settings.model}”…")
        assistant = Assistant.load(settings.model, settings=settings)
        _say("The model is ready.")
        return assistant

    return load


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _free_port(host: str) -> int:
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host.strip("[]"), 0))
        return int(probe.getsockname()[1])


def _middleware(host: str, settings: Settings) -> list[Any]:
    from starlette.middleware import Middleware

    from vlmforensics.ui.guards import Guard, SlowLogin

    # An upload may hold several pictures; each has its own limit behind this one.
    out = [
        Middleware(_Headers),
        Middleware(Guard, max_upload=MOST_PICTURES * settings.max_bytes),
        Middleware(SlowLogin),
    ]
    if is_loopback(host):
        # A page elsewhere may point its own name at 127.0.0.1 (DNS rebinding); such a Host is not ours.
        out.append(Middleware(_LocalHost))
    return out


class _Headers:
    """ASGI middleware: security headers on every answer."""

    HEADERS = (
        (b"content-security-policy", CONTENT_POLICY.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"x-frame-options", b"SAMEORIGIN"),
        (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
        (b"cross-origin-resource-policy", b"same-origin"),
    )

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self.HEADERS]
            await send(message)

        await self.app(scope, receive, sending if scope["type"] == "http" else send)


class _LocalHost:
    """ASGI middleware: answers only requests that name this computer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            named = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            host = named.rsplit(":", 1)[0] if not named.endswith("]") else named
            if not is_loopback(host):
                from starlette.responses import PlainTextResponse

                answer = PlainTextResponse("This page answers only on localhost.", status_code=421)
                await answer(scope, receive, send)
                return
        await self.app(scope, receive, send)
