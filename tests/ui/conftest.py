"""A served page over an assistant without a network, and a browser to look at it with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vlmforensics import imaging
from vlmforensics.settings import MIB, Settings

CHROMIUM = next(
    (path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None
)


@pytest.fixture(scope="session")
def fake_assistant(load_helper):
    return load_helper(Path(__file__).with_name("fake_assistant.py")).FakeAssistant


@pytest.fixture(scope="session")
def picture_bytes():
    """A JPEG of 480 × 320 made in code: a sky, a ground, a sun."""
    rows, columns = np.mgrid[0:320, 0:480]
    pixels = np.zeros((320, 480, 3), np.float64)
    pixels[..., 2] = 235 - rows * 0.35
    pixels[..., 1] = 150 + 60 * np.sin(columns / 90)
    pixels[..., 0] = np.where(rows > 210, 150, 90)
    pixels[(columns - 360) ** 2 + (rows - 80) ** 2 < 1400] = (250, 235, 160)
    pixels += np.random.default_rng(7).normal(0, 4, pixels.shape)
    return imaging.encode(np.clip(pixels, 0, 255).astype(np.uint8), "JPEG", quality=90)


@pytest.fixture
def pictures(tmp_path, picture_bytes):
    """Write the picture under a name, which chooses the fake assistant's verdict."""

    def write(name, data=picture_bytes):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.fixture(scope="session")
def report(fake_assistant, picture_bytes, tmp_path_factory):
    """Make a report: ``report("splice.jpg")``."""

    def make(name):
        path = tmp_path_factory.mktemp("case") / "picture.jpg"
        path.write_bytes(picture_bytes)
        return fake_assistant(Settings()).examine(path, file=name)

    return make


@pytest.fixture(scope="session")
def page(fake_assistant, tmp_path_factory):
    """The page served on loopback: ``url, assistant, sessions, settings``."""
    pytest.importorskip("gradio", reason="the ui extra is not installed")
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("gradio"))
    from vlmforensics.ui.app import build_app
    from vlmforensics.ui.server import launch
    from vlmforensics.ui.state import Sessions

    settings = Settings(max_bytes=1 * MIB)
    assistant = fake_assistant(settings, stage_seconds=0.02, word_seconds=0.005)
    sessions = Sessions(grace=0.5)
    blocks = build_app(lambda: assistant, settings, sessions)
    url = launch(blocks, settings, port=0)
    yield SimpleNamespace(url=url, assistant=assistant, sessions=sessions, settings=settings)
    sessions.clear()
    blocks.close(verbose=False)
    del os.environ["GRADIO_TEMP_DIR"]


# of one module: playwright keeps an event loop running in this thread, where other tests start their own
@pytest.fixture(scope="module")
def chromium():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium found on PATH")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
