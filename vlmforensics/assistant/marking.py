"""The mask as it is shown: what the mask head marks, with the places that exact signals name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vlmforensics.assistant.parts import MaskWitness
from vlmforensics.fusion import MASK_NOTICEABLE
from vlmforensics.types import BoolMask, Evidence, Mask

PLACES = ("copy_move", "jpeg_double")
"""Signals whose regions join the mask: seldom drawn on untouched pictures, near the forgery elsewhere (decision 14)."""


def named_places(evidence: Sequence[Evidence]) -> list[BoolMask]:
    """Regions that the signals of ``PLACES`` name: bool (H, W) each, upright frame."""
    regions = [item.region for item in evidence if item.source in PLACES]
    return [region.mask for region in regions if region is not None and region.mask is not None]


def marked(
    head: MaskWitness, mask: Mask | None, evidence: Sequence[Evidence], shape: tuple[int, ...]
) -> tuple[Mask | None, list[Evidence]]:
    """The mask as it is shown, or None where nothing is marked, and what is told of it.

    Args:
        head: whose mask it is.
        mask: as it located it, or None.
        evidence: of the signals.
        shape: of the upright picture's pixels.
    """
    own, places = mask, named_places(evidence)
    if mask is not None and places:
        from vlmforensics.masks.regions import with_places

        mask = with_places(mask, places)
    own, mask = _noticeable(own), _noticeable(mask)
    told = head.evidence(own, shape)
    if mask is None or not mask.binary.any():
        return None, told  # told as evidence, but there is nothing to draw
    if mask.joined:
        told = [_with_joined(item, mask) for item in told]
    return mask, told


def _noticeable(mask: Mask | None) -> Mask | None:
    """What the verdict does not call a region is none to the reader either."""
    return mask.unmarked() if mask is not None and mask.area_fraction < MASK_NOTICEABLE else mask


def _with_joined(item: Evidence, mask: Mask) -> Evidence:
    """What the head marks is told as its own; the rest as what signals name."""
    both = f"With places that signals name, {100 * mask.area_fraction:.1f} % of the picture is marked."
    return replace(item, statement=f"{item.statement} {both}")
