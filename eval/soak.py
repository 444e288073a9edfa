"""Mixed traffic on the served page, for minutes or hours: memory, handles and threads must stay flat.

The server is a process of its own (``vlmforensics ui``), so what is sampled is what a user would run. Clients upload
pictures of many sizes, damaged ones and what is no picture, ask for text now and then, leave in the middle, and send
requests that must be refused. A request is lost where it gets neither a record nor a refusal that it should get.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlmforensics.errors import Defect, SettingsError
from vlmforensics.eval.overhead import scene
from vlmforensics.imaging import encode
from vlmforensics.imaging.specimens import specimens

START_SECONDS = 600.0
CALL_SECONDS = 600.0
KINDS = ("picture", "picture", "picture", "small", "damaged", "no picture", "text", "leaves", "refused")


@dataclass(frozen=True)
class Sample:
    """What a process holds at one moment: seconds since the start, MiB resident, open files, threads, children."""

    seconds: float
    mib: float
    handles: int
    threads: int
    children: int


def sample(pid: int, began: float) -> Sample:
    """Look at a process through ``/proc``.

    Raises:
        SettingsError: there is no ``/proc``, or the process is gone.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        handles = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - one call, no objects
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError as error:
        raise SettingsError(f"process {pid} can't be looked at ({error}); a soak needs Linux") from error
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    resident, threads = (int(fields[name].split()[0]) for name in ("VmRSS", "Threads"))
    return Sample(round(time.monotonic() - began, 1), resident / 1024, handles, threads, len(children))


def flatness(samples: Sequence[Sample]) -> dict[str, Any]:
    """Compare the second quarter of a run with its last: medians, and whether nothing grew.

    The first quarter is left out: caches fill and pools start. Flat means at most 10 % more memory, and at most a
    tenth (at least two) more handles, threads or children.

    Raises:
        SettingsError: fewer than eight samples.
    """
    if len(samples) < 8:
        raise SettingsError(f"{len(samples)} samples are too few; let it run for longer")
    quarter = len(samples) // 4
    result: dict[str, Any] = {}
    for name in ("mib", "handles", "threads", "children"):
        early = float(np.median([getattr(item, name) for item in samples[quarter : 2 * quarter]]))
        late = float(np.median([getattr(item, name) for item in samples[-quarter:]]))
        room = 0.1 * early if name == "mib" else max(2.0, 0.1 * early)
        result[name] = {"early": round(early, 1), "late": round(late, 1), "flat": late <= early + room}
    return result


class _Traffic:
    """Clients of one page; counts how each request ended."""

    def __init__(self, url: str, folder: Path, stop: threading.Event, seed: int) -> None:
        self.url, self.folder, self.stop = url, folder, stop
        self.seed = seed
        self.ended: Counter[str] = Counter()
        self.lost: list[str] = []
        self._lock = threading.Lock()

    def run(self, number: int) -> None:
        """One client, until told to stop."""
        from gradio_client import Client  # type: ignore[import-untyped]

        rng = random.Random(f"{self.seed}/{number}")  # noqa: S311 - traffic, no secrets
        client = Client(self.url, verbose=False, analytics_enabled=False)
        while not self.stop.is_set():
            kind = rng.choice(KINDS)
            try:
                said = getattr(self, f"_{kind.replace(' ', '_')}")(client, rng)
            except Exception as error:  # noqa: BLE001 - boundary: whatever it was, the request was lost
                said = f"lost: {type(error).__name__}: {str(error)[:200]}"
            with self._lock:
                self.ended[f"{kind}: {said.split(':')[0]}"] += 1
                if said.startswith("lost"):
                    self.lost.append(f"{kind}: {said}")

    def _examine(self, client: Any, name: str, data: bytes, *, text: bool = False) -> dict[str, Any]:
        from gradio_client import handle_file  # type: ignore[import-untyped]

        path = self.folder / f"{threading.get_ident()}-{name}"
        path.write_bytes(data)
        job = client.submit(handle_file(str(path)), text, api_name="/examine")
        record: dict[str, Any] = job.result(timeout=CALL_SECONDS)
        if record["sha256"] not in (None, hashlib.sha256(data).hexdigest()):
            raise Defect("the record is of another picture")
        return record

    def _judged(self, record: dict[str, Any]) -> str:
        return "judged" if record["verdict"] and not record["error"] else f"lost: {record['error']}"

    def _picture(self, client: Any, rng: random.Random) -> str:
        height, width = rng.randrange(200, 700), rng.randrange(200, 700)
        return self._judged(
            self._examine(client, "a.jpg", encode(scene(height, width, rng.randrange(99)), "JPEG"))
        )

    def _small(self, client: Any, rng: random.Random) -> str:
        names = [name for name in specimens() if name not in ("tiff nan", "tiff infinite")]
        return self._judged(self._examine(client, "s.bin", specimens()[rng.choice(names)]))

    def _text(self, client: Any, rng: random.Random) -> str:
        data = encode(scene(300, 300, rng.randrange(99)), "PNG")
        record = self._examine(client, "t.png", data, text=True)
        return self._judged(record) if record["explanation"] else "lost: no explanation"

    def _damaged(self, client: Any, rng: random.Random) -> str:
        data = encode(scene(200, 200), "JPEG")
        record = self._examine(client, "d.jpg", data[: rng.randrange(10, len(data) - 10)])
        return "refused" if record["error"] and not record["verdict"] else "lost: damaged data were judged"

    def _no_picture(self, client: Any, rng: random.Random) -> str:
        record = self._examine(
            client, "n.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>" * rng.randrange(1, 50)
        )
        return "refused" if record["error"] and not record["verdict"] else "lost: text was judged"

    def _leaves(self, client: Any, rng: random.Random) -> str:
        from gradio_client import handle_file  # type: ignore[import-untyped]

        path = self.folder / f"{threading.get_ident()}-l.jpg"
        path.write_bytes(encode(scene(400, 400), "JPEG"))
        job = client.submit(handle_file(str(path)), False, api_name="/examine")
        self.stop.wait(rng.random())
        job.cancel()
        return "left"

    def _refused(self, client: Any, rng: random.Random) -> str:
        import httpx

        path = rng.choice(
            ("file=/etc/passwd", "vibe-edit", "proxy=https://example.org/", "file=../../etc/passwd")
        )
        status = httpx.get(f"{self.url}gradio_api/{path}", trust_env=False, timeout=60).status_code
        return "refused" if status in (403, 404, 405) else f"lost: {path} was answered with {status}"


