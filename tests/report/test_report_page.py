"""The page and the Markdown: complete, self-contained, and inert whatever the file or the model says."""

import html as html_module
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from vlmforensics.errors import InputError, SettingsError
from vlmforensics.imaging import open_case
from vlmforensics.report import (
    digest,
    record_to_html,
    record_to_markdown,
    save,
    to_html,
    to_markdown,
    to_record,
)
from vlmforensics.report.markdown import escape
from vlmforensics.report.text import printable, split_citations
from vlmforensics.settings import Settings
from vlmforensics.types import Answer, Explanation

HOSTILE = "<img src=x onerror=alert(1)>\"'\u202e[click](http://evil.example)\x07.jpg"


class Page(HTMLParser):
    """Collects tags, attributes, ids and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.style = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.style = tag == "style"

    def handle_endtag(self, tag):
        self.style = False

    def handle_data(self, data):
        if not self.style:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.fixture
def report(fakes):
    sources = [fakes.Brightness(), fakes.Broken("noise")]
    made = fakes.make(sources=sources).examine(fakes.encode(fakes.scene()), file=HOSTILE)
    made.explanation = Explanation(f"A region stands out [E1, E2]. It says {HOSTILE} [E3].", 3, 1, 2)
    made.conversation = (Answer(f"Why {HOSTILE}?", "Because of that [E1].", ("E1",)),)
    return made


def test_page_carries_what_a_forensic_report_must(report):
    text = Page(to_html(report, written=datetime(2026, 1, 2, tzinfo=UTC))).text
    case = report.case
    for needed in (
        case.sha256, f"{len(case.data):,} bytes", f"{case.width} × {case.height}", "JPEG", report.model.weights_sha256,
        report.model.calibration_sha256, report.model.settings_sha256, "The evidence supports: partly edited",
        "What this cannot see", "Other explanations", "messaging app", "noise", "defect.ZeroDivisionError",
        "Known error rate", "n = 500", "threshold 0.50", "2026-01-02", "Because of that", "does not decide",
        "1 of 2 generated sentences",
    ):  # fmt: skip
        assert needed in text, needed
    for item in report.evidence:
        assert item.statement in text
        assert f"{item.contribution['tampered']:+.2f}" in text


def test_page_asks_nobody_for_anything(report):
    page = Page(to_html(report))
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in {"src", "href"}:
            assert value.startswith(("data:image/png;base64,", "#")), value[:60]
    policy = next(value for _, name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "url(" not in to_html(report)


def test_page_is_accessible(report):
    page = Page(to_html(report))
    assert ("html", "lang", "en") in page.attributes
    described = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt") and value]
    assert len(described) == page.tags.count("img") > 0
    assert page.tags.count("h1") == 1
    assert all(word in page.text for word in ("no sign of manipulation", "wholly generated", "partly edited"))


def test_citations_lead_to_their_finding(report):
    page = Page(to_html(report))
    ids = {value for _, name, value in page.attributes if name == "id"}
    links = {value[1:] for _, name, value in page.attributes if name == "href"}
    assert links <= ids
    assert {"E1", "E2", "E3"} <= links


def test_hostile_text_stays_text(report):
    page = to_html(report)
    assert "<img src=x" not in page
    assert "\u202e" not in page
    assert "\x07" not in page
    assert html_module.escape("<img src=x onerror=alert(1)>") in page


def test_abstention_gives_its_reason_and_no_label(fakes):
    report = fakes.make().examine(
        fakes.encode(fakes.scene()[:1, :40].repeat(60, 0) * 0 + 127), file="grey.png"
    )
    assert report.verdict.abstained
    text = Page(to_html(report)).text
    assert "Inconclusive" in text
    assert report.verdict.abstention in text
    assert "Why no verdict" in to_markdown(report)


def test_real_is_never_called_authentic(fakes):
    report = fakes.make(backbone=fakes.Backbone((0.98, 0.01, 0.01)), masks=None, blending=None).examine(
        fakes.encode(fakes.scene())
    )
    assert report.verdict.label == "real"
    for text in (Page(to_html(report)).text, to_markdown(report)):
        assert "No sign of manipulation found" in text
        assert not re.search(r"\b(is|as) (authentic|genuine)\b", text)


def test_page_from_the_stored_record_says_the_same(report):
    record = to_record(report)
    again = Page(record_to_html(record, report.case))
    assert digest(record) in again.text
    assert again.text.count("As examined") == 1
    bare = Page(record_to_html(record, None))
    assert "img" not in bare.tags
    assert "not at hand" in bare.text
    assert report.case.sha256 in bare.text
    assert digest(record) in record_to_markdown(record, None)


def test_page_refuses_another_picture(fakes, report):
    other = open_case(fakes.encode(fakes.scene(9)), file="other.jpg", settings=Settings(sandbox=False))
    with pytest.raises(InputError, match="not the picture"):
        record_to_html(to_record(report), other)
    with pytest.raises(InputError, match="not the picture"):
        record_to_markdown(to_record(report), other)


def test_markdown_is_inert(report):
    text = to_markdown(report)
    assert "<img" not in text.replace("\\<img", "")
    assert "http://" not in text
    assert "\u202e" not in text
    assert "\\[E1, E2\\]" in text


def test_markdown_of_a_forged_record_is_inert(report):
    record = to_record(report)
    record["evidence"][0] |= {"id": HOSTILE, "status": HOSTILE}
    record["evidence"][1]["reliability"] = {"balanced_accuracy": 1, "low": 1, "high": 1, "n": HOSTILE}
    record["model"]["parts"] = {HOSTILE: HOSTILE}
    text = record_to_markdown(record, None)
    assert "<img" not in text.replace("\\<img", "")
    assert "http://" not in text


@pytest.mark.parametrize("ending", ["html", "md", "json"])
def test_save_replaces_whole_files(report, tmp_path, ending):
    target = tmp_path / f"r.{ending}"
    target.write_text("old")
    report.save(str(target))
    assert report.case.sha256 in target.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_save_refuses_other_endings_and_missing_folders(report, tmp_path):
    with pytest.raises(SettingsError, match=r"\.html"):
        save(report, tmp_path / "r.pdf")
    with pytest.raises(SettingsError, match="can't write"):
        save(report, tmp_path / "none" / "r.html")
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="can't write"):
        save(report, tmp_path / "file" / "r.html")


def test_pages_without_a_date_are_identical(report):
    assert to_html(report) == to_html(report)


def test_printable_and_escape():
    assert printable("a\nb\u202ec\udce9") == "a\\nb\\u202ec\\udce9"
    assert printable("x" * 10, 4) == "xxxx…"
    assert escape("- [a](http://b) <c> | d") == "\\- \\[a\\](http\\://b) \\<c\\> \\| d"


def test_citations_are_found_and_lookalikes_left():
    pieces = list(split_citations("One [E1]. Two [E2, E13] and [not] [E0]."))
    assert [ids for _, ids in pieces if ids] == [("E1",), ("E2", "E13")]
    assert "".join(text for text, _ in pieces) == "One [E1]. Two [E2, E13] and [not] [E0]."
