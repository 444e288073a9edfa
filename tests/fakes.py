"""Scripted parts for tests of the rooms above the networks: an assistant without weights and torch."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np

from vlmforensics.assistant import Assistant
from vlmforensics.fusion import Calibration, SourceCalibration
from vlmforensics.fusion.calibrators import Logistic, Vector
from vlmforensics.fusion.conformal import LabelScores
from vlmforensics.imaging import encode
from vlmforensics.settings import Settings
from vlmforensics.types import LABELS, Box, Evidence, Mask, Region, Reliability, Traces
from vlmforensics.vlm.base import LABEL_HEAD, TEXT, Look

ZERO = np.zeros(3)


def _source(calibrator) -> SourceCalibration:
    return SourceCalibration(
        calibrator=calibrator, weight=np.ones(3), cap=6.0, reach=np.array([3.0, 0, 0]), provenance=False, fixed=False,
        counts=dict.fromkeys(LABELS, 500), task="real against the rest",
        reliability=Reliability(0.8, 0.75, 0.84, 500),
    )  # fmt: skip


def calibration(n: int = 999) -> Calibration:
    """Sources ``brightness`` (bright = tampered), ``blending``, ``mask`` and ``vlm``; scores in [0, 1]."""

    def logistic(slope):
        return Logistic(0.5, 0.25, 0.0, 1.0, ZERO, np.array(slope, float), ZERO)

    vector = Vector(np.full(3, -1.1), np.ones(3), np.full(3, -9.0), np.zeros(3), ZERO, np.eye(3) * 0.8)
    scores = {label: LabelScores.of(np.linspace(-4, 1.0, n), 10) for label in LABELS}
    return Calibration(
        prior=np.array([0.2, -0.1, -0.1]),
        sources={
            "brightness": _source(logistic([-1.0, 0.0, 1.0])),
            "blending": _source(logistic([-0.5, 0.0, 0.5])),
            "mask": _source(logistic([-0.4, 0.0, 0.4])),
            "vlm": _source(vector),
        },
        conformal=scores,
        levels={"synthetic": 0.05, "tampered": 0.05},
        margin=0.1,
    )


class Brightness:
    """A witness that reads the mean grey level."""

    name, version, cost = "brightness", "1", "cpu-seconds"

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.calls = 0

    def examine(self, case):
        self.calls += 1
        time.sleep(self.delay)
        level = float(case.upright.mean()) / 255
        return [
            Evidence(
                "brightness",
                f"The mean grey level is {level:.3f} of 1.",
                score=level,
                recompute={"of": "rgb"},
            )
        ]


class Broken:
    """A witness that breaks."""

    version, cost = "1", "cpu-seconds"

    def __init__(self, name: str = "brightness", error: Exception | None = None) -> None:
        self.name = name
        self.error = error or ZeroDivisionError("division by zero")

    def examine(self, case):
        raise self.error


class Blending:
    """A blending detector that marks the brightest quarter."""

    weights_sha256 = "b" * 64

    def examine_map(self, case):
        height, width = (max(1, side // 4) for side in case.upright.shape[:2])
        boundary = np.linspace(0, 1, height * width, dtype=np.float32).reshape(height, width)
        evidence = Evidence(
            "blending", "The blending score is 0.700 of 1.", score=0.7, heatmap=boundary,
            region=Region(Box(0, 0, max(1, case.width // 2), max(1, case.height // 2))),
        )  # fmt: skip
        return [evidence], Traces(boundary)

    def sentence(self, evidence):
        return f"The blending detector gives {evidence.score:.2f} out of 1."


class Masks:
    """A mask head that marks the upper left quarter, or nothing."""

    weights_sha256 = "c" * 64

    def __init__(self, *, finds: bool = True) -> None:
        self.finds = finds
        self.asked = []

    def locate(self, pixels, *, patches, traces, seg, label_log_probs, points=(), box=None):
        self.asked.append({"patches": patches, "traces": traces, "seg": seg, "log_probs": label_log_probs})
        if not self.finds:
            return None
        height, width = pixels.shape[:2]
        binary = np.zeros((height, width), bool)
        binary[: max(1, height // 2), : max(1, width // 2)] = True
        quarter = Box(0, 0, max(1, width // 2), max(1, height // 2))
        return Mask(np.where(binary, 0.9, 0.1).astype(np.float32), binary, (quarter,), (0.9,), 0.5)

    def evidence(self, mask, pixels_shape):
        if mask is None:
            return [Evidence("mask", "The mask head found no region above 0.50.", score=0.0)]
        said = f"A region of {100 * mask.area_fraction:.1f} % scores 0.90 on average."
        return [Evidence("mask", said, score=0.9, region=Region(mask.boxes[0], mask.binary))]


class Backbone:
    """A backbone with a fixed opinion that says a fixed text."""

    version = "1.0"
    weights_sha256 = "a" * 64
    capabilities = frozenset({LABEL_HEAD, TEXT})

    def __init__(self, chances=(0.2, 0.2, 0.6), says="It looks edited.", name="compact", error=None) -> None:
        self.name = name
        self.log_probs = tuple(math.log(chance) for chance in chances)
        self.says = says
        self.error = error
        self.hints = []
        self.looks = []
        self.lock = threading.Lock()

    def look(self, pixels, hints=(), *, for_text=True):
        if self.error is not None:
            raise self.error
        with self.lock:
            self.hints.append(tuple(hints))
            self.looks.append(for_text)
        patches = {2: np.ones((4, 4, 8), np.float32)}
        return Look(self.log_probs, np.ones(8, np.float32), patches, state="kv" if for_text else None)

    def look_many(self, batch, hints, *, for_text=False):
        return [self.look(pixels, hint, for_text=for_text) for pixels, hint in zip(batch, hints, strict=True)]

    def narrate(self, look, instruction, *, prefix="", max_new_tokens=160, stop=None):
        for word in self.says.split(" "):
            if stop is not None and stop():
                return
            yield word + " "


def make(**parts) -> Assistant:
    """An assistant of fakes; keyword arguments replace single parts."""
    settings = parts.pop("settings", None) or Settings(sandbox=False)
    chosen = {
        "backbone": Backbone(), "sources": [Brightness()], "blending": Blending(), "masks": Masks(),
        "calibration": calibration(), **parts,
    }  # fmt: skip
    return Assistant(**chosen, settings=settings)


def load_slowly(model=None, *, settings=None) -> Assistant:
    """Stands in for ``Assistant.load`` where a test needs time to interrupt."""
    return make(sources=[Brightness(0.1)], settings=settings)


class Poison(Brightness):
    """A witness that some pictures break: their file names say how."""

    def examine(self, case):
        name = Path(case.file).name
        once = Path(case.file).with_suffix(".once")
        if "kill-once" in name and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        elif "kill-always" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        elif "hang" in name:
            time.sleep(600)
        return super().examine(case)


def load_poisoned(model=None, *, settings=None) -> Assistant:
    """Stands in for ``Assistant.load`` where pictures are to break the process."""
    return make(sources=[Poison()], settings=settings)


def load(model=None, *, settings=None) -> Assistant:
    """Stands in for ``Assistant.load``."""
    return make(settings=settings)


def boot(load="load") -> str:
    """The program of a supervised process that loads fakes instead of a model."""
    return (
        "import sys, importlib.util; sys.path.extend(p for p in sys.argv.pop().split({sep!r}) if p not in sys.path); "
        f"spec = importlib.util.spec_from_file_location('child_fakes', {str(Path(__file__))!r}); "
        "fakes = importlib.util.module_from_spec(spec); spec.loader.exec_module(fakes); "
        "from vlmforensics.assistant import Assistant; "
        f"Assistant.load = staticmethod(fakes.{load}); "
        "from vlmforensics.batch.child import main; main()"
    )


def scene(seed: int = 0, width: int = 160, height: int = 120):
    """A picture with structure at all scales, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    total = np.zeros((height, width))
    for octave in range(1, 6):
        fx, fy, phase = rng.uniform(-1, 1, 3)
        total += np.sin((fx * x + fy * y) * 2**octave / 40 + 6 * phase) / octave
    grey = 127 + 40 * total + rng.normal(0, 3, total.shape)
    return np.clip(np.stack([grey, grey * 0.9, grey * 0.8], axis=-1), 0, 255).astype(np.uint8)


def write(path: Path, seed: int = 0, **size) -> Path:
    """Write a scene as JPEG or PNG by the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(scene(seed, **size), "PNG" if path.suffix == ".png" else "JPEG"))
    return path