def run(
    minutes: float, *, clients: int = 3, seed: int = 0, every: float = 2.0, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Serve the page, send traffic for ``minutes``, and say what was held and what was lost.

    Raises:
        Defect: the server did not start, or ended before it was told to.
    """
    with tempfile.TemporaryDirectory(prefix="vlmforensics-soak-") as name:
        server, url = _serve(Path(name))
        stop = threading.Event()
        traffic = _Traffic(url, Path(name), stop, seed)
        threads = [threading.Thread(target=traffic.run, args=(number,)) for number in range(clients)]
        try:
            _until_ready(traffic)
            began = time.monotonic()
            for thread in threads:
                thread.start()
            samples = []
            while time.monotonic() - began < 60 * minutes:
                if server.poll() is not None:
                    raise Defect(f"the server ended with {server.returncode} under load")
                samples.append(sample(server.pid, began))
                if len(samples) % 30 == 0:
                    progress(
                        f"{samples[-1]}, {sum(traffic.ended.values())} requests, {len(traffic.lost)} lost"
                    )
                time.sleep(every)
        finally:
            stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join(CALL_SECONDS)
            server.terminate()
            server.wait(60)
    return {
        "minutes": minutes,
        "clients": clients,
        "requests": dict(sorted(traffic.ended.items())),
        "lost": traffic.lost,
        "flat": flatness(samples),
        "first": asdict(samples[0]),
        "last": asdict(samples[-1]),
        "samples": len(samples),
    }


def _serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "vlmforensics.cli", "ui", "--port", "0"]
    log = (folder / "server.log").open("w+", encoding="utf-8")
    server = subprocess.Popen(command, stderr=log, stdout=subprocess.DEVNULL, text=True)
    began = time.monotonic()
    while time.monotonic() - began < START_SECONDS and server.poll() is None:
        found = re.search(r"http://\S+", (folder / "server.log").read_text(encoding="utf-8"))
        if found:
            return server, found.group()
        time.sleep(0.5)
    server.kill()
    raise Defect("the page was not served: " + (folder / "server.log").read_text(encoding="utf-8")[-300:])


def _until_ready(traffic: _Traffic) -> None:
    """Wait for the model by having one picture examined."""
    from gradio_client import Client  # type: ignore[import-untyped]

    client = Client(traffic.url, verbose=False, analytics_enabled=False)
    said = traffic._picture(client, random.Random(0))  # noqa: S311
    if said != "judged":
        raise Defect(f"the first picture was not examined: {said}")
