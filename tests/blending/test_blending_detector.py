"""The witness: sizes it accepts, what it says, and, with the shipped weights, that a splice raises the score."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files

import numpy as np
import pytest
import torch

from vlmforensics.blending import BlendingDetector
from vlmforensics.blending.detector import Thresholds
from vlmforensics.blending.figures import auc, auc_interval, clopper_pearson
from vlmforensics.blending.model import BlendingNet
from vlmforensics.imaging import decode_trusted, encode, open_case
from vlmforensics.types import CaseImage

SHIPPED = files("vlmforensics.blending") / "data" / "blending.safetensors"
shipped = pytest.mark.skipif(not SHIPPED.is_file(), reason="the trained weights are not in this checkout")


@pytest.fixture(scope="module")
def untrained() -> BlendingDetector:
    torch.manual_seed(0)
    return BlendingDetector(BlendingNet(), weights_sha256="0" * 64, thresholds=Thresholds(score=0.5, map=0.5))


def case(pixels: np.ndarray) -> CaseImage:
    return open_case(encode(np.ascontiguousarray(pixels), "PNG"), file="x.png")


@pytest.mark.parametrize("size", [(32, 32), (1, 40), (40, 1), (63, 200)])
def test_pictures_too_small_are_left_alone(untrained: BlendingDetector, size: tuple[int, int]) -> None:
    pixels = np.full((*size, 3), 100, np.uint8)
    found, traces = untrained.examine_map(case(pixels))
    assert found == []
    assert traces is untrained.traces(pixels) is None
    boundary = untrained.map(pixels)
    assert boundary.shape == (max(1, size[0] // 4), max(1, size[1] // 4))
    assert not boundary.any()


def test_one_evidence_with_everything_in_it(untrained: BlendingDetector) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 130, 3), dtype=np.uint8)
    found, traces = untrained.examine_map(case(pixels))
    assert traces is not None
    assert traces.region is not None
    boundary = traces.boundary
    assert len(found) == 1
    assert found[0].source == "blending"
    assert found[0].status == "measured"
    assert found[0].score is not None
    assert 0 <= found[0].score <= 1
    assert f"{found[0].score:.2f} out of 1" in found[0].statement
    assert found[0].statement.endswith(".")
    assert boundary.shape == (17, 32)
    assert boundary.dtype == np.float32
    assert 0 <= boundary.min() <= boundary.max() <= 1
    assert found[0].recompute["weights_sha256"] == "0" * 64
    json.dumps(dict(found[0].recompute))
    assert traces.region.shape == boundary.shape
    assert np.array_equal(boundary, untrained.map(pixels))
    alone = untrained.traces(pixels)
    assert alone is not None
    assert np.array_equal(alone.region, traces.region)
    assert untrained.examine(case(pixels))[0].score == found[0].score


def test_intervals_and_auc() -> None:
    scores = np.array([0.1, 0.2, 0.2, 0.9])
    assert auc(scores, np.array([False, False, True, True])) == pytest.approx(0.875)
    assert auc(scores, np.array([True] * 4)) == 0.5
    low, high = auc_interval(scores, np.array([False, False, True, True]), draws=200)
    assert 0 <= low <= 0.875 <= high <= 1
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert clopper_pearson(0, 100)[1] == pytest.approx(0.0362, abs=1e-3)  # Clopper & Pearson's table
    assert clopper_pearson(5, 100) == pytest.approx((0.0164, 0.1128), abs=1e-3)
    assert clopper_pearson(100, 100)[1] == 1.0


@shipped
@pytest.mark.model
def test_shipped_weights_are_those_of_the_manifest() -> None:
    detector = BlendingDetector.load()
    assert detector.weights_sha256 == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert len(SHIPPED.read_bytes()) <= 12_000_000
    assert 0 < detector.thresholds.map < 1
    assert detector.manifest["training"]["data"]["held_out_sources"]


@shipped
@pytest.mark.model
def test_planted_splices_raise_the_score() -> None:
    """Sharp and grainy content of another picture, pasted hard, then saved again like the untouched picture."""
    from skimage import data

    detector = BlendingDetector.load()
    donor = data.coffee()
    gaps = []
    for index, pixels in enumerate((data.astronaut(), data.rocket(), data.chelsea())):
        authentic = np.ascontiguousarray(pixels[:256, :320])
        spliced = authentic.copy()
        spliced[80:176, 100:196] = donor[60 + 40 * index : 156 + 40 * index, 200:296]
        scores = []
        for version in (authentic, spliced):
            version = decode_trusted(encode(version, "JPEG", quality=92))
            scores.append(detector.examine(case(version))[0].score or 0.0)
        gaps.append(scores[1] - scores[0])
    assert min(gaps) > 0, gaps
