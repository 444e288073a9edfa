"""The process that examines: jobs come in on standard input, records go out, one JSON line each.

Standard output belongs to the protocol; whatever a library prints goes to standard error. The process ends at
once when its parent is gone.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from collections.abc import Sequence
from typing import IO, Any

from vlmforensics.batch.inputs import Job
from vlmforensics.batch.lanes import ThreadLane
from vlmforensics.batch.process import prepare_process
from vlmforensics.batch.work import Record
from vlmforensics.errors import VlmForensicsError


def main() -> None:
    """Serve until told to end, or until standard input closes."""
    incoming = sys.stdin.buffer
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    prepare_process()
    _Child(incoming, outgoing).serve()


class _Child:
    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._lock = threading.Lock()

    def serve(self) -> None:
        lane = self._lane()
        if lane is None:
            return
        self._say({"ready": True, "group": lane.group})
        for line in self._incoming:
            message = json.loads(line)
            if "job" in message:
                lane.submit(message["number"], Job.from_json(message["job"]))
            elif message.get("order") == "flush":
                lane.flush()
            elif message.get("order") == "cancel":
                lane.cancel()
            elif message.get("order") == "end":
                lane.close(now=False)
                return
        os._exit(1)  # the parent is gone: nobody takes what is under way

    def _lane(self) -> ThreadLane | None:
        first = json.loads(self._incoming.readline())
        module, _, name = first["factory"].partition(":")
        try:
            factory = getattr(importlib.import_module(module), name).from_json(first["arguments"])
            work = factory()
        except VlmForensicsError as error:
            self._say({"fatal": [type(error).__name__, error.code, str(error)]})
            return None
        model = getattr(getattr(work, "assistant", None), "model", None)
        if model is not None:
            from vlmforensics.report import model_fields

            self._say({"model": model_fields(model)})
        return ThreadLane(work, first["workers"], self._done, self._reached)

    def _done(self, number: int, record: Record | None) -> None:
        self._say({"number": number, "record": record})

    def _reached(self, stage: str, numbers: Sequence[int]) -> None:
        self._say({"stage": stage, "numbers": list(numbers)})

    def _say(self, message: dict[str, Any]) -> None:
        line = json.dumps(message, ensure_ascii=True).encode("ascii") + b"\n"
        with self._lock:
            self._outgoing.write(line)
            self._outgoing.flush()


if __name__ == "__main__":
    main()
