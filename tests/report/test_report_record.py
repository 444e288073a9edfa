"""The record: valid, consistent, repeatable, and safe to write as one line."""

import json
import math
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmforensics.errors import CorruptImage
from vlmforensics.imaging import decode_trusted, rle_decode
from vlmforensics.report import canonical_json, digest, error_record, schema, to_json, to_record
from vlmforensics.report.record import rounded_probabilities
from vlmforensics.types import LABELS, Answer, Explanation, ModelInfo, Verdict

CHECKER = jsonschema.Draft202012Validator(schema())
MODEL = ModelInfo("compact", "1", "a" * 64)


@pytest.fixture
def report(fakes):
    return fakes.make().examine(fakes.encode(fakes.scene()), file="photo.jpg")


def test_record_follows_the_schema(report):
    report.explanation = Explanation("The verdict rests on one finding [E1].", 1, 0)
    CHECKER.validate(to_record(report))
    CHECKER.validate(json.loads(to_json(to_record(report))))


def test_schema_check_can_fail(report):
    broken = to_record(report) | {"verdict": "fake"}
    assert list(CHECKER.iter_errors(broken))


def test_contributions_and_prior_give_the_log_odds(report):
    record = to_record(report)
    for label in LABELS[1:]:
        odds = math.log(record["probabilities"][label] / record["probabilities"]["real"])
        added = sum(item["contribution"][label] - item["contribution"]["real"] for item in record["evidence"])
        prior = record["prior"][label] - record["prior"]["real"]
        assert odds == pytest.approx(prior + added, abs=1e-4)


@given(st.lists(st.floats(-60, 60), min_size=3, max_size=3))
def test_rounded_probabilities_sum_to_one_and_keep_their_logs(logits):
    raw = np.exp(np.array(logits) - np.logaddexp.reduce(logits))
    exact = dict(zip(LABELS, (float(p) for p in raw), strict=True))
    shown = rounded_probabilities(exact)
    assert abs(sum(shown.values()) - 1) < 1e-9
    assert all(0 <= value <= 1 for value in shown.values())
    for label in LABELS:
        if exact[label] > 1e-9:
            assert math.log(shown[label]) == pytest.approx(math.log(exact[label]), abs=0.002)


def test_two_runs_differ_in_timing_only(fakes):
    data = fakes.encode(fakes.scene(3))
    first, second = (to_record(fakes.make().examine(data, file="a.jpg")) for _ in range(2))
    assert canonical_json(first) == canonical_json(second)
    assert digest(first) == digest(second)
    assert to_json(first | {"timing": {}}) == to_json(second | {"timing": {}})


def test_digest_notices_a_changed_number(report):
    record = to_record(report)
    assert digest(record) != digest(record | {"width": record["width"] + 1})
    assert digest(record) == digest(record | {"timing": {"total": 99.0}})


def test_mask_survives_the_record(report):
    stored = to_record(report)["mask"]
    assert np.array_equal(rle_decode(stored), report.mask.binary)
    assert stored["size"] == [report.case.height, report.case.width]


def test_mask_can_be_saved_as_a_picture(report, tmp_path):
    report.mask.save(tmp_path / "mask.png")
    grey = decode_trusted((tmp_path / "mask.png").read_bytes())
    assert np.array_equal(grey[..., 0] == 255, report.mask.binary)


def test_no_region_is_null_unless_the_verdict_is_tampered(fakes):
    masks = fakes.Masks(finds=False)
    data = fakes.encode(fakes.scene())
    real = fakes.make(masks=masks, backbone=fakes.Backbone((0.98, 0.01, 0.01)), blending=None).examine(data)
    assert real.verdict.label != "tampered"
    assert to_record(real)["mask"] is None
    tampered = Verdict(
        "tampered",
        {"real": 0.1, "synthetic": 0.1, "tampered": 0.8},
        real.verdict.prior,
        None,
        0.01,
        "tampered",
    )
    real.verdict = tampered
    assert not rle_decode(to_record(real)["mask"]).any()
    without = fakes.make(masks=None, blending=None).examine(data)
    without.verdict = tampered
    assert to_record(without)["mask"] is None


def test_text_can_be_left_out(report):
    report.explanation = Explanation("Because of what was measured [E1].", 1, 0)
    assert to_record(report)["explanation"].endswith("[E1].")
    bare = to_record(report, with_text=False)
    assert bare["explanation"] is None
    CHECKER.validate(bare)


def test_conversation_is_kept(report):
    report.conversation = (Answer("Why?", "Because [E1].", ("E1",)),)
    assert to_record(report)["conversation"] == [
        {"question": "Why?", "text": "Because [E1].", "cited": ["E1"]}
    ]


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (
            CorruptImage("the file ends in the middle of the picture", code="img.truncated"),
            "CorruptImage",
            "img.truncated",
        ),
        (CorruptImage("short"), "CorruptImage", "img.corrupt"),
        (ZeroDivisionError(), "Defect", "defect"),
    ],
)
def test_error_records_are_valid_and_have_no_verdict(error, kind, code):
    record = error_record("x.jpg", None, error, MODEL)
    CHECKER.validate(record)
    assert record["verdict"] is None
    assert record["probabilities"] is None
    assert (record["error"]["type"], record["error"]["code"]) == (kind, code)


@pytest.mark.parametrize(
    "name", ["a\nb.jpg", "a\u2028b\u0085c\x1c.jpg", "caf\udce9.jpg", "ünï cödé =1+1.svg", '"; rm -rf']
)
def test_any_file_name_makes_one_ascii_line(name):
    line = to_json(error_record(name, None, CorruptImage("this can't be decoded"), MODEL))
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line)["file"] == name


def test_recompute_parameters_of_any_kind_become_json(fakes, report):
    odd = {
        "array": np.arange(3),
        "number": np.float32(0.5),
        "nested": {"t": (1, 2)},
        "bad": float("nan"),
        "path": MODEL,
    }
    report.evidence = (replace(report.evidence[0], recompute=odd), *report.evidence[1:])
    found = json.loads(to_json(to_record(report)))["evidence"][0]["recompute"]
    assert found["array"] == [0, 1, 2]
    assert found["number"] == 0.5
    assert found["nested"] == {"t": [1, 2]}
    assert found["bad"] is None
