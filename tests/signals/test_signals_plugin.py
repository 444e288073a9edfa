"""The documented example plug-in, installed as a package of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "example-plugin"
PROGRAM = """
import json
import numpy as np
from vlmforensics.imaging import encode, open_case
from vlmforensics.settings import load_settings
from vlmforensics.signals import load_sources
settings = load_settings(sandbox=False)
picture = np.zeros((64, 80, 3), np.uint8)
picture[6:-4, 3:-2] = np.random.default_rng(0).integers(0, 255, (54, 75, 3))
case = open_case(encode(picture, "PNG"), settings=settings)
sources = load_sources(settings)
print(json.dumps({
    "names": [source.name for source in sources],
    "said": [e.statement for s in sources if s.name == "even_border" for e in s.examine(case)],
}))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "plugin"
    source.mkdir()
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--target", str(folder), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def run(site: Path, allowed: bool) -> dict[str, list[str]]:
    env = os.environ | {"PYTHONPATH": str(site), "VLMF_ALLOW_PLUGINS": "1" if allowed else "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, cwd=site, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_speaks_where_plugins_are_allowed(site):
    found = run(site, allowed=True)
    assert found["names"][-1] == "even_border"
    assert found["said"] == [
        "The picture's even border is 6 pixels at the top, 4 at the bottom, 3 left and 2 right."
    ]


def test_is_not_loaded_otherwise(site):
    assert "even_border" not in run(site, allowed=False)["names"]
