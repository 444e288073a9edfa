"""The page in a real browser, as a visitor uses it. Waits are bounded, parts are found by role and name."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("gradio", reason="the ui extra is not installed")

import jsonschema

from vlmforensics.report import schema

pytestmark = pytest.mark.browser
WAIT = 60_000  # generous: a test must not fail because the machine is busy
TITLES = {
    "splice": "Tampered with",
    "render": "Wholly synthetic",
    "plain": "No sign of manipulation found",
    "unsure": "Inconclusive",
}


class Visitor:
    """A tab of its own, which writes down what must not happen."""

    def __init__(self, browser, url, **options):
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self.context.set_default_timeout(WAIT)
        self.tab = self.context.new_page()
        self.foreign, self.complaints = [], []
        self.tab.on("request", self._seen)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on(
            "console", lambda line: self.complaints.append(line.text) if line.type == "error" else None
        )
        self.tab.goto(url)
        self.tab.get_by_role("heading", name="Examine a picture").wait_for()

    def _seen(self, request):
        if not re.match(r"(http://127\.0\.0\.1:|data:|blob:)", request.url):
            self.foreign.append(request.url)

    def drop(self, path):
        with self.tab.expect_file_chooser() as chooser:
            self.tab.get_by_role("button", name=re.compile("Choose a picture|Examine another")).first.click()
        chooser.value.set_files(path)

    def verdict(self, kind):
        self.tab.get_by_role("heading", name=TITLES[kind], exact=True).wait_for()

    def chat(self):
        return self.tab.get_by_role("log", name="chatbot conversation")

    def idle(self):
        self.tab.get_by_role("button", name="Submit").wait_for()

    def close(self):
        self.context.close()


@pytest.fixture
def visit(chromium, page):
    opened = []

    def open_tab(**options):
        opened.append(Visitor(chromium, page.url, **options))
        return opened[-1]

    yield open_tab
    for visitor in opened:
        visitor.close()


def _save(visitor, name):
    with visitor.tab.expect_download() as download:
        visitor.tab.get_by_role("button", name=name).click()
    return download.value.suggested_filename, download.value.path().read_bytes()


def test_from_a_dropped_picture_to_a_saved_report(visit, pictures):
    visitor = visit()
    tab = visitor.tab
    visitor.drop(pictures("splice.jpg"))
    visitor.verdict("splice")
    for name in ("E1", "E2", "E6"):
        assert tab.locator(f"tr#evidence-{name}").is_visible()
    shown = tab.get_by_role("img", name=re.compile("splice.jpg. Suspect: one region"))
    shown.wait_for()
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 480
    visitor.idle()
    explanation = visitor.chat().get_by_role("link", name="E2").first
    explanation.click()
    tab.wait_for_function("document.activeElement?.id === 'evidence-E2'")

    marks = tab.locator(".vf-marks")
    marked = marks.get_attribute("src")
    show = tab.get_by_role("button", name="Show E3 on the picture")
    show.click()
    tab.get_by_role("img", name=re.compile("Suspect: one region.*E3, Noise")).wait_for()
    assert show.get_attribute("aria-pressed") == "true"
    assert tab.get_by_role("checkbox", name="E3 Noise consistency").is_checked()
    tab.get_by_role("checkbox", name="Suspect region").uncheck()
    tab.get_by_role("img", name=re.compile("splice.jpg. E3, Noise")).wait_for()
    assert marks.get_attribute("src") != marked

    tab.get_by_role("searchbox", name="Filter").fill("noise")
    assert tab.locator("tr[id^=evidence-]:visible").count() == 1
    tab.get_by_role("searchbox", name="Filter").fill("")
    tab.get_by_role("combobox", name="Show").select_option("placed")
    assert tab.locator("tr[id^=evidence-]:visible").count() == 3
    tab.get_by_role("combobox", name="Show").select_option("")

    tab.get_by_role("button", name="Weight").click()
    tab.get_by_role("button", name="Weight").click()
    order = tab.locator("tr[id^=evidence-]").evaluate_all(
        "rows => rows.map((row) => Number(row.dataset.weight))"
    )
    assert order == sorted(order, reverse=True)

    tab.get_by_role("button", name="How sure?").click()
    visitor.chat().get_by_text("You asked “How sure?” about splice.jpg").wait_for()
    visitor.idle()

    name, html = _save(visitor, "Save report (HTML)")
    assert name.endswith(".html")
    assert b"<html" in html
    assert b"How sure?" in html
    name, record = _save(visitor, "Save record (JSON)")
    assert name.endswith(".json")
    record = json.loads(record)
    jsonschema.validate(record, schema())
    assert record["verdict"] == "tampered"
    assert record["conversation"][0]["question"] == "How sure?"
    name, mask = _save(visitor, "Save mask (PNG)")
    assert mask.startswith(b"\x89PNG")
    assert visitor.foreign == []
    assert visitor.complaints == []


def test_a_browser_that_lags_behind_shows_every_update(visit, pictures):
    visitor = visit()
    slow = visitor.context.new_cdp_session(visitor.tab)
    slow.send("Emulation.setCPUThrottlingRate", {"rate": 12})
    visitor.drop(pictures("splice.jpg"))
    visitor.verdict("splice")
    visitor.idle()
    assert visitor.tab.locator("tr#evidence-E1").is_visible()
    assert visitor.complaints == []


def test_two_visitors_at_once_keep_their_pictures_apart(visit, pictures):
    anna, bert = visit(), visit()
    anna.drop(pictures("unsure-anna.jpg"))
    bert.drop(pictures("render-bert.jpg"))
    anna.verdict("unsure")
    bert.verdict("render")
    for visitor, mine, other in ((anna, "unsure-anna.jpg", "bert"), (bert, "render-bert.jpg", "anna")):
        visitor.idle()
        visitor.tab.get_by_role("button", name="Why?").click()
        visitor.chat().get_by_text(f"You asked “Why?” about {mine}").wait_for()
        visitor.idle()
        assert other not in visitor.tab.locator("body").inner_text()
    assert anna.tab.get_by_text("What would help").is_visible()


def test_what_cannot_be_examined_is_answered_with_a_sentence(visit, pictures):
    visitor = visit()
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    for name, data in (("notes.jpg", b"Only text, whatever the name says. " * 30), ("drawing.svg", drawing)):
        visitor.drop(pictures(name, data))
        visitor.chat().get_by_text(re.compile(rf"{re.escape(name)}: [A-Z].*\.")).wait_for()
        visitor.tab.get_by_role("heading", name="Not examined").wait_for()
        visitor.idle()
    visitor.drop(pictures("large.jpg", b"\xff\xd8\xff" + bytes(1 << 20)))
    visitor.tab.get_by_text("exceed the maximum allowed size").first.wait_for()
    visitor.drop(pictures("plain.jpg"))
    visitor.verdict("plain")
    assert "Traceback" not in visitor.tab.locator("body").inner_text()


def test_a_phone_with_the_keyboard_alone(visit, pictures):
    visitor = visit(color_scheme="dark")
    tab = visitor.tab
    tab.set_viewport_size({"width": 390, "height": 844})
    button = tab.get_by_role("button", name="Try: spliced picture")
    button.focus()
    tab.keyboard.press("Enter")
    visitor.verdict("splice")
    visitor.idle()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    box = tab.get_by_role("textbox", name="Your question")
    box.focus()
    tab.keyboard.type("Where is it?")
    tab.keyboard.press("Enter")
    visitor.chat().get_by_text("You asked “Where is it?”").wait_for()
    visitor.idle()
    tab.get_by_role("button", name="Show E2 on the picture").focus()
    tab.keyboard.press("Enter")
    tab.get_by_role("img", name=re.compile("E2, Blending")).wait_for()
    ask = tab.get_by_role("button", name="Ask about a region")
    ask.focus()
    tab.keyboard.press("Enter")
    for corner, pixels in (("left", "60"), ("top", "40"), ("right", "360"), ("bottom", "260")):
        tab.get_by_role("spinbutton", name=corner).fill(pixels)
    tab.keyboard.press("Enter")
    visitor.chat().get_by_text("x 60–360, y 40–260 (300 × 220 pixels), examined by itself").wait_for()
    visitor.idle()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    unnamed = tab.evaluate(
        """() => [...document.querySelectorAll('button, input:not([type=hidden]), textarea, a[href]')]
            .filter((part) => part.checkVisibility?.() && !part.closest('footer'))
            .filter((part) => !(part.getAttribute('aria-label') || part.innerText || part.labels?.length || part.title
              || part.querySelector('img[alt]:not([alt=""])')))
            .map((part) => part.outerHTML.slice(0, 160))"""
    )
    assert unnamed == []
    assert visitor.foreign == []


def test_stop_and_a_second_picture(visit, pictures, picture_bytes, page, monkeypatch):
    monkeypatch.setattr(page.assistant, "word_seconds", 0.3)
    visitor = visit()
    tab = visitor.tab
    visitor.drop(pictures("splice.jpg"))
    visitor.verdict("splice")
    visitor.chat().get_by_role("link", name="E1").first.wait_for()
    tab.get_by_role("button", name="Stop").click()
    visitor.chat().get_by_text("Stopped.").wait_for()
    visitor.idle()
    monkeypatch.setattr(page.assistant, "word_seconds", 0.0)
    visitor.drop(pictures("plain.jpg", picture_bytes + b"another file"))
    visitor.verdict("plain")
    visitor.idle()
    visitor.chat().get_by_role("link", name="E1").first.click()  # of the picture that is not shown
    visitor.verdict("splice")
    tab.wait_for_function("document.activeElement?.id === 'evidence-E1'")
    tab.get_by_role("radio", name="2. plain.jpg").check()
    visitor.verdict("plain")
    tab.get_by_role("button", name="Which of the two was edited?").click()
    visitor.chat().get_by_text("A is likelier to be tampered with").wait_for()
    visitor.idle()
    tab.get_by_role("radio", name="1. splice.jpg").check()
    visitor.verdict("splice")
    tab.get_by_role("button", name="Why?").click()
    visitor.chat().get_by_text("You asked “Why?” about splice.jpg").wait_for()


def test_the_viewer_zooms_compares_and_asks(visit, pictures):
    visitor = visit()
    tab = visitor.tab
    visitor.drop(pictures("splice.jpg"))
    visitor.verdict("splice")
    visitor.idle()
    scale = tab.locator(".vf-scale")
    tab.get_by_role("button", name="Pixels").click()
    assert scale.inner_text() == "400 %"
    assert tab.locator(".vf-whole").evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    frame = tab.locator(".vf-frame")
    frame.focus()
    before = tab.locator(".vf-sheet").get_attribute("style")
    tab.keyboard.press("ArrowRight")
    assert tab.locator(".vf-sheet").get_attribute("style") != before
    tab.keyboard.press("0")
    assert float(scale.inner_text().split()[0]) < 400
    for name, value in (("Opacity of the marks", "0.4"), ("Before and after", "inset")):
        slider = tab.get_by_role("slider", name=name)
        slider.fill("40")
        assert value in tab.locator(".vf-marks").get_attribute("style")
    tab.get_by_role("slider", name="Before and after").fill("0")
    tab.get_by_role("button", name="Ask about a region").click()
    box = frame.bounding_box()
    tab.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.25)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.75, steps=3)
    tab.mouse.up()
    assert tab.get_by_role("spinbutton", name="right").input_value() != "0"
    tab.get_by_role("textbox", name=re.compile("Question")).fill("Was this pasted?")
    tab.get_by_role("button", name="Examine this region").click()
    visitor.chat().get_by_text("examined by itself at its own resolution: Tampered with").wait_for()
    visitor.chat().get_by_text("You asked “Was this pasted? (").wait_for()
    visitor.idle()
    tab.get_by_role("img", name=re.compile("splice.jpg. Your region 1")).wait_for()
    _, html = _save(visitor, "Save report (HTML)")
    assert b"examined by itself" in html
    assert visitor.complaints == []


def test_a_batch_in_the_browser(visit, pictures, picture_bytes):
    visitor = visit()
    tab = visitor.tab
    tab.get_by_role("tab", name="Batch").click()
    names = ("splice.jpg", "render.jpg", "unsure.jpg")
    with tab.expect_file_chooser() as chooser:
        tab.get_by_role("button", name="Choose pictures or ZIP").click()
    chooser.value.set_files([pictures(name, picture_bytes + name.encode()) for name in names])
    tab.locator("#vf-batch-files").get_by_text("render").first.wait_for()
    tab.get_by_role("button", name="Examine all").click()
    tab.get_by_text("3 of 3 pictures · done").wait_for()
    tab.get_by_role("button", name="Wholly synthetic").click()
    tab.get_by_role("button", name="Wholly synthetic").click()
    rows = tab.locator("#vf-batch-table tbody tr")
    assert rows.first.get_attribute("data-file") == "render.jpg"
    name, data = _save(visitor, "Save JSON lines")
    assert name.endswith(".jsonl")
    assert len(data.splitlines()) == 3
    name, data = _save(visitor, "Save CSV")
    assert b"render.jpg" in data
    tab.get_by_role("button", name="Open splice.jpg in the conversation").click()
    visitor.verdict("splice")
    visitor.idle()
    assert visitor.complaints == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_no_serious_violation(visit, pictures, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    visitor = visit(color_scheme=scheme)
    tab = visitor.tab
    tab.set_viewport_size({"width": width, "height": 900})

    def serious():
        found = axe.run(tab, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}).response
        return [
            (item["id"], node["target"], node.get("failureSummary", "")[:300])
            for item in found["violations"]
            if item["impact"] in {"serious", "critical"}
            for node in item["nodes"]
        ]

    assert serious() == []
    visitor.drop(pictures("unsure.jpg"))
    visitor.verdict("unsure")
    visitor.idle()
    tab.get_by_role("button", name="Ask about a region").click()
    assert serious() == []
    for name in ("Batch", "Settings"):
        tab.get_by_role("tab", name=name).click()
        tab.locator("#vf-batch-intro h2, .vf-title").last.wait_for()
        assert serious() == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_german_and_dark_are_kept_for_the_visitor(visit, pictures):
    visitor = visit()
    tab = visitor.tab
    visitor.drop(pictures("splice.jpg"))
    visitor.verdict("splice")
    visitor.idle()
    tab.get_by_role("tab", name="Settings").click()
    tab.get_by_role("radio", name="dark").check()
    tab.wait_for_function("document.body.classList.contains('dark')")
    tab.get_by_role("radio", name="Deutsch").check()
    tab.get_by_role("tab", name="Untersuchen").click()
    tab.get_by_role("heading", name="Bearbeitet", exact=True).wait_for()
    tab.get_by_role("button", name="Maske speichern (PNG)").wait_for()
    tab.get_by_role("textbox", name="Your question").wait_for()
    assert tab.evaluate("document.documentElement.lang") == "de"
    tab.get_by_role("button", name="Warum?").click()
    visitor.chat().get_by_text("You asked “Why?” about splice.jpg").wait_for()
    visitor.idle()
    tab.reload()
    tab.wait_for_function("document.body.classList.contains('dark')")
    assert visitor.complaints == []
