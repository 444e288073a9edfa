"""Options that choose and load a backbone."""

from pathlib import Path

import pytest

from vlmforensics.cli.common import say_where_pictures_go, settings_of
from vlmforensics.errors import SettingsError
from vlmforensics.settings import Settings


def test_the_remote_key_in_the_environment_is_no_setting(monkeypatch):
    monkeypatch.setenv("VLMF_REMOTE_KEY", "sesame")
    settings = settings_of(model="https://models.example.org/v1")
    assert settings.remote_enabled
    assert "sesame" not in repr(settings)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("https://models.example.org/v1", "pictures are sent to https://models.example.org/v1\n"),
        ("http://10.0.0.7:8000/v1", "pictures are sent to http://10.0.0.7:8000/v1, unencrypted\n"),
        ("http://127.0.0.1:8000/v1", "pictures are sent to http://127.0.0.1:8000/v1\n"),
        ("compact", ""),
        ("./folder", ""),
    ],
)
def test_a_picture_never_leaves_without_a_word(capsys, model, says):
    say_where_pictures_go(Settings(model=model))
    assert capsys.readouterr().err.removeprefix("vlmforensics: ") == says


def test_adapter_and_quantisation_become_settings_and_leave_the_digest_alone():
    settings = settings_of(adapter=Path("a/b"), quantize="nf4")
    assert settings.adapter == Path("a/b")
    assert settings.quantize == "nf4"
    assert (
        settings.sha256 == settings_of().sha256
    )  # what they lead to is in the model's name, version and digest
    with pytest.raises(SettingsError, match="auto, none or nf4"):
        settings_of(quantize="int3")
