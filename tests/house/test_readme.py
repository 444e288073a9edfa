"""What the README shows runs as printed, and its figures are those that were stored."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.model
@pytest.mark.slow
def test_api_example_runs(tmp_path):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    shutil.copy(ROOT / "ui" / "examples" / "photograph.jpg", tmp_path / "photo.jpg")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"^(real|synthetic|tampered|inconclusive) \{", done.stdout)
    assert "[E1]" in done.stdout
    assert (tmp_path / "photo.html").stat().st_size > 10_000


def test_pictures_exist():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path


def test_figures_are_the_stored_ones():
    from vlmforensics.eval.page import BEGIN, END, HEADLINE_BEGIN, HEADLINE_END, headline, render

    result = json.loads((ROOT / "eval" / "results" / "compact.json").read_text(encoding="utf-8"))
    card = (ROOT / "docs" / "model-card.md").read_text(encoding="utf-8")
    assert card.partition(BEGIN)[2].partition(END)[0].strip() == render(result).strip()
    assert README.partition(HEADLINE_BEGIN)[2].partition(HEADLINE_END)[0].strip() == headline(result).strip()
