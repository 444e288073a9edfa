"""``explain_many``: explanations written together are those written one by one, whatever the narrator says."""

import pytest

from vlmforensics.vlm.base import TEXT

SAYINGS = [
    "It looks edited.",
    "The mean grey level is 0.999 of 1 [E1]. The blending score is 0.700 of 1 [E2]. Nothing else. And more. ",
    "Wrong [E9]. Wrong again [E8]. Never read [E7].",
    "no end " * 200,
    "",
]


class Together:
    """A narrator whose texts are known, one by one or many at a time."""

    def __init__(self, backbone, says):
        self._backbone, self._says = backbone, says
        self.read = {}

    def __getattr__(self, name):
        return getattr(self._backbone, name)

    def narrate(self, look, instruction, **_):
        yield from _words(self._says)

    def narrate_many(self, looks, instructions, prefixes, *, max_new_tokens, enough):
        texts = []
        for row, _ in enumerate(looks):
            text = ""
            for piece in _words(self._says):
                text += piece
                if enough(row, text):
                    break
            texts.append(text)
        self.read[self._says] = texts
        return texts


def _words(text):
    return [word + " " for word in text.split(" ")] if text else []


@pytest.mark.parametrize("says", SAYINGS)
def test_the_same_sentences_are_kept_and_reading_ends_as_soon(fakes, tmp_path, says):
    paths = [fakes.write(tmp_path / f"{index}.jpg", index) for index in range(3)]
    assistant = fakes.make(backbone=Together(fakes.Backbone(), says))
    assert TEXT in assistant.backbone.capabilities
    one = [assistant.examine(path) for path in paths]
    many = [assistant.examine(path) for path in paths]
    for report in one:
        "".join(assistant.explain(report))
    assistant.explain_many(many)
    assert [report.explanation for report in many] == [report.explanation for report in one]
    if says.startswith("Wrong"):
        assert all("E7" not in text for text in assistant.backbone.read[says])  # two failures are enough


def test_a_narrator_that_breaks_leaves_the_plain_wording(fakes, tmp_path):
    paths = [fakes.write(tmp_path / f"{index}.jpg", index) for index in range(2)]
    backbone = fakes.Backbone()

    def broken(*_, **__):
        raise RuntimeError("out of memory")

    backbone.narrate_many = broken
    assistant = fakes.make(backbone=backbone)
    reports = [assistant.examine(path) for path in paths]
    assistant.explain_many(reports)
    assert all(len(report.explanation.text) > 60 for report in reports)
    assert all("looks edited" not in report.explanation.text for report in reports)
