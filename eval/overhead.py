"""What protection and signals cost, in processor time and as ratios of one run: nothing here depends on the machine."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vlmforensics.errors import ModelError, SettingsError
from vlmforensics.imaging import encode, open_case, resize
from vlmforensics.imaging.decode import Job, decode
from vlmforensics.imaging.sandbox import Worker
from vlmforensics.signals import load_sources
from vlmforensics.types import Pixels

ADDRESS_SPACE = 4 << 30
WAIT_SECONDS = 60.0
ROUNDS = 20
REPEATS = 5
"""Runs of each signal, of which the cheapest counts."""
BUDGET = 6.0
"""What all local signals may cost on a JPEG of 12 megapixels, × decoding it, besides the towers' pass."""
READ_OUT, PHOTONS = 2.0, 0.05
"""Variance of a sensor's noise: in the dark, and per grey level of light (deviation 2.9 at mid-grey)."""
SHARPENING = 1.0
"""Share of the finest detail that the camera adds again."""

_log = logging.getLogger(__name__)


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


def photograph(height: int, width: int, seed: int = 0) -> Pixels:
    """A picture as a camera would write it, uint8 (height, width, 3); the same for the same arguments.

    Four photographs that ship with scikit-image, beside one another and enlarged, are seen by a sensor behind a Bayer
    mosaic, with photon and read-out noise, demosaiced and sharpened. What signals cost depends on what they see: noise
    without structure has few keypoints, and a single photograph of this origin, enlarged to 12 megapixels, has no more
    of them. Four fill a picture with detail even at the size that copy-move examines.
    """
    from skimage import data

    tall, wide = -(-height // 2), -(-width // 2)
    parts = []
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        shipped = getattr(data, name)()
        rows = min(shipped.shape[0], shipped.shape[1] * tall // wide)
        cut = np.ascontiguousarray(shipped[:rows, : rows * wide // tall])
        parts.append(resize(cut, wide, tall, resample="bicubic"))
    light = np.vstack([np.hstack(parts[:2]), np.hstack(parts[2:])])[:height, :width]
    mosaic = light[..., 1].astype(np.float32)
    mosaic[::2, ::2], mosaic[1::2, 1::2] = light[::2, ::2, 0], light[1::2, 1::2, 2]
    noise = np.random.default_rng(seed).standard_normal(mosaic.shape, dtype=np.float32)
    mosaic += np.sqrt(READ_OUT + PHOTONS * mosaic) * noise
    raw = np.clip(np.rint(mosaic), 0, 255).astype(np.uint8)
    seen = cv2.cvtColor(raw, cv2.COLOR_BayerRGGB2RGB).astype(np.float32)
    sharp = seen + SHARPENING * (seen - cv2.GaussianBlur(seen, (0, 0), 1.0))
    return np.asarray(np.clip(np.rint(sharp), 0, 255), dtype=np.uint8)


@dataclass(frozen=True)
class Costs:
    """Processor time on one JPEG, as multiples of decoding that JPEG.

    Attributes:
        sources: of each local signal, by name.
        tower: of one pass of the compact model's towers, by name, with the reduction to their size; empty where
            their weights or packages are missing.
    """

    sources: Mapping[str, float]
    tower: Mapping[str, float]

    @property
    def total(self) -> float:
        """All local signals together."""
        return sum(self.sources.values())

    @property
    def allowed(self) -> float:
        """What they may cost: :data:`BUDGET`, plus the towers' pass."""
        return BUDGET + sum(self.tower.values())

    def lines(self) -> list[str]:
        """A table in plain text, dearest first, and whether the budget holds."""
        rows = sorted(self.sources.items(), key=lambda item: -item[1])
        lines = [f"  {name:24} {ratio:7.2f} ×" for name, ratio in rows]
        lines.append(f"  {'all local signals':24} {self.total:7.2f} ×")
        lines += [f"  {name:24} {ratio:7.2f} ×" for name, ratio in self.tower.items()]
        pass_ = (
            f"the towers' pass = {self.allowed:.2f}" if self.tower else "the towers' pass, not measured here"
        )
        kept = "kept" if self.total <= self.allowed else "exceeded"
        return [*lines, f"budget: {BUDGET:.0f} + {pass_}; {kept}"]


def costs(height: int = 3000, width: int = 4000) -> Costs:
    """Measure every local signal, and the towers' pass, on one JPEG of quality 90.

    Other work on the machine only ever adds to processor time, so the least of several runs counts, and decoding is
    measured beside each with as many.

    Args:
        height: of the picture, in pixels.
        width: the same.
    """
    data = encode(photograph(height, width), "JPEG", quality=90)
    case = open_case(data)
    job = Job("JPEG", width, height, 8, 1, 10**8)
    sources: dict[str, Callable[[], Any]]
    sources = {source.name: partial(source.examine, case) for source in load_sources()}
    passes = tower_passes(case.upright)
    ratios: dict[str, float] = {}
    for name, run in (sources | passes).items():
        least = [math.inf, math.inf]
        for _ in range(REPEATS):
            actions: tuple[Callable[[], Any], ...] = (partial(decode, data, job), run)
            for place, action in enumerate(actions):
                start = time.process_time()
                action()
                least[place] = min(least[place], time.process_time() - start)
        ratios[name] = least[1] / least[0]
    return Costs(
        {name: ratio for name, ratio in ratios.items() if name in sources},
        {name: ratio for name, ratio in ratios.items() if name in passes},
    )


def tower_passes(pixels: Pixels) -> dict[str, Callable[[], Any]]:
    """What each of the compact model's towers does once for every picture; empty where they can't be loaded.

    Args:
        pixels: uint8 (H, W, 3), upright.
    """
    try:
        from vlmforensics.compact import clip
        from vlmforensics.compact.assembly import build_base
        from vlmforensics.compact.tower import squash

        look, whole = build_base().tower, clip.load()
    except (ModelError, ModuleNotFoundError) as error:
        _log.warning("the towers are not measured: %s", error)
        return {}
    return {
        "tower (DINOv2, a look)": lambda: look.features([squash(pixels)]),
        "tower (CLIP, the whole)": lambda: whole.read(pixels),
    }


def report() -> str:
    """Both tables as plain lines."""
    box = sandbox_ratio()
    lines = [
        f"decoding a PNG of one megapixel in its own process costs {box['ratio']:.2f} × decoding it here "
        f"({1000 * (box['outside'] - box['inside']):+.1f} ms); starting the process costs {box['start']:.2f} s once",
        "local signals on a JPEG of 12 megapixels, as multiples of decoding it:",
    ]
    return "\n".join([*lines, *costs().lines()])
