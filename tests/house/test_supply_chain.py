"""No code is taken from data: what loads weights, settings or records can't run what they hold."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path for room in ("vlmforensics", "ui", "eval", "finetune") for path in (ROOT / room).rglob("*.py")
)
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("os", "system"), ("os", "popen")}
ON = {"allow_pickle", "trust_remote_code", "shell"}


def finds(source: str) -> list[str]:
    """What runs code out of data, by name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in CALLS:
                found.append(called.id)
            plain = any(
                k.arg == "weights_only" and getattr(k.value, "value", 0) is True for k in node.keywords
            )
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and not plain:
                found += [".".join(p) for p in ATTRIBUTES if p == (called.value.id, called.attr)]
            found += [
                k.arg for k in node.keywords if k.arg in ON and getattr(k.value, "value", True) is not False
            ]
    return found


def test_no_code_comes_from_data():
    assert len(FILES) > 100
    assert {str(p.relative_to(ROOT)): f for p in FILES if (f := finds(p.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "torch.load('x')", "torch.load('x', weights_only=False)",
        "np.load(f, allow_pickle=True)", "exec(text)",
        "AutoModel.from_pretrained(x, trust_remote_code=flag)", "subprocess.run(c, shell=True)",
    ],
)  # fmt: skip
def test_the_search_finds(line):
    assert finds(line)


def test_every_requirement_has_a_floor_and_the_lock_is_exact():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [
        line for name, lines in project["optional-dependencies"].items() if name != "all" for line in lines
    ]
    for line in [*project["dependencies"], *extras]:
        assert ">=" in line or "==" in line, line
    locked = (ROOT / "constraints" / "locked.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in locked if line.strip() and not line.lstrip().startswith(("#", "-"))]
    assert len(pins) > 50
    assert [line for line in pins if "==" not in line] == []
