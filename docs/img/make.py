"""Take the README's picture of the chat page: the real model, the spliced example, Debian's Chromium.

Run after ``make install``: ``python docs/img/make.py [FILE]``.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from vlmforensics.assistant import Assistant
from vlmforensics.settings import load_settings
from vlmforensics.ui import build_app

MINUTES = 60_000


def main() -> None:
    """Examine the example, wait for the whole explanation, write a PNG."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("chat.png")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        os.environ["GRADIO_TEMP_DIR"] = folder
        settings = load_settings()
        blocks = build_app(lambda: Assistant.load(settings=settings), settings)
        from vlmforensics.ui.server import launch

        address = launch(blocks, settings, port=0)
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = chromium.new_page(viewport={"width": 1280, "height": 1240}, color_scheme="light")
        tab.set_default_timeout(10 * MINUTES)
        tab.goto(address)
        tab.get_by_role("button", name="Try: spliced picture").click()
        tab.locator("#vf-verdict-title").wait_for()
        tab.get_by_role("button", name="Submit").wait_for()
        tab.get_by_role("button", name="How sure?").click()
        tab.get_by_role("button", name="Stop").wait_for()
        tab.get_by_role("button", name="Submit").wait_for()
        tab.mouse.move(5, 5)
        tab.screenshot(path=target)
        chromium.close()
        blocks.close(verbose=False)


if __name__ == "__main__":
    main()
