"""What one can look for in a picture: the clue catalogue, and measured answers to it."""

from vlmforensics.clues.catalogue import (
    CATEGORIES,
    SUBJECTS,
    Catalogue,
    Clue,
    catalogue,
    measured_answer,
    read_catalogue,
)
from vlmforensics.clues.page import page

__all__ = [
    "CATEGORIES",
    "SUBJECTS",
    "Catalogue",
    "Clue",
    "catalogue",
    "measured_answer",
    "page",
    "read_catalogue",
]
