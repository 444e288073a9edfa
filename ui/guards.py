"""What stands between the network and gradio: closed routes, bounded bodies, patience with an end, slow log-ins.

Plain ASGI middleware, for it must see bodies before anything keeps them.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

CLOSED = (
    "vibe-",
    "undo-vibe-",
    "process_recording",
    "run-history",
    "profiling",
    "dev/",
    "stream",
    "deep_link",
    "proxy=",
)
"""First words of gradio's routes that the page does not use (development, recording, editing, other servers)."""
UPLOAD = "upload"
LOGIN = "/login"


def _tail(path: str) -> str:
    """The route's name behind gradio's prefix, or the path as it is."""
    return path.partition("/gradio_api/")[2] or path.lstrip("/")


def _closed(tail: str) -> bool:
    # gradio answers file=https://… with a redirect there: a link to us that leads elsewhere
    return tail.startswith(CLOSED) or (tail.startswith("file") and "://" in tail)


async def _answer(send: Send, status: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    body = text.encode()
    head = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*head, (b"connection", b"close")]}
    )
    await send({"type": "http.response.body", "body": body})


class _TooLarge(Exception):
    pass


class _TooSlow(Exception):
    pass


class Guard:
    """Closes unused routes and bounds what one request, and all together, may take.

    Args:
        app: what is guarded.
        max_upload: bytes of the body of an upload.
        max_body: bytes of any other body.
        idle_seconds: the longest pause between two pieces of a body; a client that is slower is let go.
        body_seconds: the longest time that a whole body may take.
        most: requests under way at once; waiting for results (server-sent events) counts.
        most_each: of one address.
    """

    def __init__(
        self,
        app: Any,
        *,
        max_upload: int,
        max_body: int = 1 << 20,
        idle_seconds: float = 30.0,
        body_seconds: float = 600.0,
        most: int = 512,
        most_each: int = 256,
    ) -> None:
        self.app = app
        self.max_upload, self.max_body = max_upload, max_body
        self.idle_seconds, self.body_seconds = idle_seconds, body_seconds
        self.most, self.most_each = most, most_each
        self._under_way: dict[str, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if _closed(_tail(scope["path"])):
            await _answer(send, 404, "There is no such page.")
            return
        who = str((scope.get("client") or ("", 0))[0])
        if sum(self._under_way.values()) >= self.most or self._under_way.get(who, 0) >= self.most_each:
            await _answer(
                send, 503, "Too many requests at once; try again in a minute.", ((b"retry-after", b"60"),)
            )
            return
        self._under_way[who] = self._under_way.get(who, 0) + 1
        try:
            await self._bounded(scope, receive, send)
        finally:
            self._under_way[who] -= 1
            if not self._under_way[who]:
                del self._under_way[who]

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            # Nobody reads a body here, and who waits for events must see at once that the client has left.
            await self.app(scope, receive, send)
            return
        upload = _tail(scope["path"]).rstrip("/") == UPLOAD
        limit = self.max_upload if upload else self.max_body
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            await _answer(send, 413, f"The request is over the limit of {limit:,} bytes.")
            return
        started = False
        deadline = time.monotonic() + self.body_seconds
        taken, whole = 0, False

        async def receiving() -> MutableMapping[str, Any]:
            nonlocal taken, whole
            if whole:
                return await receive()  # waits for the client to leave, however long that takes
            left = min(self.idle_seconds, deadline - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.001))
            except TimeoutError as error:
                raise _TooSlow from error
            taken += len(message.get("body", b""))
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            if taken > limit:
                raise _TooLarge
            return message

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receiving, sending)
        except _TooLarge:
            if not started:
                await _answer(send, 413, f"The request is over the limit of {limit:,} bytes.")
        except _TooSlow:
            if not started:
                await _answer(send, 408, "The request took too long.")


class SlowLogin:
    """Makes guessing passwords slow: each wrong one doubles the wait before the address's next answer.

    Args:
        app: what is guarded; a log-in that fails is answered with a status of 400 or more by it.
        first: seconds after the first wrong password.
        longest: seconds at most.
        forget: seconds without a wrong password after which an address is forgotten.
        sleep, clock: of the event loop; replaced in tests.
    """

    MOST = 4096

    def __init__(
        self,
        app: Any,
        *,
        first: float = 1.0,
        longest: float = 60.0,
        forget: float = 900.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self.first, self.longest, self.forget = first, longest, forget
        self._sleep, self._clock = sleep, clock
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._trying: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; a guess of a password after its wait."""
        if (
            scope["type"] != "http"
            or scope["method"] != "POST"
            or not scope["path"].rstrip("/").endswith(LOGIN)
        ):
            await self.app(scope, receive, send)
            return
        who = str((scope.get("client") or ("", 0))[0])
        if who in self._trying:  # one guess at a time, or parallel guesses would share one wait
            await _answer(send, 429, "One log-in at a time.", ((b"retry-after", b"1"),))
            return
        self._trying.add(who)
        try:
            wait = self.wait_of(who)
            if wait:
                await self._sleep(wait)
            await self.app(scope, receive, self._watching(who, send))
        finally:
            self._trying.discard(who)

    def wait_of(self, who: str) -> float:
        """Seconds that an address waits before its next guess is looked at."""
        count, latest = self._wrong.get(who, (0, 0.0))
        if not count or self._clock() - latest > self.forget:
            self._wrong.pop(who, None)
            return 0.0
        return float(min(self.longest, self.first * 2 ** min(count - 1, 30)))

    def _watching(self, who: str, send: Send) -> Send:
        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                if message["status"] >= 400:
                    self._wrong[who] = (self._wrong.get(who, (0, 0.0))[0] + 1, self._clock())
                    self._wrong.move_to_end(who)
                    while len(self._wrong) > self.MOST:
                        self._wrong.popitem(last=False)
                else:
                    self._wrong.pop(who, None)
            await send(message)

        return sending
