"""An assistant without a network: real decoding and drawing, invented findings, scripted text.

The file's name chooses the verdict (``splice``, ``render``, ``unsure``, anything else), so that tests can ask for each.
"""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from vlmforensics import imaging
from vlmforensics.types import (
    LABELS,
    Answer,
    Box,
    Evidence,
    Explanation,
    Mask,
    ModelInfo,
    Region,
    Reliability,
    Report,
    Verdict,
)

STAGES = ("decoding", "signals", "blending", "looking", "mask", "judging")


class FakeAssistant:
    def __init__(self, settings, *, stage_seconds=0.0, word_seconds=0.0):
        self.settings = settings
        self.model = ModelInfo("compact", "0.1.0", "ab" * 32, "cd" * 32, settings.sha256)
        self.backbone = SimpleNamespace()  # writes one text at a time
        self.stage_seconds = stage_seconds
        self.word_seconds = word_seconds
        self.running = 0
        self.most_running = 0
        self._lock = threading.Lock()

    def examine(self, source, *, file=None, progress=None, for_text=True):
        with self._counted():
            case = None
            for stage in STAGES:
                if progress is not None:
                    progress(stage)
                if stage == "decoding":
                    given = source if isinstance(source, bytes) else Path(source)
                    case = imaging.open_case(given, file=file, settings=self.settings)
                time.sleep(self.stage_seconds)
            return judge(case, self.model)

    def locate(self, report, *, box=None, points=()):
        if box is None:
            x, y = (int(value) for value in points[0])
            box = Box(max(0, x - 20), max(0, y - 20), x + 20, y + 20)
        soft = _blob(*report.case.upright.shape[:2], box)
        return Mask(soft, soft > 0.5, (box,), (0.8,), 0.5)

    def explain(self, report, *, stop=None):
        cited = " ".join(f"{item.statement[:-1]} [{item.id}]." for item in report.evidence[:3])
        lead = {
            "real": "No sign of manipulation was found in this picture",
            "synthetic": "The evidence supports that the whole picture was generated",
            "tampered": "The evidence supports that a part of this picture was replaced",
            "inconclusive": "The evidence does not allow a verdict",
        }[report.verdict.label]
        text = f"{lead} [{', '.join(item.id for item in report.evidence[:2])}]. {cited}"
        said = yield from self._words(text, stop)
        report.explanation = Explanation(said, sentences=4)

    def explain_many(self, reports, *, stop=None):
        for report in reports:
            for _ in self.explain(report, stop=stop):
                pass

    def ask(self, report, question, *, stop=None):
        return "".join(self.ask_stream(report, question, stop=stop))

    def ask_stream(self, report, question, *, stop=None):
        item = report.evidence[0]
        text = f"You asked “{question}” about {report.file}. {item.statement} [{item.id}]"
        said = yield from self._words(text, stop)
        report.conversation = (*report.conversation, Answer(question, said, (item.id,)))

    def _words(self, text, stop):
        said = []
        with self._counted():
            for word in text.split(" "):
                if stop is not None and stop():
                    break
                piece = word if not said else f" {word}"
                said.append(piece)
                yield piece
                time.sleep(self.word_seconds)
        return "".join(said)

    def _counted(self):
        return _Counted(self)


class _Counted:
    def __init__(self, owner):
        self.owner = owner

    def __enter__(self):
        with self.owner._lock:
            self.owner.running += 1
            self.owner.most_running = max(self.owner.most_running, self.owner.running)

    def __exit__(self, *_):
        with self.owner._lock:
            self.owner.running -= 1


