"""Fixtures of the model room."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def families():
    """The module that writes tiny checkpoints."""
    name = "vlmforensics_test_families"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("families.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
