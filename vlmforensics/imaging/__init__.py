"""The only door through which bytes become pixels, and pixels become bytes.

Reading goes in four steps: *sniff* (which format, by content) → *preflight* (headers and limits, from
bytes) → *decode* (Pillow, in a process of its own) → *canonical pixels* (``CaseImage``: the stored and the
upright frame). Around it: encoding, resizing, run-length masks and drawing. Everything is imported on first
use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmforensics.imaging.case import open_case as open_case
    from vlmforensics.imaging.codec import decode_trusted as decode_trusted
    from vlmforensics.imaging.codec import encode as encode
    from vlmforensics.imaging.codec import to_jpeg_preview as to_jpeg_preview
    from vlmforensics.imaging.codec import to_png as to_png
    from vlmforensics.imaging.render import colour_map as colour_map
    from vlmforensics.imaging.render import overlay as overlay
    from vlmforensics.imaging.render import overlay_layer as overlay_layer
    from vlmforensics.imaging.resample import resize as resize
    from vlmforensics.imaging.resample import resize_plane as resize_plane
    from vlmforensics.imaging.resample import thumbnail as thumbnail
    from vlmforensics.imaging.rle import rle_decode as rle_decode
    from vlmforensics.imaging.rle import rle_encode as rle_encode
    from vlmforensics.imaging.sandbox import warm_up as warm_up

_HOMES = {
    "open_case": "case",
    "encode": "codec",
    "decode_trusted": "codec",
    "to_png": "codec",
    "to_jpeg_preview": "codec",
    "resize": "resample",
    "resize_plane": "resample",
    "thumbnail": "resample",
    "rle_encode": "rle",
    "rle_decode": "rle",
    "overlay": "render",
    "overlay_layer": "render",
    "colour_map": "render",
    "warm_up": "sandbox",
}
__all__ = [
    "colour_map",
    "decode_trusted",
    "encode",
    "open_case",
    "overlay",
    "overlay_layer",
    "resize",
    "resize_plane",
    "rle_decode",
    "rle_encode",
    "thumbnail",
    "to_jpeg_preview",
    "to_png",
    "warm_up",
]


def __getattr__(name: str) -> Any:
    """Import public names on first use: the decoding process must start fast and carry little."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
