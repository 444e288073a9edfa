"""How the two processes speak: a length, a small JSON, and raw bytes. Nothing is ever unpickled.

Job (parent to worker): ``{"job": {…}, "size": n}`` and the file's n bytes.
Reply (worker to parent): ``{"facts": {…}, "parts": [[name, shape], …]}`` and the parts' bytes in order, or
``{"error": [class, message, code]}``. After start the worker says ``{"ready": true}``.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Protocol

_LENGTH = struct.Struct("<I")
_MAX_JSON = 1 << 20


class ClosedError(Exception):
    """The other side is gone, or speaks nonsense."""


class Reader(Protocol):
    """A raw stream that fills a buffer."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill ``buffer``, return the number of bytes."""
        ...


class Writer(Protocol):
    """A raw stream that takes bytes."""

    def write(self, data: Any, /) -> int | None:
        """Write, return the number of bytes taken."""
        ...


def read_exactly(stream: Reader, buffer: Any) -> None:
    """Fill a writable buffer of bytes.

    Raises:
        ClosedError: the stream ended before.
    """
    view = memoryview(buffer)
    while view:
        try:
            count = stream.readinto(view)
        except (OSError, ValueError) as error:
            raise ClosedError from error
        if not count:
            raise ClosedError
        view = view[count:]


def write_all(stream: Writer, data: Any) -> None:
    """Write every byte of a contiguous buffer.

    Raises:
        ClosedError: the other side does not read any more.
    """
    view = memoryview(data).cast("B")
    while view:
        try:
            view = view[stream.write(view) or 0 :]
        except (OSError, ValueError) as error:
            raise ClosedError from error


def read_message(stream: Reader) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        ClosedError: end of stream, or no such object.
    """
    head = bytearray(_LENGTH.size)
    read_exactly(stream, head)
    size = _LENGTH.unpack(head)[0]
    if size > _MAX_JSON:
        raise ClosedError
    body = bytearray(size)
    read_exactly(stream, body)
    try:
        message = json.loads(body)
    except ValueError as error:
        raise ClosedError from error
    if not isinstance(message, dict):
        raise ClosedError
    return message


def write_message(stream: Writer, message: dict[str, Any]) -> None:
    """Write one JSON object.

    Raises:
        ClosedError: the other side is gone.
    """
    body = json.dumps(message).encode()
    write_all(stream, _LENGTH.pack(len(body)) + body)
