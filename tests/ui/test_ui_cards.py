"""Words and cards: true to the report, and hostile text stays text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

pytest.importorskip("gradio", reason="the ui extra is not installed")

from vlmforensics import imaging
from vlmforensics.errors import UnsupportedImage
from vlmforensics.explain import balance, speaks_for
from vlmforensics.types import Box
from vlmforensics.ui import cards, panels, views, words

HOSTILE = '<img src=x onerror=alert(1)> ![](http://example.org/x.png) {{x}} ${y} "quoted" \u202e\x00'


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"img", "br", "path", "circle", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("plain.jpg", "No sign of manipulation found"),
        ("render.jpg", "Wholly synthetic"),
        ("splice.jpg", "Tampered with"),
        ("unsure.jpg", "Inconclusive"),
    ],
)
def test_card_says_the_verdict_in_plain_words(report, name, title):
    card = cards.verdict_card(report(name))
    assert f">{title}</h2>" in card
    assert len(re.findall(r'class="vf-p-value">', card)) == 3
    assert "authentic" not in re.sub(r"no proof of[^<]*", "", card).lower()


def test_reasons_name_strength_and_reliability(report):
    card = cards.verdict_card(report("splice.jpg"))
    assert "right on 83 % of 512 validation pictures (80–86 %)" in card
    assert 'href="#evidence-E2"' in card


def test_inconclusive_gives_reason_and_help(report):
    card = cards.verdict_card(report("unsure.jpg"))
    assert "The findings contradict each other" in card
    assert "What would help" in card
    assert "480 × 320 pixels" in card


def test_card_and_explanation_put_a_finding_on_the_same_side(report):
    case = report("plain.jpg")
    copied = replace(
        case.evidence[1],
        contribution={"real": -0.03, "synthetic": -0.96, "tampered": 0.93},
        llr={"real": -0.1, "synthetic": -2.0, "tampered": 1.9},
        strength="weak support against synthetic",
    )
    case.evidence = (case.evidence[0], copied, *case.evidence[2:])
    chances = {"real": 0.9, "synthetic": 0.02, "tampered": 0.08}
    case.verdict = replace(case.verdict, probabilities=chances)
    assert copied in balance(case).cons
    pro, contra = re.search(
        r'class="vf-pro">(.*?)<div class="vf-contra">(.*)', cards.verdict_card(case), re.DOTALL
    ).groups()
    assert "#evidence-E2" not in pro
    assert "#evidence-E2" in contra
    assert (
        "eak support for “tampered with”" in contra
    )  # no objection is told in favour of what it speaks against
    row = re.search(r'id="evidence-E2".*?</tr>', panels.evidence_table(case, set()), re.DOTALL).group()
    assert f'data-for="{speaks_for(copied)}"' in row


def test_every_finding_has_a_row_that_citations_reach(report):
    case = report("splice.jpg")
    table = panels.evidence_table(case, {"E2"})
    ids = [attrs["id"] for tag, attrs in Tags(table).tags if tag == "tr" and "id" in attrs]
    assert ids == [f"evidence-{item.id}" for item in case.evidence]
    shown = [attrs["data-overlay"] for tag, attrs in Tags(table).tags if "data-overlay" in attrs]
    assert shown == ["E2"]


def test_hostile_text_stays_text_in_cards(report):
    case = report("splice.jpg")
    case.case = replace(
        case.case,
        file=HOSTILE,
        container=replace(case.case.container, exif={HOSTILE: HOSTILE}, text={"k": HOSTILE}),
    )
    case.evidence = (replace(case.evidence[0], statement=HOSTILE + ".", strength=HOSTILE), *case.evidence[1:])
    for html in (
        cards.verdict_card(case),
        panels.evidence_table(case, {"E1"}),
        panels.metadata(case),
        panels.credentials(case),
        panels.generation(case),
        panels.viewer(case, HOSTILE),
        panels.details(case),
        cards.stage_card(HOSTILE, [HOSTILE]),
        cards.refused_card(HOSTILE),
        cards.header(HOSTILE, "ready"),
    ):
        parsed = Tags(html)
        assert not [tag for tag, attrs in parsed.tags if tag == "script" or (tag == "img" and "src" in attrs)]
        assert parsed.open == []
        assert not [name for _, attrs in parsed.tags for name in attrs if name.startswith("on")]
        assert "\u202e" not in html
        assert "\x00" not in html


def test_hostile_text_stays_text_in_the_chat():
    shown = words.chat_text("# Title\n- item\n1. one\n" + HOSTILE + " www.example.org a@example.org", {"E1"})
    for mark in ("<", "![", "](", "://", "www.", "@", "{{", "# ", "- i", "1. "):
        assert mark not in shown.replace("&#", ""), mark


def test_only_known_evidence_becomes_a_link():
    assert words.chat_text("So [E1, E2]. But [E9].", {"E1", "E2"}) == (
        "So [E1](#evidence-E1) [E2](#evidence-E2). But &#91;E9&#93;."
    )


def test_errors_are_sentences():
    error = UnsupportedImage("this is text, not a picture; export a PNG")
    assert words.error_sentence(error, "a.svg") == "a.svg: This is text, not a picture; export a PNG."
    defect = words.error_sentence(KeyError("secret/path"), "b.jpg")
    assert "secret" not in defect
    assert defect.startswith("b.jpg: ")


def test_bands_say_in_words_what_is_ruled_out(report):
    card = cards.verdict_card(report("unsure.jpg"))
    states = re.findall(r'class="vf-p-state">([^<]*)<', card)
    assert states == ["ruled out", "ruled out", "possible; ruled out below 35\u00a0%"]
    assert '<b style="width:35.00%">' in card


def test_a_citation_in_the_conversation_names_its_picture():
    assert words.chat_text("So [E1].", {"E1"}, "case-7") == "So [E1](#evidence-E1~case-7)."


def test_views_draw_inside_the_region_only(report):
    case = report("splice.jpg")
    assert [layer.key for layer in views.layers(case)] == ["region", "E2", "E3", "E6"]
    drawn = _rgba(views.marks(case, ["region"]))
    box = case.mask.boxes[0]
    assert drawn[box.y0 : box.y1, box.x0 : box.x1, 3].any()
    assert not drawn[: box.y0 - 20, :, 3].any()
    assert not _rgba(views.marks(case, ["no such thing"]))[..., 3].any()
    both = _rgba(views.marks(case, ["region", "E3"]))
    assert (both[..., 3] >= drawn[..., 3]).all()


def test_the_whole_picture_is_exact_unless_reduced(report, monkeypatch):
    case = report("splice.jpg")
    data, kind = views.whole(case)
    assert kind == "image/png"
    assert (imaging.decode_trusted(data) == case.case.upright).all()
    monkeypatch.setattr(views, "SIDE", 100)
    data, kind = views.whole(case)
    assert kind == "image/jpeg"
    assert imaging.decode_trusted(data).shape[:2] == (67, 100)
    assert _rgba(views.marks(case, ["region"])).shape[:2] == (67, 100)
    piece = imaging.decode_trusted(views.piece(case, Box(10, 20, 60, 50)))
    assert (piece == case.case.upright[20:50, 10:60]).all()


def _rgba(data):
    from io import BytesIO

    import matplotlib.image

    return (matplotlib.image.imread(BytesIO(data)) * 255).round().astype(int)
