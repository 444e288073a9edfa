"""Calibration files are read without goodwill, and written so that equal content has equal bytes."""

from __future__ import annotations

import copy
import hashlib
import json
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from vlmforensics.errors import SettingsError
from vlmforensics.fusion import Calibration, DistanceGate

_spec = util.spec_from_file_location("fusion_judge_cases", Path(__file__).with_name("test_fusion_judge.py"))
_module = util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
record = _module.record


def test_round_trip_keeps_content_bytes_and_digest(tmp_path):
    first = Calibration.from_json(record())
    first.save(tmp_path / "c.json")
    second = Calibration.load(tmp_path / "c.json")
    assert second.sha256 == first.sha256
    assert hashlib.sha256((tmp_path / "c.json").read_bytes()).hexdigest() == first.sha256
    assert not list(tmp_path.glob("*.part"))
    changed = record()
    changed["prior"]["real"] += 0.01
    assert Calibration.from_json(changed).sha256 != first.sha256


def set_at(tree, path, value):
    for key in path[:-1]:
        tree = tree[key]
    if value is KeyError:
        del tree[path[-1]]
    else:
        tree[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), "vlmforensics.calibration/2"),
        (("labels",), ["real", "fake"]),
        (("prior", "real"), float("nan")),
        (("prior", "real"), "0"),
        (("prior", "real"), True),
        (("prior", "fake"), 0.0),
        (("extra",), 1),
        (("sources",), [1]),
        (("sources", "noise", "kind"), "pickle"),
        (("sources", "noise", "weight"), -0.1),
        (("sources", "noise", "weight"), float("inf")),
        (("sources", "noise", "weight"), {"real": 0.1, "synthetic": 0.1}),
        (("sources", "noise", "weight"), {"real": 0.1, "synthetic": 0.1, "tampered": -0.1}),
        (("sources", "noise", "reach"), [1.0, 0.0, 0.0]),
        (("sources", "noise", "surprise"), 1),
        (("sources", "noise", "cap"), KeyError),
        (("sources", "noise", "provenance"), 1),
        (("sources", "noise", "counts", "real"), -1),
        (("sources", "noise", "counts", "real"), 1.5),
        (("sources", "noise", "parameters", "scale"), 0.0),
        (("sources", "noise", "parameters", "slope"), [1.0, 2.0]),
        (("sources", "noise", "parameters", "slope"), [1.0, 2.0, None]),
        (("sources", "noise", "parameters", "low"), 5.0),
        (("sources", "noise", "reliability", "low"), 1.2),
        (("sources", "vlm", "parameters", "weights"), [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]),
        (("sources", "metadata", "parameters", "rows"), {}),
        (("sources", "metadata", "parameters", "rows", "sd-parameters", "llr"), {"real": 1.0}),
        (("conformal", "real"), KeyError),
        (("conformal", "real", "points"), [1.0, 0.0]),
        (("conformal", "real", "above"), [3, 2]),
        (("conformal", "real", "n"), 0),
        (("decision", "levels", "synthetic"), 0.9),
        (("decision", "levels", "real"), 0.01),
        (("decision", "margin"), -1.0),
        (("distance",), {"mean": [0.0]}),
        (("quality",), []),
    ],
)
def test_anything_out_of_place_is_a_settings_error_that_names_the_place(path, value):
    changed = copy.deepcopy(record())
    set_at(changed, path, value)
    with pytest.raises(SettingsError, match="calibration, "):
        Calibration.from_json(changed)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": NaN}', b"[" * 100_000, b'{"a": 1, "a": 2}'],
)
def test_broken_files(tmp_path, data):
    path = tmp_path / "broken.json"
    path.write_bytes(data)
    with pytest.raises(SettingsError):
        Calibration.load(path)


def test_missing_file_is_a_settings_error(tmp_path):
    with pytest.raises(SettingsError, match="can't read"):
        Calibration.load(tmp_path / "none.json")
    with pytest.raises(SettingsError):
        Calibration.load(tmp_path)


def test_distance_gate_knows_near_from_far_and_survives_its_file():
    generator = np.random.default_rng(3)
    basis = generator.normal(size=(40, 40))
    features = generator.normal(size=(500, 40)) @ basis
    gate = DistanceGate.fit(features)
    near = generator.normal(size=(200, 40)) @ basis
    assert sum(gate(row) is not None for row in near) <= 10
    far = gate(near[0] + 40 * basis[0])
    assert far is not None
    assert far.code == "distance"
    assert "500 calibration pictures" in far.reason
    changed = record()
    changed["distance"] = json.loads(json.dumps(gate.to_json(), default=lambda array: array.tolist()))
    again = Calibration.from_json(changed).distance
    assert again.distance(near[0]) == pytest.approx(gate.distance(near[0]))
