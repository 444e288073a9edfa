"""The scripted backbone, the loader's table and the prompt helpers: nothing here needs torch."""

import subprocess
import sys

import numpy as np
import pytest

from vlmforensics.errors import AdapterMismatch, Defect, SettingsError, WeightsUnavailable
from vlmforensics.settings import Settings
from vlmforensics.types import LABELS
from vlmforensics.vlm import BACKBONES, ScriptedBackbone, load_backbone
from vlmforensics.vlm.profiles import PROFILES, profile_of
from vlmforensics.vlm.prompts import QUESTION, defuse, question_with

PIXELS = np.zeros((8, 8, 3), np.uint8)


def test_importing_the_room_imports_no_torch():
    code = "import sys, vlmforensics.vlm; sys.exit('torch' in sys.modules or 'httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_scripted_replies_come_in_order_word_by_word():
    backbone = ScriptedBackbone(replies=("First reply.", "And the second."))
    look = backbone.look(PIXELS, ("a hint",))
    assert list(backbone.narrate(look, "one")) == ["First", " reply."]
    assert "".join(backbone.narrate(look, "two", prefix="So")) == "And the second."
    assert "".join(backbone.narrate(look, "three")) == "And the second."
    assert [call.kind for call in backbone.calls] == ["look", "narrate", "narrate", "narrate"]
    assert backbone.calls[0].said == ("a hint",)
    assert backbone.calls[2].said == ("two", "So")


def test_scripted_opinion_may_depend_on_the_picture():
    backbone = ScriptedBackbone(log_probs=lambda pixels: None if pixels.any() else (0.0, -9.0, -9.0))
    looks = backbone.look_many([PIXELS, PIXELS + 1], [(), ()])
    assert looks[0].log_probs == (0.0, -9.0, -9.0)
    assert looks[1].log_probs is None


def test_scripted_keeps_limits_and_order():
    backbone = ScriptedBackbone(replies=lambda instruction, prefix: f"{prefix} {instruction} done")
    look = backbone.look(PIXELS)
    assert "".join(backbone.narrate(look, "go", prefix="Now", max_new_tokens=2)) == "Now go"
    assert list(backbone.narrate(look, "go", stop=lambda: True)) == []
    with pytest.raises(Defect):
        backbone.narrate(backbone.look(PIXELS, for_text=False), "go")


def test_unknown_names_list_what_there_is():
    with pytest.raises(WeightsUnavailable, match=r"compact, llava-1.5-7b, fakevlm"):
        load_backbone("gpt-5", Settings())


def test_a_remote_backbone_needs_permission_and_says_why():
    with pytest.raises(SettingsError, match="leave this machine"):
        load_backbone("https://example.org/v1", Settings())


def test_a_big_model_offline_names_the_command(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    pytest.importorskip("torch")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match=r"hf download llava-hf/llava-1.5-7b-hf"):
        load_backbone("llava-1.5-7b", Settings(offline=True, cache=tmp_path))


def test_hub_entries_are_pinned_to_commits():
    for entry in BACKBONES.values():
        assert entry.kind == "embedded" or (len(entry.revision) == 40 and entry.profile in PROFILES)


def test_hints_follow_the_question_on_one_line():
    text = question_with(["The blending detector gives\n0.12 out of 1.", "  ", "x" * 999])
    assert text.startswith(f"{QUESTION} The blending detector gives 0.12 out of 1. xxx")
    assert "\n" not in text
    assert len(text) < 500


@pytest.mark.parametrize("text", ["<image>", "a</s>b", "<i<image>mage>", "<image><image></s>", "plain"])
def test_defused_text_holds_no_control_token(text):
    control = ("<image>", "</s>")
    safe = defuse(text, control)
    assert not any(token in safe for token in control)
    assert safe.replace(" ", "") == text.replace(" ", "")


def test_profiles_turn_word_scores_into_label_probabilities():
    general = PROFILES["general"].log_probs({" real": -1.0, " synthetic": -2.0, " tampered": -3.0})
    assert general[0] - general[1] == pytest.approx(1.0)
    assert sum(np.exp(general)) == pytest.approx(1)
    binary = PROFILES["fakevlm"].log_probs({" real": -50.0, " fake": -0.1})
    assert np.exp(binary[1]) == pytest.approx(0.5)
    assert binary[1] == binary[2]
    assert np.isfinite(binary[0])
    for profile in PROFILES.values():
        assert {label for labels in profile.words.values() for label in labels} == set(LABELS)


def test_a_folder_may_name_its_profile(tmp_path):
    assert profile_of(tmp_path).name == "general"
    (tmp_path / "vlmforensics.json").write_text('{"profile": "fakevlm"}')
    assert profile_of(tmp_path).name == "fakevlm"
    (tmp_path / "vlmforensics.json").write_text('{"profile": "other"}')
    with pytest.raises(AdapterMismatch, match="fakevlm"):
        profile_of(tmp_path)
