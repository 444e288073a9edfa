"""The mask network: compact encoder → ``[SEG]`` prompt → Segment Anything's decoder → map and presence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vlmforensics.masks.encoder import CompactEncoder, EncoderConfig
from vlmforensics.masks.locator import Locator, PatchReader
from vlmforensics.masks.sam import DecoderConfig, PromptedDecoder
from vlmforensics.types import Pixels, Traces


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the whole network.

    Attributes:
        seg: width of the backbone's hidden state at ``[SEG]``.
        locator: whether there is a map from CLIP's patch tokens to start with.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    seg: int = 576
    locator: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """The opposite of :meth:`to_json`.

        Raises:
            TypeError: unknown or missing keys.
            KeyError: a part is missing.
        """
        encoder = dict(values["encoder"])
        encoder["layers"] = tuple(encoder["layers"])
        located = bool(values.get("locator", False))
        return cls(EncoderConfig(**encoder), DecoderConfig(**values["decoder"]), values["seg"], located)


class SegPrompt(nn.Module):
    """The hidden state at ``[SEG]``, modulated by the label, as a sparse prompt.

    SIDA fuses the two by attention over a single key, whose weight is 1 whatever the query: the label cannot
    act. Here the label scales and shifts the projected state (FiLM, Perez et al. 2018) before a
    non-linearity, so the prompt depends on both, and on their combination.
    """

    def __init__(self, seg: int, channels: int) -> None:
        super().__init__()
        self.default = nn.Parameter(torch.randn(channels) * 0.02)
        self.norm = nn.LayerNorm(seg)
        self.project = nn.Linear(seg, channels)
        self.film = nn.Sequential(nn.Linear(3, 64), nn.GELU(), nn.Linear(64, 2 * channels))
        self.out = nn.Linear(channels, channels)

    def forward(self, seg: Tensor | None, label_log_probs: Tensor | None) -> Tensor:
        """(seg,) and (3,) natural-log probabilities → (channels,); without ``seg``, the learned default."""
        if seg is None:
            return self.default
        if label_log_probs is None:
            label_log_probs = seg.new_full((3,), 1 / 3).log()
        # Centre and bound: a confident head says -20, and that must not drown the hidden state.
        label = (label_log_probs - label_log_probs.mean()).clamp(-8, 8) / 4
        scale, shift = self.film(label).chunk(2)
        state = self.project(self.norm(seg)) * (1 + scale) + shift
        token: Tensor = self.default + self.out(F.gelu(state))
        return token


@dataclass(frozen=True, eq=False)
class Prediction:
    """Logits of one picture: ``mask`` and ``edge`` (SIDE, SIDE), ``presence`` scalar, ``coarse`` (64, 64)."""

    mask: Tensor
    edge: Tensor
    presence: Tensor
    coarse: Tensor


class MaskNetwork(nn.Module):
    """All trainable parts together.

    Attributes:
        reader: the frozen tower whose patch tokens the locator reads, set by whoever has it; without one the map starts
            from the encoder alone.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = CompactEncoder(config.encoder)
        self.seg = SegPrompt(config.seg, config.decoder.channels)
        self.decoder = PromptedDecoder(config.decoder)
        # The decoder corrects the encoder's map instead of drawing a new one; small at first, so that it starts there.
        self.refinement = nn.Parameter(torch.tensor(0.1))
        self.locator = Locator() if config.locator else None
        if config.locator:
            self.balance = nn.Parameter(torch.tensor(1.0))  # of the encoder's map beside the locator's
        self.reader: PatchReader | None = None

    def forward(
        self,
        pixels: Pixels,
        *,
        patches: Mapping[int, NDArray[np.float32]] | None = None,
        traces: Traces | None = None,
        seg: NDArray[np.float32] | None = None,
        label_log_probs: Sequence[float] | None = None,
        points: Sequence[tuple[float, float, bool]] = (),
        box: tuple[float, float, float, float] | None = None,
    ) -> Prediction:
        """Predict for one upright picture; prompts are in SAM's square frame (see ``sam.to_frame``)."""
        embedding, coarse = self.embed(pixels, patches, traces)
        return self.decode(embedding, coarse, seg, label_log_probs, points, box)

    def embed(
        self,
        pixels: Pixels,
        patches: Mapping[int, NDArray[np.float32]] | None,
        traces: Traces | None,
    ) -> tuple[Tensor, Tensor]:
        """The image embedding (1, channels, 64, 64) and the coarse logits (1, 1, 64, 64) that all starts from."""
        tensors = {layer: torch.from_numpy(np.asarray(p, np.float32)) for layer, p in (patches or {}).items()}
        embedding, coarse = self.encoder(pixels, tensors or None, traces)
        if self.locator is not None and self.reader is not None:
            coarse = self.placed(coarse, self.locator.read(self.reader, pixels))
        return embedding, coarse

    def placed(self, coarse: Tensor, seen: NDArray[np.float32]) -> Tensor:
        """The encoder's map (1, 1, 64, 64) and the locator's, float32 (rows, columns), as one."""
        place = torch.from_numpy(seen).to(coarse.device)[None, None]
        place = F.interpolate(place, coarse.shape[-2:], mode="bilinear", align_corners=False)
        return self.balance * coarse + place

    def decode(
        self,
        embedding: Tensor,
        coarse: Tensor,
        seg: NDArray[np.float32] | Tensor | None,
        label_log_probs: Sequence[float] | Tensor | None,
        points: Sequence[tuple[float, float, bool]],
        box: tuple[float, float, float, float] | None,
    ) -> Prediction:
        """The mask decoder on an embedding; the coarse map is its mask prompt, and what its map is added to.

        Gradients flow to ``seg`` and ``label_log_probs`` where they are tensors.
        """
        device = embedding.device
        state = None if seg is None else torch.as_tensor(seg, dtype=torch.float32, device=device)
        labels = None
        if label_log_probs is not None:
            labels = torch.as_tensor(label_log_probs, dtype=torch.float32, device=device)
        token = self.seg(state, labels)
        maps, scores = self.decoder(embedding, token, dense=coarse.detach(), points=points, box=box)
        start = F.interpolate(coarse, maps.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
        return Prediction(start + self.refinement * maps[0], maps[1], scores[0], coarse[0, 0])
