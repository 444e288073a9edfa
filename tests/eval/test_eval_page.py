"""The report in a browser: whole on a phone, and nothing is fetched."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from vlmforensics.eval import score
from vlmforensics.eval.report import write

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.browser
def test_report_fits_a_phone(stored):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    truth = ["real", "synthetic", "tampered"] * 12
    folder = stored(truth, np.random.default_rng(0).dirichlet(np.ones(3), len(truth)))
    score.save(score.score(folder), folder / score.RESULTS)
    write(folder)
    foreign = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 360, "height": 740})
        page.set_default_timeout(120_000)  # a busy machine must not fail it
        page.on("request", lambda request: foreign.append(request.url))
        page.goto((folder / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.get_by_role("heading", level=1).inner_text() == "stored on shared"
        assert page.get_by_role("img", name="Reliability diagram").bounding_box()["width"] <= 360
        assert page.get_by_text("Not reached:").is_visible()
        browser.close()
    assert foreign == [(folder / "report.html").as_uri()]
