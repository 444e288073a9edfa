"""The compact model: a stock LLaVA (DINOv2 ViT-S/14, SmolLM2-135M-Instruct) with our adapter and heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from vlmforensics.compact.backbone import CompactBackbone
    from vlmforensics.settings import Settings


def load(settings: Settings | None = None, data: Path | None = None) -> CompactBackbone:
    """The compact backbone with its shipped weights, or those in ``data``; see ``compact.shipped.load``."""
    from vlmforensics.compact.shipped import load as load_shipped

    return load_shipped(settings, data)
