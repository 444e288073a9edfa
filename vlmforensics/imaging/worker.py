"""The decoding process: serves jobs from its standard input until that closes. Only Pillow and NumPy."""

from __future__ import annotations

import os
import select
import sys
from typing import Any

import numpy as np

from vlmforensics.errors import InputError
from vlmforensics.imaging import protocol
from vlmforensics.imaging.decode import Decoded, Job, decode

_ORPHAN_CHECK_SECONDS = 20.0


def main() -> None:
    """Serve jobs; leaves when the parent closes the pipe or dies."""
    # The pipe gets a descriptor of its own, so that a library that prints can't garble it.
    pipe_in, pipe_out = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb", 0)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(null, standard)
    parent = os.getppid()
    _limit(int(sys.argv[1]))
    try:
        protocol.write_message(pipe_out, {"ready": True})
        while _wait(pipe_in.fileno(), parent):
            message = protocol.read_message(pipe_in)
            data = bytearray(int(message["size"]))
            protocol.read_exactly(pipe_in, data)
            _serve(pipe_out, bytes(data), Job(**message["job"]))
    except protocol.ClosedError:
        pass


def _limit(address_space: int) -> None:
    """Cap memory, forbid writing files and core dumps; where the system has no such limits, do without."""
    if sys.platform == "win32":
        return
    import resource

    wanted = ((resource.RLIMIT_AS, address_space), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0))
    for which, value in wanted:
        try:
            resource.setrlimit(which, (value, value))
        except (OSError, ValueError):
            continue


def _wait(descriptor: int, parent: int) -> bool:
    """Wait for a job; False once the parent is gone though some other process keeps the pipe open."""
    if sys.platform == "win32":
        return True
    while True:
        ready, _, _ = select.select([descriptor], [], [], _ORPHAN_CHECK_SECONDS)
        if ready:
            return True
        if os.getppid() != parent:
            return False


def _serve(pipe_out: protocol.Writer, data: bytes, job: Job) -> None:
    try:
        decoded = decode(data, job)
    except InputError as error:
        protocol.write_message(pipe_out, {"error": [type(error).__name__, error.message, error.code]})
        return
    _reply(pipe_out, decoded)


def _reply(pipe_out: protocol.Writer, decoded: Decoded) -> None:
    facts: dict[str, Any] = {
        name: getattr(decoded, name)
        for name in ("mode", "icc", "frames", "bit_depth", "orientation", "notes")
    }
    parts: list[tuple[str, Any]] = []
    for name in ("stored", "shown", "alpha"):
        array = getattr(decoded, name)
        if array is not None:
            parts.append((name, np.ascontiguousarray(array)))
    for name in ("exif", "xmp"):
        block = getattr(decoded, name)
        if block:
            parts.append((name, np.frombuffer(block, np.uint8)))
    protocol.write_message(pipe_out, {"facts": facts, "parts": [[name, part.shape] for name, part in parts]})
    for _, part in parts:
        protocol.write_all(pipe_out, part)


if __name__ == "__main__":
    main()
