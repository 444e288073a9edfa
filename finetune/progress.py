"""Progress lines of long jobs, on standard error with the time."""

from __future__ import annotations

import logging


def show_progress() -> None:
    """Let this package's progress through, whatever the command line had set up; other libraries' warnings only."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("vlmforensics.finetune").setLevel(logging.INFO)
