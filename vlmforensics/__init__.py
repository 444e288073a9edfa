"""vlmforensics: explainable image forensics.

Give it a picture; it says *real* (no sign of manipulation found), *synthetic*, *tampered* or *inconclusive*, with
calibrated probabilities, and explains why, every claim tied to evidence that a reader can check.

    from vlmforensics import Assistant
    report = Assistant.load("compact").examine("photo.jpg")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmforensics.assistant import Assistant as Assistant
    from vlmforensics.errors import VlmForensicsError as VlmForensicsError
    from vlmforensics.types import Evidence as Evidence
    from vlmforensics.types import Report as Report
    from vlmforensics.types import Verdict as Verdict

__version__ = "0.1.0"
_HOMES = {
    "Assistant": "vlmforensics.assistant",
    "VlmForensicsError": "vlmforensics.errors",
    "Evidence": "vlmforensics.types",
    "Report": "vlmforensics.types",
    "Verdict": "vlmforensics.types",
}
__all__ = ["Assistant", "Evidence", "Report", "Verdict", "VlmForensicsError", "__version__"]


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that ``import vlmforensics`` costs nothing."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(name)
