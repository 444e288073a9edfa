"""Every source in SOURCES keeps the contract: deterministic, finite, worded with a number, never raising."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from vlmforensics.signals import SOURCES, load_sources
from vlmforensics.signals.blocks import standard_table
from vlmforensics.types import CaseImage, Container, JpegFacts

FACTS = JpegFacts(
    {0: standard_table(80), 1: standard_table(80, True)},
    "4:2:0",
    False,
    80,
    0.0,
    ("SOI", "DQT", "EOI"),
    False,
)
TARGETS = {target: source for target, source in zip(SOURCES, load_sources(), strict=True)}


def picture(kind: str, height: int = 240, width: int = 320) -> np.ndarray:
    rng = np.random.default_rng(7)
    if kind == "flat":
        return np.full((height, width, 3), 255, np.uint8)
    if kind == "black":
        return np.zeros((height, width, 3), np.uint8)
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "grey ramp":
        return np.broadcast_to(
            np.linspace(0, 255, width).astype(np.uint8)[None, :, None], (height, width, 3)
        ).copy()
    if kind == "stripes":
        return np.broadcast_to(
            ((np.arange(width) % 2) * 255).astype(np.uint8)[None, :, None], (height, width, 3)
        ).copy()
    y, x = np.mgrid[:height, :width]
    base = 120 + 60 * np.sin(x / 17) * np.cos(y / 23) + 20 * np.sin(x * y / 900)
    return np.clip(base[..., None] + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


def case(pixels: np.ndarray, format: str = "PNG", orientation: int = 1) -> CaseImage:
    from vlmforensics.signals.maps import upright

    shown = np.stack([upright(pixels[..., c], orientation) for c in range(3)], -1)
    container = Container(format, "RGB", 8, jpeg=FACTS if format == "JPEG" else None)
    return CaseImage(
        "made.bin", b"no bytes", "0" * 64, container, np.ascontiguousarray(shown), pixels, orientation
    )


def check(evidence, subject: CaseImage) -> None:
    assert evidence.source == evidence.source.lower().strip()
    assert evidence.statement.endswith(".")
    assert re.search(r"\d", evidence.statement), "a statement carries its number"
    assert "[" not in evidence.statement, "square brackets are for citations"
    assert evidence.status == "measured"
    assert evidence.score is not None or evidence.code, "neither score nor code says nothing"
    assert all(value == 0 for value in evidence.llr.values()), "fusion owns the likelihood ratio"
    assert evidence.score is None or math.isfinite(evidence.score)
    json.dumps(dict(evidence.recompute))
    if evidence.heatmap is not None:
        assert evidence.heatmap.dtype == np.float32
        assert evidence.heatmap.ndim == 2
        assert 0 <= evidence.heatmap.min() <= evidence.heatmap.max() <= 1
    if evidence.region is not None:
        box = evidence.region.box
        assert box.x1 <= subject.width
        assert box.y1 <= subject.height
        if evidence.region.mask is not None:
            assert evidence.region.mask.shape == (subject.height, subject.width)
            rows, columns = np.where(evidence.region.mask)
            assert (rows.min(), rows.max() + 1) == (box.y0, box.y1)
            assert (columns.min(), columns.max() + 1) == (box.x0, box.x1)


@pytest.mark.parametrize("target", SOURCES)
class TestContract:
    @pytest.mark.parametrize("kind", ["flat", "black", "noise", "grey ramp", "stripes", "texture"])
    @pytest.mark.parametrize("format", ["JPEG", "PNG"])
    def test_any_content(self, target, kind, format):
        subject = case(picture(kind), format)
        for evidence in TARGETS[target].examine(subject):
            check(evidence, subject)

    @pytest.mark.parametrize(
        "shape", [(1, 1), (1, 900), (900, 1), (7, 7), (63, 400), (64, 64), (65, 131), (300, 137)]
    )
    def test_any_shape(self, target, shape):
        for format in ("JPEG", "PNG"):
            subject = case(picture("noise", *shape), format)
            for evidence in TARGETS[target].examine(subject):
                check(evidence, subject)
                if min(shape) < 64:
                    assert evidence.score is None, "statistics of a tiny picture mean nothing"

    @pytest.mark.parametrize("orientation", [3, 6])
    def test_orientation(self, target, orientation):
        subject = case(picture("texture", 256, 384), "JPEG", orientation)
        for evidence in TARGETS[target].examine(subject):
            check(evidence, subject)

    def test_deterministic(self, target):
        subject = case(picture("texture"), "JPEG")
        first, second = TARGETS[target].examine(subject), TARGETS[target].examine(subject)
        assert [(e.source, e.statement, e.score, e.vector, e.code) for e in first] == [
            (e.source, e.statement, e.score, e.vector, e.code) for e in second
        ]

    def test_leaves_the_case_alone(self, target):
        subject = case(picture("texture"), "JPEG")
        before = subject.stored.copy(), subject.upright.copy()
        TARGETS[target].examine(subject)
        assert np.array_equal(subject.stored, before[0])
        assert np.array_equal(subject.upright, before[1])


def test_names_are_unique_and_one_evidence_a_name():
    subject = case(picture("texture", 320, 320), "JPEG")
    names = [e.source for source in load_sources() for e in source.examine(subject)]
    assert len(names) == len(set(names))


def test_no_torch_behind_the_signals():
    import subprocess
    import sys

    program = "import sys, vlmforensics.signals as s; s.load_sources(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_plugins_only_where_allowed(monkeypatch):
    from dataclasses import replace

    from vlmforensics.errors import SettingsError
    from vlmforensics.settings import Settings

    class Plugin:
        name, version, cost = "third_party", "1", "nothing"

        def examine(self, case):
            return []

    class Point:
        name, value = "third", "pkg:Plugin"

        def load(self):
            return Plugin

    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: [Point()] if group == "vlmforensics.evidence" else []
    )
    assert "third_party" not in [s.name for s in load_sources(Settings())]
    allowed = replace(Settings(), allow_plugins=True)
    assert load_sources(allowed)[-1].name == "third_party"
    Plugin.name = "noise"
    with pytest.raises(SettingsError, match="third"):
        load_sources(allowed)
