"""What protection and signals cost, in processor time and as ratios of one run: nothing here depends on the machine."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from vlmforensics.errors import SettingsError
from vlmforensics.imaging import encode, open_case
from vlmforensics.imaging.decode import Job, decode
from vlmforensics.imaging.sandbox import Worker
from vlmforensics.signals import load_sources
from vlmforensics.types import Pixels

ADDRESS_SPACE = 4 << 30
WAIT_SECONDS = 60.0
ROUNDS = 20


def scene(height: int, width: int, seed: int = 0) -> Pixels:
    """A smooth, noisy picture, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    grey = 120 + 60 * np.sin(rows / 37) * np.cos(columns / 53) + rng.normal(0, 4, (height, width))
    pixels: Pixels = np.clip(np.stack([grey, 0.9 * grey, 0.8 * grey], axis=-1), 0, 255).astype(np.uint8)
    return pixels


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far.

    Raises:
        SettingsError: the system has no ``/proc``.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2]
    except OSError as error:
        raise SettingsError("this measurement reads processor time from /proc; run it on Linux") from error
    words = fields.split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def sandbox_ratio(height: int = 1000, width: int = 1000) -> dict[str, float]:
    """Decoding in the process of its own against decoding here, both processes' processor time counted.

    Returns:
        ``inside`` and ``outside`` in seconds per picture, their ``ratio``, and ``start``: seconds that starting the
        process takes once.
    """
    data, job = encode(scene(height, width), "PNG"), Job("PNG", width, height, 8, 1, 10**8)
    worker = Worker(ADDRESS_SPACE)
    worker.start()
    pid = worker.pid or 0
    start = processor_seconds(pid)
    worker.decode(data, job, WAIT_SECONDS)
    decode(data, job)
    ours, theirs = time.thread_time(), processor_seconds(pid)
    for _ in range(ROUNDS):
        worker.decode(data, job, WAIT_SECONDS)
    outside = (time.thread_time() - ours + processor_seconds(pid) - theirs) / ROUNDS
    worker.close()
    ours = time.thread_time()
    for _ in range(ROUNDS):
        decode(data, job)
    inside = (time.thread_time() - ours) / ROUNDS
    return {"inside": inside, "outside": outside, "ratio": outside / inside, "start": start}


def signal_ratios(height: int = 1200, width: int = 1600) -> dict[str, float]:
    """Processor time of each local signal on one JPEG, as a multiple of decoding that JPEG."""
    data = encode(scene(height, width), "JPEG")
    case = open_case(data)
    job = Job("JPEG", width, height, 8, 1, 10**8)
    decode(data, job)
    start = time.process_time()
    for _ in range(ROUNDS):
        decode(data, job)
    unit = (time.process_time() - start) / ROUNDS
    found = {}
    for source in load_sources():
        source.examine(case)
        start = time.process_time()
        source.examine(case)
        found[source.name] = (time.process_time() - start) / unit
    return found


def report() -> str:
    """Both tables as plain lines."""
    box = sandbox_ratio()
    lines = [
        f"decoding a PNG of one megapixel in its own process costs {box['ratio']:.2f} × decoding it here "
        f"({1000 * (box['outside'] - box['inside']):+.1f} ms); starting the process costs {box['start']:.2f} s once",
        "local signals on a JPEG of two megapixels, as multiples of decoding it:",
    ]
    rows = sorted(signal_ratios().items(), key=lambda item: -item[1])
    return "\n".join([*lines, *(f"  {name:24} {ratio:7.1f} ×" for name, ratio in rows)])
