"""The mask head: where a picture was tampered with, to the pixel.

``MaskHead.load().locate(pixels, …)`` gives a ``types.Mask`` on the upright picture; ``.evidence(mask,
shape)`` words it. Imported on first use, since it needs torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmforensics.masks.head import MaskHead as MaskHead
    from vlmforensics.masks.head import TrainedInputs as TrainedInputs
    from vlmforensics.masks.regions import PixelCalibration as PixelCalibration

__all__ = ["MaskHead", "PixelCalibration", "TrainedInputs"]
_HOMES = {"MaskHead": "head", "TrainedInputs": "head", "PixelCalibration": "regions"}


def __getattr__(name: str) -> Any:
    """Import public names on first use."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
