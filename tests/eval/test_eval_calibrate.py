"""A user's own labelled pictures in, a calibration file out that the assistant loads and judges by."""

from __future__ import annotations

import numpy as np
import pytest

from vlmforensics.assistant import Assistant
from vlmforensics.errors import SettingsError
from vlmforensics.eval import commands, recalibrate
from vlmforensics.eval.samples import Sample, labelled_pictures
from vlmforensics.fusion import Calibration
from vlmforensics.imaging import encode
from vlmforensics.types import LABELS


@pytest.fixture
def data(fakes, tmp_path):
    """Pictures whose brightness tells the label, in the opposite order of what the scripted calibration believes."""
    for label, level in zip(LABELS, (190, 120, 60), strict=True):
        for i in range(24):
            pixels = fakes.scene(i, 72, 64).astype(float)
            pixels = np.clip(pixels + level + 6 * (i % 5) - pixels.mean(), 0, 255).astype(np.uint8)
            path = tmp_path / "data" / label / f"camera{i % 4}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(pixels, "PNG"))
    return tmp_path / "data"


def observed(fakes, data, out):
    lines = list(recalibrate.observe(fakes.make, labelled_pictures(data), out))
    return recalibrate.observations(out), lines


def test_from_pictures_to_verdicts(fakes, data, tmp_path):
    out = tmp_path / "mine.json"
    seen, lines = observed(fakes, data, out)
    assert len(seen) == 72
    assert lines[-1] == "72 of 72 observed"
    assert observed(fakes, data, out)[1] == []  # nothing is looked at twice
    fitted = recalibrate.fit(seen, fakes.calibration())
    fitted.save(out)
    loaded = Calibration.load(out)
    assert loaded.sha256 == fitted.sha256
    dark, bright = (
        fakes.make(calibration=loaded).examine(data / label / "camera1" / "1.png")
        for label in ("tampered", "real")
    )
    # the scripted calibration took bright for tampered; these pictures say the contrary
    assert dark.verdict.leading == "tampered"
    assert bright.verdict.leading == "real"
    assert dark.model.calibration_sha256 == loaded.sha256
    assert "brightness" in recalibrate.summary(fitted, 0.01)[-1]
    assert "needs at least 99 real calibration pictures; there are 24" in " ".join(
        recalibrate.summary(fitted, 0.01)
    )


def test_observing_goes_on_after_a_torn_line(fakes, data, tmp_path):
    out = tmp_path / "mine.json"
    observed(fakes, data, out)
    file = recalibrate.file_of(out)
    whole = file.read_text()
    file.write_text(whole[:-30])
    seen, lines = observed(fakes, data, out)
    assert lines == ["1 of 1 observed"]
    assert len(seen) == 72
    assert file.read_text() == whole


def test_naming_an_address_allows_it_and_says_so_unless_the_environment_forbids_it(monkeypatch, capsys):
    address = "http://models.example.org/v1"
    settings = commands._settings(address, None, None, None)
    assert settings.remote_enabled
    assert not commands._settings("compact", None, None, None).remote_enabled
    monkeypatch.setattr(Assistant, "load", lambda *_, **__: None)
    commands._load(settings)
    assert capsys.readouterr().err == f"pictures are sent to {address}, unencrypted\n"
    monkeypatch.setenv("VLMF_REMOTE_ENABLED", "0")
    assert not commands._settings(address, None, None, None).remote_enabled


def test_only_thresholds_keeps_ratios_and_weights(fakes, data, tmp_path):
    seen, _ = observed(fakes, data, tmp_path / "mine.json")
    shipped = fakes.calibration()
    fitted = recalibrate.fit(seen, shipped, only_thresholds=True)
    assert fitted.to_json()["sources"] == Calibration.from_json(shipped.to_json()).to_json()["sources"]
    assert fitted.conformal["real"].n == 24
    assert fitted.conformal["real"].groups == 4
    assert fitted.origin["conformal"] == "disjoint split"
    # real pictures that the old ratios take for tampered: the new threshold leaves at most alpha of them accused
    accused = 0
    assistant = fakes.make(calibration=fitted)
    for sample in [s for s in labelled_pictures(data) if s.label == "real"]:
        accused += assistant.examine(sample.path, for_text=False).verdict.label in ("synthetic", "tampered")
    assert accused == 0


def test_what_can_not_be_calibrated(fakes, data, tmp_path):
    out = tmp_path / "mine.json"
    with pytest.raises(SettingsError, match="does not say which"):
        list(recalibrate.observe(fakes.make, [Sample("a", data, "fake", "s", "s")], out))
    some = [s for s in labelled_pictures(data) if s.label != "tampered"][:4]
    list(recalibrate.observe(fakes.make, some, out))
    with pytest.raises(SettingsError, match="none that are"):
        recalibrate.fit(recalibrate.observations(out), fakes.calibration())

    def other():
        return fakes.make(backbone=fakes.Backbone(name="other"), masks=None)

    with pytest.raises(SettingsError, match="other weights"):
        list(recalibrate.observe(other, labelled_pictures(data), out))
