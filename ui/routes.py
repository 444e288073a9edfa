"""Plain HTTP beside gradio's: the layers of a picture for the viewer, and a health check for whoever runs the page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from vlmforensics.types import Box
from vlmforensics.ui import views
from vlmforensics.ui.flow import Model
from vlmforensics.ui.state import Kept, Sessions

PREFIX = "/vf"
_PRIVATE = {"cache-control": "private, no-store"}


def routes(sessions: Sessions, model: Model) -> list[Route]:
    """The routes; a case's id, which nobody can guess, is what opens its picture."""
    shows: dict[str, Callable[[Request, Kept], tuple[bytes, str]]] = {
        "whole": _whole,
        "marks": _marks,
        "piece": _piece,
    }
    pictures = [
        Route(f"{PREFIX}/{{case}}/{name}", partial(_picture, sessions, show), methods=["GET"])
        for name, show in shows.items()
    ]
    return [*pictures, Route("/health", partial(_health, model), methods=["GET"])]


def install(app: Any, extra: list[Route]) -> None:
    """Put routes before gradio's own, whose last one takes every address."""
    app.router.routes[:0] = extra


async def _health(model: Model, request: Request) -> Response:
    """200 while the page can serve or is loading, 503 where its model can't be loaded."""
    del request
    failed = model.state == "failed"
    return JSONResponse(
        {"status": "failed" if failed else "ok", "model": model.state}, 503 if failed else 200
    )


async def _picture(
    sessions: Sessions, show: Callable[[Request, Kept], tuple[bytes, str]], request: Request
) -> Response:
    if not _may_see(request):
        return PlainTextResponse("Sign in first.", 401)
    kept = sessions.find(request.path_params["case"])
    if kept is None:
        return PlainTextResponse("This picture has been forgotten.", 404)
    try:
        data, kind = await asyncio.to_thread(show, request, kept)
    except ValueError:
        return PlainTextResponse("That is no part of this picture.", 400)
    return Response(data, media_type=kind, headers=_PRIVATE)


def _may_see(request: Request) -> bool:
    """As gradio checks its own routes."""
    app = request.app
    if getattr(app, "auth", None) is None:
        return True
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(app.tokens.get(request.cookies.get(name)) is not None for name in names)


def _whole(request: Request, kept: Kept) -> tuple[bytes, str]:
    del request
    return views.whole(kept.report)


def _marks(request: Request, kept: Kept) -> tuple[bytes, str]:
    keys = request.query_params.get("show", "")[:400].split(",")
    return views.marks(kept.report, keys, kept.asked), "image/png"


def _piece(request: Request, kept: Kept) -> tuple[bytes, str]:
    x0, y0, x1, y1 = (int(request.query_params.get(name, "")) for name in ("x0", "y0", "x1", "y1"))
    case = kept.report.case
    if not (0 <= x0 < x1 and 0 <= y0 < y1 and x0 < case.width and y0 < case.height):
        raise ValueError("outside the picture")
    return views.piece(kept.report, Box(x0, y0, x1, y1)), "image/png"
