"""Regions, comparisons and previews: what is told there is what is there."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the ui extra is not installed")

from vlmforensics import imaging
from vlmforensics.errors import InputError, SettingsError
from vlmforensics.settings import Settings
from vlmforensics.types import Box
from vlmforensics.ui import compare, regions, thumbnails
from vlmforensics.ui.flow import Model
from vlmforensics.ui.options import OptionsTab, devices, needs
from vlmforensics.ui.state import Sessions


@pytest.mark.parametrize(
    "numbers", [(0, 0, 10, 10), (), (0, 0, "x", 5), (5, 5, float("inf"), 90), None, (600, 0, 900, 90)]
)
def test_what_is_no_region_is_refused_with_a_way_out(numbers):
    with pytest.raises(InputError, match="draw a"):
        regions.region_box(numbers, 480, 320)


def test_a_region_is_cut_to_the_picture():
    assert regions.region_box((-20, 10.4, 500, 100), 480, 320) == Box(0, 10, 480, 100)


def test_a_crop_is_exact(report):
    case = report("splice.jpg")
    data, name = regions.crop(case, Box(40, 30, 140, 90))
    assert (imaging.decode_trusted(data) == case.case.upright[30:90, 40:140]).all()
    assert name == "splice.jpg, x 40–140, y 30–90"


def test_an_answer_tells_where_findings_are_strong_and_where_not(report):
    case = report("splice.jpg")
    inside, outside = case.mask.boxes[0], Box(400, 240, 480, 320)
    strong = " ".join(regions.overlaps(case, inside))
    weak = " ".join(regions.overlaps(case, outside))
    assert "The suspect region covers 0" not in strong
    assert "The suspect region covers < 0.1 % of it" in weak
    assert "[E2]" in strong
    told = [text for text, _ in regions.answer(case, case, inside, case.mask)]
    assert told[0].startswith("x 120–")
    assert "Tampered with" in told[0]
    assert "does not change the verdict" in told[-1]


def _pair(report, change):
    first, second = report("plain.jpg"), report("splice.jpg")
    pixels = change(second.case.upright.copy())
    second.case = replace(second.case, upright=pixels, stored=pixels, sha256="0" * 64)
    return first, second


def _paste(pixels):
    pixels[100:180, 200:300] = 255 - pixels[100:180, 200:300]
    return pixels


def test_two_pictures_of_one_scene_differ_where_one_was_edited(report):
    first, second = _pair(report, _paste)
    mask, box = compare.difference(first, second)
    assert abs(box.x0 - 200) <= 8
    assert abs(box.y1 - 180) <= 8
    assert 0.02 < mask.mean() < 0.08
    text = " ".join(text for text, _ in compare.comparison(first, second))
    assert "B is likelier to be tampered with" in text
    assert compare.mark(mask, second).binary.shape == second.case.upright.shape[:2]


def test_brighter_is_not_edited_and_another_scene_is_not_compared(report):
    first, second = _pair(report, lambda pixels: np.clip(pixels.astype(int) + 30, 0, 255).astype(np.uint8))
    mask, _ = compare.difference(first, second)
    assert mask.mean() < 0.02
    first, second = _pair(
        report, lambda pixels: np.random.default_rng(1).integers(0, 255, pixels.shape, np.uint8)
    )
    assert compare.difference(first, second) is None
    first, second = _pair(report, lambda pixels: np.ascontiguousarray(pixels[:, :200]))
    assert compare.difference(first, second) is None


def test_the_same_file_is_named_as_such(report):
    case = report("unsure.jpg")
    assert any("byte for byte" in text for text, _ in compare.comparison(case, case))


@pytest.mark.parametrize(
    "question", ["Which was edited?", "compare them", "What is the difference?", compare.QUESTION]
)
def test_questions_that_compare(question):
    assert compare.asks(question)
    assert not compare.asks("Why?")


def test_previews_that_disagree_are_shown(report, picture_bytes):
    settings = Settings(sandbox=False)
    case = report("plain.jpg").case
    small = imaging.thumbnail(case.upright, 160)
    boxed = np.zeros((120, 160, 3), np.uint8)
    boxed[6:113] = small[:107]
    same = replace(
        case, container=replace(case.container, thumbnail=imaging.encode(boxed, "JPEG", quality=70))
    )
    found = thumbnails.preview(same, settings)
    assert found.agrees
    assert "<img" not in thumbnails.comparison(found)
    other = replace(
        case, container=replace(case.container, thumbnail=imaging.encode(small[::-1].copy(), "JPEG"))
    )
    found = thumbnails.preview(other, settings)
    assert not found.agrees
    assert thumbnails.comparison(found).count("<img") == 2
    broken = replace(case, container=replace(case.container, thumbnail=b"\xff\xd8 no picture"))
    assert thumbnails.preview(broken, settings) is None
    assert thumbnails.preview(case, settings) is None


def test_settings_load_another_model_or_keep_the_old(fake_assistant, report):
    def make(settings):
        if settings.model == "missing":
            raise SettingsError("there is no model missing; choose another")
        return fake_assistant(settings)

    sessions = Sessions()
    case = report("splice.jpg")
    case.look = object()
    sessions.get("anna")
    sessions.add("anna", case)
    model = Model(lambda: make(Settings()), make).start()
    first = model.wait()
    options = OptionsTab(model, sessions, Settings())
    for part in ("said", "apply", "about", "name", "device", "alpha"):
        setattr(options, part, part)
    request = SimpleNamespace(session_hash="anna")
    *_, last = options.reload("missing", "auto", 1, None, request)
    assert "there is no model missing" in last["said"].lower()
    assert model.wait() is first
    *_, last = options.reload("compact", "auto", 0, None, request)
    assert "between 0.1 % and 49 %" in last["said"]
    *_, last = options.reload("compact", "cpu", 5, None, request)
    assert "Loaded" in last["said"]
    assert model.wait() is not first
    assert model.wait().settings.alpha == 0.05
    assert case.look is None  # its network is gone


def test_a_page_for_others_does_not_change_its_model(fake_assistant):
    model = Model(lambda: fake_assistant(Settings())).start()
    with pytest.raises(SettingsError, match="who runs it"):
        model.reload(Settings())


def test_every_model_says_what_it_needs():
    html = needs(Settings())
    for name in ("compact", "llava-1.5-7b", "fakevlm"):
        assert name in html
    assert html.count("in use") == 1
    assert devices(Settings(device="cuda:3"))[-1] == "cuda:3"
