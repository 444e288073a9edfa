"""Loads the helpers that lie beside the tests (test folders are not packages)."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def load_helper():
    """``load_helper(path)``: the module in that file, loaded once."""

    def load(path):
        name = f"vlmforensics_test_{path.stem}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, path)
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        return sys.modules[name]

    return load


@pytest.fixture(scope="session")
def fakes(load_helper):
    """The module ``tests/fakes.py``."""
    return load_helper(Path(__file__).with_name("fakes.py"))
