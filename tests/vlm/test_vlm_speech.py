"""Texts written together by a LLaVA-family backbone: what it does where they can't be, and how many it takes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from vlmforensics.errors import Defect  # noqa: E402
from vlmforensics.settings import Settings  # noqa: E402
from vlmforensics.vlm import load_backbone, speech  # noqa: E402
from vlmforensics.vlm.memory import GIB  # noqa: E402

ASKED = ["Explain.", "Say at length what can be seen in it.", "Why?"]
BEGUN = ["The", "", "It shows "]


@pytest.fixture(scope="module")
def load(tmp_path_factory, families):
    def load(**options):
        folder = families.write("llava", tmp_path_factory.mktemp("speech") / "llava", **options)
        return load_backbone(str(folder), Settings(cache=folder.parent / "cache", device="cpu", offline=True))

    return load


@pytest.fixture(scope="module")
def backbone(load):
    return load()


def looks_of(backbone):
    draw = np.random.default_rng(0)
    pictures = [draw.integers(0, 256, (60, 90, 3), dtype=np.uint8) for _ in ASKED]
    return [backbone.look(pixels, ("a hint of some length",) * row) for row, pixels in enumerate(pictures)]


def alone(backbone, looks):
    return [
        "".join(backbone.narrate(look, asked, prefix=prefix, max_new_tokens=8))
        for look, asked, prefix in zip(looks, ASKED, BEGUN, strict=True)
    ]


def test_nothing_asked_is_nothing_said(backbone):
    assert backbone.narrate_many([], [], []) == []


def test_one_text_is_narrated(backbone):
    look, *_ = looks_of(backbone)
    said = "".join(backbone.narrate(look, "Explain.", max_new_tokens=8))
    assert backbone.narrate_many([look], ["Explain."], [""], max_new_tokens=8) == [said]


def test_looks_and_instructions_come_in_pairs(backbone):
    with pytest.raises(ValueError, match="shorter"):
        backbone.narrate_many(looks_of(backbone), ASKED[:2], BEGUN)


def test_a_look_without_its_state_is_refused(backbone):
    first, second, _ = looks_of(backbone)
    cheap = backbone.look(np.zeros((60, 90, 3), np.uint8), for_text=False)
    with pytest.raises(Defect, match="for_text"):
        backbone.narrate_many([first, second, cheap], ASKED, BEGUN)


def test_each_row_has_the_room_that_its_prompt_leaves(load):
    """A small context cuts the long prompt's reply and no other."""
    small = load(max_position_embeddings=760)
    looks = looks_of(small)
    long = ["Explain.", "Explain this at length. " * 40, "Why?"]
    room = [small._turn(look, text, "", 300).room for look, text in zip(looks, long, strict=True)]
    assert room[1] < room[0]
    said = [
        "".join(small.narrate(look, text, max_new_tokens=300)) for look, text in zip(looks, long, strict=True)
    ]
    assert small.narrate_many(looks, long, ["", "", ""], max_new_tokens=300) == said


def test_out_of_memory_writes_one_by_one(backbone, monkeypatch, caplog):
    looks = looks_of(backbone)
    wanted = alone(backbone, looks)

    class Full(speech.Rows):
        def step(self, rows, ids):
            raise torch.OutOfMemoryError

    monkeypatch.setattr(speech, "Rows", Full)
    assert backbone.narrate_many(looks, ASKED, BEGUN, max_new_tokens=8) == wanted
    assert "one by one" in caplog.text
    cut = backbone.narrate_many(looks, ASKED, BEGUN, max_new_tokens=8, enough=lambda row, text: row == 1)
    assert [cut[0], cut[2]] == [wanted[0], wanted[2]]
    assert wanted[1].startswith(cut[1].strip())
    assert len(cut[1]) < len(wanted[1])


def test_a_sliding_window_is_never_joined(load, monkeypatch):
    from transformers import MistralConfig

    sliding = load(cls=MistralConfig, sliding_window=1024)
    looks = looks_of(sliding)
    monkeypatch.setattr(speech, "Rows", None)
    said = sliding.narrate_many(looks, ASKED, BEGUN, max_new_tokens=8)
    assert said == alone(sliding, looks)


def test_as_many_at_once_as_memory_holds(backbone, monkeypatch):
    for free, most in ((None, 8), (64 * GIB, 8), (0, 1)):
        monkeypatch.setattr(speech, "free_bytes", lambda device, free=free: free)
        assert backbone.texts_at_once == most
    # 2 x 3 layers x 2 heads x 12 numbers of 4 bytes a token; 16 of the picture and 1,024 around it
    each = 2 * 3 * 2 * 12 * 4 * (16 + 1024)
    monkeypatch.setattr(speech, "free_bytes", lambda device: 3 * each * 3 / 0.8)
    assert backbone.texts_at_once in (2, 3)