def judge(case, model):
    kind = next((name for name in ("splice", "render", "unsure") if name in case.file.lower()), "plain")
    height, width = case.upright.shape[:2]
    box = Box(
        width // 4, height // 3, max(width // 4 + 1, width * 3 // 5), max(height // 3 + 1, height * 3 // 4)
    )
    soft = _blob(height, width, box)
    share = 100 * float((soft > 0.5).mean())
    edited = {"splice": 1.0, "plain": -1.0, "render": 0.1, "unsure": 0.25}[kind]
    made = {"render": 1.0, "plain": -0.6, "splice": -0.4, "unsure": 0.2}[kind]
    clear = edited > 0.5
    software = case.container.exif.get("Software", "none")
    region = Region(box, soft > 0.5) if clear else None
    # source, weight for synthetic, weight for tampered, statement, region, heat map, share of right answers
    found = [
        ("vlm", made * 1.7, edited * 1.2, f"The label head says {made * 1.7:+.2f} nats.", None, None, 0.74),
        ("blending", 0.0, edited * 2.1, f"Boundary map: {0.87 if clear else 0.21}.", Region(box), soft, 0.83),
        ("noise", -0.2, edited * 1.4, f"Noise differs {2.4 if clear else 1.1} times.", None, soft[::8, ::8], 0.71),
        ("spectrum", made * 1.1, 0.0, f"The spectrum shows {3 if made > 0.5 else 0} peaks.", None, None, 0.69),
        ("editor_traces", 0.0, 0.0, f"The file names the software “{software}”.", None, None, None),
        ("mask", -0.1, edited * 1.6, f"A region of {share:.1f} % stands out." if clear else "No region stands out.",
         region, None, 0.78),
    ]  # fmt: skip
    evidence = tuple(
        Evidence(
            source=source,
            statement=statement,
            score=synthetic + tampered,
            status="observed" if source == "vlm" else "measured",
            region=where,
            heatmap=None if heat is None else np.ascontiguousarray(heat),
            id=f"E{number}",
            llr=_labels(synthetic, tampered),
            contribution=_labels(synthetic, tampered),
            strength=_strength(max(abs(synthetic), abs(tampered))),
            reliability=None if right is None else Reliability(right, right - 0.03, right + 0.03, 512),
        )
        for number, (source, synthetic, tampered, statement, where, heat, right) in enumerate(found, 1)
    )
    verdict = _verdict(evidence, unsure=kind == "unsure", clear=clear)
    mask = Mask(soft, soft > 0.5, (box,), (0.91,), 0.5) if clear else None
    return Report(
        case,
        verdict,
        evidence,
        mask,
        model,
        timing={"signals": 0.8, "looking": 1.2, "total": 2.0},
        guarantee="At most 1 % of untouched pictures like those of the calibration are accused.",
    )


def _blob(height, width, box):
    rows, columns = np.mgrid[0:height, 0:width]
    across = (columns - (box.x0 + box.x1) / 2) / ((box.x1 - box.x0) / 2)
    down = (rows - (box.y0 + box.y1) / 2) / ((box.y1 - box.y0) / 2)
    return np.clip(1.6 - across**2 - down**2, 0, 1).astype(np.float32) * np.float32(0.95)


def _verdict(evidence, *, unsure, clear):
    prior = {"real": 0.4, "synthetic": -0.3, "tampered": -0.1}
    odds = {label: prior[label] + sum(item.contribution[label] for item in evidence) for label in LABELS}
    total = sum(math.exp(value) for value in odds.values())
    probabilities = {label: math.exp(value) / total for label, value in odds.items()}
    leading = max(LABELS, key=lambda label: probabilities[label])
    return Verdict(
        label="inconclusive" if unsure else leading,
        probabilities=probabilities,
        prior=prior,
        abstention="The findings contradict each other, and none is strong." if unsure else None,
        alpha=0.01,
        leading=leading,
        mask_agreement="The region and the verdict agree." if clear else None,
        ruled_out_below={"real": 0.12, "synthetic": 0.3, "tampered": 0.35},
    )


def _labels(synthetic, tampered):
    return {"real": -(synthetic + tampered) / 2, "synthetic": synthetic, "tampered": tampered}


def _strength(size):
    for bound, name in ((2.3, "moderate support"), (0.7, "weak support"), (0.05, "very weak support")):
        if size >= bound:
            return name
    return "no support"
