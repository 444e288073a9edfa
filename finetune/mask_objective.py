"""What the mask head is trained to do, per picture: BCE + Dice for the map, an outline, and presence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vlmforensics.masks.network import Prediction
from vlmforensics.types import BoolMask


@dataclass(frozen=True)
class LossWeights:
    """How much each part counts. ``coarse`` is deep supervision of the encoder's own 64 × 64 map."""

    bce: float = 1.0
    dice: float = 1.0
    edge: float = 0.3
    presence: float = 0.3
    coarse: float = 1.0


def target_map(mask: BoolMask, side: int) -> Tensor:
    """Share of each cell that is tampered: float32 (side, side) in [0, 1], the whole picture squashed."""
    plane = torch.from_numpy(mask.astype(np.float32))[None, None]
    height, width = mask.shape
    if height < side or width < side:
        plane = F.interpolate(
            plane, (max(height, side), max(width, side)), mode="bilinear", align_corners=False
        )
    return F.adaptive_avg_pool2d(plane, side)[0, 0]


def outline(target: Tensor, width: int = 5) -> Tensor:
    """1 where both tampered and untouched cells lie within ``width``: (side, side) → the same shape."""
    plane = target[None, None]
    grown = F.max_pool2d(plane, width, stride=1, padding=width // 2)
    shrunk = -F.max_pool2d(-plane, width, stride=1, padding=width // 2)
    return ((grown - shrunk)[0, 0] > 0.5).float()


def map_loss(logits: Tensor, target: Tensor, weights: LossWeights) -> Tensor:
    """BCE, and soft Dice (Milletari et al. 2016) for tampered pictures: an empty target has no overlap."""
    loss = weights.bce * F.binary_cross_entropy_with_logits(logits, target)
    if bool((target > 0).any()):
        probability = logits.sigmoid()
        overlap = 2 * (probability * target).sum() + 1
        loss = loss + weights.dice * (1 - overlap / (probability.sum() + target.sum() + 1))
    return loss


def coarse_loss(coarse: Tensor, mask: BoolMask, weights: LossWeights) -> Tensor:
    """Loss of the encoder's own map, logits (side, side)."""
    return weights.coarse * map_loss(coarse, target_map(mask, coarse.shape[-1]).to(coarse.device), weights)


def full_loss(prediction: Prediction, mask: BoolMask, weights: LossWeights) -> Tensor:
    """Loss of everything the network says about one picture."""
    target = target_map(mask, prediction.mask.shape[-1]).to(prediction.mask.device)
    loss = map_loss(prediction.mask, target, weights) + coarse_loss(prediction.coarse, mask, weights)
    loss = loss + weights.edge * F.binary_cross_entropy_with_logits(prediction.edge, outline(target))
    present = torch.full_like(prediction.presence, float(mask.any()))
    return loss + weights.presence * F.binary_cross_entropy_with_logits(prediction.presence, present)
