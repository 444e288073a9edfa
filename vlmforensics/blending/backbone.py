"""EfficientNet-Lite0 in plain torch, up to stride 16, with the parameter names of its published weights.

References:
    Tan & Le 2019, EfficientNet; the "lite" variant drops squeeze-and-excitation and uses ReLU6.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

BN_EPS = 1e-3
BN_MOMENTUM = 0.02
STRIDE = 16
"""Input sides must be multiples of this."""


@dataclass(frozen=True)
class _Stage:
    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
)
TAPS: tuple[int, ...] = (0, 2, 4, 10)
"""Blocks whose outputs are used: strides 2, 4, 8, 16."""
TAP_CHANNELS: tuple[int, ...] = (16, 24, 40, 112)
UNUSED_PREFIXES: tuple[str, ...] = ("_blocks.11.", "_blocks.12.", "_blocks.13.", "_blocks.14.", "_blocks.15.",
                                    "_conv_head.", "_bn1.", "_fc.")  # fmt: skip
"""Published weights beyond stride 16 (ImageNet semantics) that are left out on purpose."""


def _same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's "same" padding for sides that the stride divides: the odd pixel goes right and below."""
    total = kernel - stride
    return F.pad(x, (total // 2, total - total // 2, total // 2, total - total // 2))


class _Block(nn.Module):
    """Inverted residual: expand 1×1, depthwise k×k, project 1×1; names as in the published file."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.residual = stride == 1 and inputs == outputs
        width = inputs * expand
        if expand != 1:
            self._expand_conv = nn.Conv2d(inputs, width, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(width, eps=BN_EPS, momentum=BN_MOMENTUM)
        self._depthwise_conv = nn.Conv2d(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = nn.BatchNorm2d(width, eps=BN_EPS, momentum=BN_MOMENTUM)
        self._project_conv = nn.Conv2d(width, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=BN_EPS, momentum=BN_MOMENTUM)
        self.expands = expand != 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H/stride, W/stride)."""
        out = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        out = F.relu6(self._bn1(self._depthwise_conv(_same(out, self.kernel, self.stride))))
        out = self._bn2(self._project_conv(out))
        return out + x if self.residual else out


class LiteBackbone(nn.Module):
    """EfficientNet-Lite0's stem and first eleven blocks.

    ``forward`` takes float (B, 3, H, W), see ``normalise``, sides multiples of 16, and ``extra``, float
    (B, 32, H/2, W/2), added to the stem's response before normalisation: the door for further input streams.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=BN_EPS, momentum=BN_MOMENTUM)
        blocks: list[nn.Module] = []
        channels = 32
        for stage in _STAGES:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(_Block(channels, stage.channels, stage.kernel, stride, stage.expand))
                channels = stage.channels
        self._blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, extra: Tensor | None = None) -> list[Tensor]:
        """Return the outputs of the tapped blocks, finest first: strides 2, 4, 8, 16."""
        x = self._conv_stem(_same(x, 3, 2))
        x = F.relu6(self._bn0(x if extra is None else x + extra))
        taps: list[Tensor] = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in TAPS:
                taps.append(x)
        return taps


def published_subset(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep the part of the published state dict that ``LiteBackbone`` has; everything else must be known."""
    return {key: value for key, value in state.items() if not key.startswith(UNUSED_PREFIXES)}


def normalise(pixels: Tensor) -> Tensor:
    """Map sRGB 0..255 (any float dtype) to the range that the published weights expect, about -1..1."""
    return (pixels - 127.0) / 128.0


__all__ = ["STRIDE", "TAP_CHANNELS", "LiteBackbone", "normalise", "published_subset"]
