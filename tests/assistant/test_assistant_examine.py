"""The assistant: order of the rooms, broken witnesses, other backbones, gates, determinism."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from vlmforensics.errors import CorruptImage, InputError, RemoteError, UnreadableFile
from vlmforensics.fusion import DistanceGate
from vlmforensics.report import to_record
from vlmforensics.settings import Settings
from vlmforensics.types import Box, Evidence

STAGES = ["decoding", "signals", "blending", "looking", "mask", "judging"]


@pytest.fixture
def data(fakes):
    return fakes.encode(fakes.scene())


def by_source(report):
    return {item.source: item for item in report.evidence}


def test_every_witness_is_heard_and_the_flow_is_told(fakes, data):
    told = []
    report = fakes.make().examine(data, progress=told.append)
    assert told == STAGES
    assert set(by_source(report)) == {"brightness", "blending", "vlm", "mask"}
    assert set(report.timing) == {*STAGES, "total"}
    assert report.failures == ()
    assert [item.id for item in report.evidence] == ["E1", "E2", "E3", "E4"]


def test_the_backbone_is_told_what_the_blending_detector_found(fakes, data):
    backbone = fakes.Backbone()
    fakes.make(backbone=backbone).examine(data)
    assert backbone.hints == [("The blending detector gives 0.70 out of 1.",)]


def test_the_mask_head_gets_tower_boundary_and_label(fakes, data):
    masks = fakes.Masks()
    report = fakes.make(masks=masks).examine(data)
    asked = masks.asked[0]
    assert asked["patches"][2].shape == (4, 4, 8)
    assert asked["traces"].boundary.shape == (30, 40)
    assert report.traces is asked["traces"], "a later click is answered from the same maps"
    assert asked["log_probs"] == report.look.log_probs
    assert report.mask is not None


@pytest.mark.parametrize(
    ("parts", "source", "code"),
    [
        (lambda f: {"sources": [f.Broken()]}, "brightness", "defect.ZeroDivisionError"),
        (lambda f: {"sources": [f.Broken(error=CorruptImage("bad thumbnail"))]}, "brightness", "img.corrupt"),
        (lambda f: {"sources": [f.Broken(error=MemoryError())]}, "brightness", "defect.MemoryError"),
        (lambda f: {"backbone": f.Backbone(error=RemoteError("no answer"))}, "vlm", "model.remote"),
    ],
)
def test_a_broken_witness_is_a_failure_and_never_a_vote_for_real(fakes, data, parts, source, code):
    real = {"backbone": fakes.Backbone((0.98, 0.01, 0.01)), "masks": None, "blending": None}
    whole = fakes.make(**real).examine(data)
    assert whole.verdict.label == "real"
    report = fakes.make(**(real | parts(fakes))).examine(data)
    assert [(failure.source, failure.code) for failure in report.failures] == [(source, code)]
    assert source not in by_source(report)
    assert report.verdict.label == "inconclusive"


def test_a_speck_is_no_region_to_verdict_picture_and_text_alike(fakes, data):
    class Specks(fakes.Masks):
        def locate(self, pixels, **asked):
            found = super().locate(pixels, **asked)
            binary = np.zeros_like(found.binary)
            binary[0, 0] = True
            return replace(found, binary=binary, boxes=(Box(0, 0, 1, 1),))

        def evidence(self, mask, pixels_shape):
            assert not mask.binary.any()
            assert mask.boxes == mask.confidences == ()
            return [Evidence("mask", "The mask head marks no region.", score=0.4)]

    report = fakes.make(masks=Specks()).examine(data)
    assert report.failures == ()
    assert report.mask is None
    assert "%" not in report.verdict.mask_agreement


def test_blending_and_mask_may_break_too(fakes, data, monkeypatch):
    assistant = fakes.make()
    monkeypatch.setattr(fakes.Blending, "examine_map", lambda self, case: 1 / 0)
    monkeypatch.setattr(fakes.Masks, "locate", lambda self, pixels, **given: 1 / 0)
    report = assistant.examine(data)
    assert {failure.source for failure in report.failures} == {"blending", "mask"}
    assert report.mask is None
    assert report.verdict.mask_agreement is None


def test_an_unreadable_picture_raises(fakes, tmp_path):
    with pytest.raises(UnreadableFile):
        fakes.make().examine(tmp_path / "missing.jpg")
    with pytest.raises(InputError):
        fakes.make().examine(b"not a picture")


def test_same_picture_same_record_in_any_order_and_thread(fakes):
    assistant = fakes.make()
    pictures = [fakes.encode(fakes.scene(seed)) for seed in range(6)]
    alone = [to_record(assistant.examine(data, file="x")) for data in pictures]
    found = {}

    def work(index):
        found[index] = to_record(assistant.examine(pictures[index], file="x"))

    threads = [threading.Thread(target=work, args=(index,)) for index in reversed(range(6))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, record in enumerate(alone):
        assert record | {"timing": {}} == found[index] | {"timing": {}}


def test_one_thread_runs_witnesses_in_line(fakes, data):
    report = fakes.make(settings=Settings(sandbox=False, threads=1)).examine(data)
    many = fakes.make().examine(data)
    assert to_record(report) | {"timing": {}} == to_record(many) | {"timing": {}}


def test_another_backbones_opinion_is_shown_but_does_not_count(fakes, data):
    report = fakes.make(
        backbone=fakes.Backbone((0.01, 0.01, 0.98), name="llava-1.5-7b"), calibrated_as="vlm@llava-1.5-7b"
    ).examine(data)
    vlm = by_source(report)["vlm"]
    assert set(vlm.contribution.values()) == {0.0}
    assert vlm.strength == "not calibrated"
    assert "llava-1.5-7b" in vlm.statement
    assert by_source(report)["brightness"].contribution["real"] != 0


def test_another_backbone_can_be_calibrated_under_its_own_name(fakes, data):
    calibration = fakes.calibration()
    object.__setattr__(
        calibration, "sources", {**calibration.sources, "vlm@llava": calibration.sources["vlm"]}
    )
    named = fakes.make(
        backbone=fakes.Backbone(name="llava"), calibration=calibration, calibrated_as="vlm@llava"
    ).examine(data)
    compact = fakes.make(calibration=calibration).examine(data)
    assert by_source(named)["vlm"].contribution == by_source(compact)["vlm"].contribution


def test_beside_another_backbone_the_mask_head_gets_its_own_tower(fakes, data):
    masks = fakes.Masks()
    own = {3: np.zeros((2, 2, 4), np.float32)}
    fakes.make(masks=masks, backbone=fakes.Backbone(name="llava"), tower=lambda pixels: own).examine(data)
    asked = masks.asked[0]
    assert asked["patches"] is own
    assert asked["seg"] is None
    assert asked["log_probs"] is None


def test_a_blank_picture_is_inconclusive_with_the_reason(fakes):
    blank = np.full((100, 100, 3), 128, np.uint8)
    verdict = fakes.make().examine(fakes.encode(blank, "PNG")).verdict
    assert verdict.abstained
    assert "blank" in verdict.abstention


def test_where_the_look_broke_nothing_is_called_real(fakes, data):
    """What reads the look, the mask head and the gate of distance, broke with it, whatever ``vlm`` itself weighs."""
    gate = DistanceGate(np.zeros(2), np.zeros((1, 2)), np.ones(1), 1.0, 1.0, 10)
    calibration = fakes.calibration()
    object.__setattr__(calibration, "distance", gate)
    object.__setattr__(
        calibration, "sources", {name: own for name, own in calibration.sources.items() if name != "vlm"}
    )
    backbone = fakes.Backbone(error=RemoteError("no answer"))
    report = fakes.make(backbone=backbone, calibration=calibration, masks=fakes.Masks()).examine(data)
    assert [failure.source for failure in report.failures] == ["vlm", "mask"]
    assert report.verdict.label == "inconclusive"
    assert "could not look" in report.verdict.abstention
    assert all(item.contribution == {"real": 0, "synthetic": 0, "tampered": 0} for item in report.evidence)


def test_without_text_the_look_may_be_cheap(fakes, data):
    backbone = fakes.Backbone()
    assistant = fakes.make(backbone=backbone)
    cheap, whole = assistant.examine(data, for_text=False), assistant.examine(data)
    assert backbone.looks == [False, True]
    assert cheap.verdict == whole.verdict or cheap.verdict.probabilities == whole.verdict.probabilities


def test_the_model_names_all_weights(fakes):
    first = fakes.make().model
    assert dict(first.parts) == {"backbone": "a" * 64, "blending": "b" * 64, "masks": "c" * 64}
    assert first.calibration_sha256 == fakes.calibration().sha256
    assert fakes.make(blending=None).model.weights_sha256 != first.weights_sha256
    other = fakes.make(settings=Settings(sandbox=False, alpha=0.05)).model
    assert other.settings_sha256 != first.settings_sha256
    assert other.weights_sha256 == first.weights_sha256


def test_alpha_of_the_settings_reaches_the_verdict(fakes, data):
    report = fakes.make(settings=Settings(sandbox=False, alpha=0.2)).examine(data)
    assert report.verdict.alpha == 0.2
    assert "20 %" in report.guarantee
