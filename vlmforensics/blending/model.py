"""The blending network: RGB and residual streams, EfficientNet-Lite0, light decoder, two maps, one score.

Maps are logits at stride 4: ``boundary`` (where two sources meet; Face X-ray's target) and ``region`` (which
pixels are foreign). The picture's score is a linear function of pooled features and of the highest shares of
both maps, all of them means over area, so that it means the same for a crop and for a picture made of tiles.

References:
    Li et al. 2020, Face X-ray for More General Face Forgery Detection.
    Fridrich & Kodovský 2012, Rich Models for Steganalysis (SRM residuals).
    Zhou et al. 2018, Learning Rich Features for Image Manipulation Detection (three SRM kernels as a stream).
    Lin et al. 2017, Feature Pyramid Networks for Object Detection.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmforensics.blending.backbone import TAP_CHANNELS, LiteBackbone, normalise

MAP_STRIDE = 4
WIDTH = 48
"""Channels of the decoder and length of the pooled feature."""
SHARES: tuple[float, ...] = (0.002, 0.01, 0.05, 0.25)
"""Shares of a map's area whose highest logits are averaged for the score."""
_LIMIT = 8.0
"""Residuals are clipped at this many grey levels, so that content edges do not drown noise."""


@dataclass
class Output:
    """What the network says of a batch.

    Attributes:
        boundary: logits, (B, H/4, W/4).
        region: logits, (B, H/4, W/4).
        pooled: mean decoder features, (B, WIDTH).
    """

    boundary: Tensor
    region: Tensor
    pooled: Tensor


def srm_kernels() -> Tensor:
    """The three SRM residual kernels (second order, KV 5×5, first order), float (3, 1, 5, 5)."""
    second = torch.tensor([[-1.0, 2, -1], [2, -4, 2], [-1, 2, -1]]) / 4
    kv = torch.tensor(
        [[-1.0, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]]
    )
    line = torch.zeros(5, 5)
    line[2, 1:4] = torch.tensor([1.0, -2.0, 1.0]) / 2
    return torch.stack([F.pad(second, (1, 1, 1, 1)), kv / 12, line])[:, None]


class ResidualStream(nn.Module):
    """SRM residuals of green and of both colour differences, and their local energy, to 32 channels.

    Noise has no structure that a strided convolution could keep, so its local energy is computed at full
    resolution (absolute clipped residual, averaged over 6×6 px) before anything is thrown away.
    """

    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernels", srm_kernels(), persistent=False)
        self.signed = nn.Conv2d(5, 32, 5, 2, padding=0, bias=False)
        self.energy = nn.Conv2d(5, 32, 1, bias=False)
        nn.init.normal_(self.signed.weight, std=0.02)
        nn.init.normal_(self.energy.weight, std=0.05)

    def forward(self, pixels: Tensor) -> Tensor:
        """Float (B, 3, H, W) in 0..255 → (B, 32, H/2, W/2)."""
        green = pixels[:, 1:2]
        chroma = pixels[:, 0::2] - green
        padded = F.pad(green, (2, 2, 2, 2), mode="replicate")
        residuals = F.conv2d(padded, self.kernels.to(pixels.dtype))
        side = F.pad(chroma, (1, 1, 1, 1), mode="replicate")
        second = self.kernels[0:1, :, 1:4, 1:4].to(pixels.dtype).expand(2, 1, 3, 3)
        residuals = torch.cat([residuals, F.conv2d(side, second, groups=2)], dim=1)
        residuals = residuals.clamp(-_LIMIT, _LIMIT) / 2
        energy = F.avg_pool2d(residuals.abs(), 2)
        energy = F.avg_pool2d(F.pad(energy, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        signed: Tensor = self.signed(F.pad(residuals, (1, 2, 1, 2)))
        return signed + self.energy(torch.log1p(4 * energy))


def _separable(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, eps=1e-3, momentum=0.02),
        nn.ReLU6(),
    )


class Decoder(nn.Module):
    """Top-down pyramid from stride 16 to 4; the stride-2 response joins as its 2×2 mean and deviation."""

    def __init__(self) -> None:
        super().__init__()
        fine, quarter, eighth, coarse = TAP_CHANNELS
        self.fine = nn.Conv2d(2 * fine, WIDTH, 1)
        self.quarter = nn.Conv2d(quarter, WIDTH, 1)
        self.eighth = nn.Conv2d(eighth, WIDTH, 1)
        self.coarse = nn.Conv2d(coarse, WIDTH, 1)
        self.mix_coarse = _separable(WIDTH)
        self.mix_eighth = _separable(WIDTH)
        self.mix_quarter = _separable(WIDTH)
        self.maps = nn.Conv2d(WIDTH, 2, 1)
        # A trace covers little: start near the prior instead of at one half.
        self.maps.bias = nn.Parameter(torch.full((2,), -3.0))

    def forward(self, taps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return map logits (B, 2, H/4, W/4) and pooled features (B, WIDTH)."""
        fine, quarter, eighth, coarse = taps
        mean = F.avg_pool2d(fine, 2)
        deviation = (F.avg_pool2d(fine * fine, 2) - mean * mean).clamp_min(1e-6).sqrt()
        top = self.mix_coarse(self.coarse(coarse))
        pooled = top.mean(dim=(2, 3))
        top = self.mix_eighth(self.eighth(eighth) + _double(top))
        top = self.quarter(quarter) + self.fine(torch.cat([mean, deviation], dim=1)) + _double(top)
        return self.maps(self.mix_quarter(top)), pooled


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class ScoreHead(nn.Module):
    """Linear on standardised [pooled features, top shares of both maps] → one logit."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        size = WIDTH + 2 * len(SHARES)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.linear = nn.Linear(size, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, WIDTH + 2·len(SHARES)) → (B,) logits."""
        out: Tensor = self.linear((features - self.mean) / self.scale)
        return out[:, 0]


def top_shares(logits: Tensor) -> Tensor:
    """Mean of the highest ``SHARES`` of a map's logits, at least one cell: (B, …) → (B, len(SHARES))."""
    flat = logits.flatten(1)
    most = max(1, round(max(SHARES) * flat.shape[1]))
    best = flat.topk(most, dim=1).values
    return torch.stack(
        [best[:, : max(1, round(share * flat.shape[1]))].mean(dim=1) for share in SHARES], dim=1
    )


def score_features(boundary: Tensor, region: Tensor, pooled: Tensor) -> Tensor:
    """Join what the score head reads: (B, h, w), (B, h, w), (B, WIDTH) → (B, WIDTH + 2·len(SHARES))."""
    return torch.cat([pooled, top_shares(boundary), top_shares(region)], dim=1)


class BlendingNet(nn.Module):
    """The whole network; input uint8-valued float (B, 3, H, W) in 0..255, sides multiples of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = LiteBackbone()
        self.residuals = ResidualStream()
        self.decoder = Decoder()
        self.head = ScoreHead()

    def forward(self, pixels: Tensor) -> Output:
        """Maps and pooled features of a batch of crops or tiles."""
        taps = self.backbone(normalise(pixels), self.residuals(pixels))
        maps, pooled = self.decoder(taps)
        return Output(maps[:, 0], maps[:, 1], pooled)

    def score(self, output: Output) -> Tensor:
        """Picture-level logits (B,) of whole crops."""
        logits: Tensor = self.head(score_features(output.boundary, output.region, output.pooled))
        return logits
