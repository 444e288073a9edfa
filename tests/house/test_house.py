"""The house keeps its shape: imports, types, style, packaging, and a cheap import."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAPPED = ("ui", "eval", "finetune")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder holding the package in its installed shape, where ui, eval and finetune lie inside vlmforensics."""
    home = tmp_path_factory.mktemp("installed")
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(ROOT / "vlmforensics", home / "vlmforensics", ignore=ignore)
    for room in MAPPED:
        shutil.copytree(ROOT / room, home / "vlmforensics" / room, ignore=ignore)
    return home


def _run(command, cwd):
    environment = {**os.environ, "PYTHONPATH": str(cwd)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def _tool(name):
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not installed; install the dev extra")
    return str(path)


def test_import_contracts_hold(installed):
    done = _run([_tool("lint-imports"), "--config", str(ROOT / "pyproject.toml"), "--no-cache"], installed)
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_contracts_see_a_breach(installed, tmp_path):
    home = tmp_path / "broken"
    shutil.copytree(installed, home)
    with (home / "vlmforensics" / "fusion" / "judge.py").open("a") as file:
        file.write("\nimport vlmforensics.ui\n")
    done = _run([_tool("lint-imports"), "--config", str(ROOT / "pyproject.toml"), "--no-cache"], home)
    assert done.returncode != 0


@pytest.mark.slow
def test_types_are_clean(installed):
    command = [_tool("mypy"), "--config-file", str(ROOT / "pyproject.toml"), "-p", "vlmforensics"]
    done = _run(command, installed)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_style_is_clean(command):
    done = _run([_tool("ruff"), *command, "--no-cache", str(ROOT)], ROOT)
    assert done.returncode == 0, done.stdout[-4000:]


def test_every_package_is_shipped():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    on_disk = {
        ".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "vlmforensics").rglob("__init__.py")
    }
    for room in MAPPED:
        on_disk |= {
            "vlmforensics." + ".".join(p.parent.relative_to(ROOT).parts)
            for p in (ROOT / room).rglob("__init__.py")
        }
    assert listed == on_disk


def test_files_stay_readable():
    long = {
        str(path.relative_to(ROOT)): count
        for folder in ("vlmforensics", *MAPPED)
        for path in (ROOT / folder).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 500
    }
    assert not long


@pytest.mark.parametrize("statement", ["import vlmforensics", "import vlmforensics.cli"])
def test_import_is_cheap(statement, tmp_path):
    heavy = ("torch", "transformers", "gradio", "ray")
    probe = f"import sys; {statement}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_public_names_resolve():
    import vlmforensics

    for name in vlmforensics.__all__:
        assert getattr(vlmforensics, name) is not None
