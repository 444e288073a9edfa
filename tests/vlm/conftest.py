"""Fixtures of the model room."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def families(load_helper):
    """The module that writes tiny checkpoints."""
    return load_helper(Path(__file__).with_name("families.py"))
