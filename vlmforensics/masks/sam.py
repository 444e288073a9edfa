"""Segment Anything's prompt encoder and mask decoder, used as published; every call into the package is here.

The decoder works on one picture at a time (its batch axis counts prompts, not pictures). Its two mask tokens
are the tampering mask (token 0, SAM's single-mask output) and the mask's outline (token 1, a training aid);
the quality head's first number is trained as the presence of tampering, for there is no mask quality to rank.

References:
    Kirillov et al. 2023, "Segment Anything", appendix A.
    Lai et al. 2024, "LISA: Reasoning Segmentation via Large Language Model" (a language token as the sparse
    prompt).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlmforensics.errors import MissingExtra
from vlmforensics.types import Box

FRAME = 1024
"""Side of the square frame of prompt coordinates, as in SAM."""
SIDE = 256
"""Side of the decoder's low-resolution map: four times the embedding's."""


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder; those of SAM except ``mlp``, which is smaller to keep the weights small."""

    channels: int = 256
    grid: int = 64
    depth: int = 2
    heads: int = 8
    mlp: int = 1024
    prompt_channels: int = 16


class PromptedDecoder(nn.Module):
    """``PromptEncoder`` + ``TwoWayTransformer`` + ``MaskDecoder`` of ``segment_anything``."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        room = modeling()
        self.prompts = room.PromptEncoder(
            embed_dim=config.channels,
            image_embedding_size=(config.grid, config.grid),
            input_image_size=(FRAME, FRAME),
            mask_in_chans=config.prompt_channels,
        )
        self.decoder = room.MaskDecoder(
            transformer_dim=config.channels,
            transformer=room.TwoWayTransformer(
                depth=config.depth,
                embedding_dim=config.channels,
                num_heads=config.heads,
                mlp_dim=config.mlp,
            ),
            num_multimask_outputs=1,
        )

    def forward(
        self,
        embedding: Tensor,
        token: Tensor,
        *,
        dense: Tensor | None = None,
        points: Sequence[tuple[float, float, bool]] = (),
        box: tuple[float, float, float, float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode one picture.

        Args:
            embedding: (1, channels, grid, grid) of the whole picture.
            token: (channels,), the ``[SEG]`` prompt, appended to the sparse prompts.
            dense: logits (1, 1, h, w) of a first guess, given as SAM's mask prompt, or None.
            points: (x, y, is inside) in the frame of :data:`FRAME`.
            box: x0, y0, x1, y1 in the same frame, or None.

        Returns:
            ``(maps, scores)``: logits (2, SIDE, SIDE) of mask and outline, and (2,) of the quality head.
        """
        device = embedding.device
        clicks = None
        if points:
            place = torch.tensor([[[x, y] for x, y, _ in points]], device=device)
            clicks = (place, torch.tensor([[int(inside) for _, _, inside in points]], device=device))
        boxes = None if box is None else torch.tensor([box], device=device)
        guess = None
        if dense is not None:
            guess = F.interpolate(dense, self.prompts.mask_input_size, mode="bilinear", align_corners=False)
        sparse, dense_embedding = self.prompts(points=clicks, boxes=boxes, masks=guess)
        sparse = torch.cat([sparse, token[None, None]], dim=1)
        maps, scores = self.decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=self.prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense_embedding,
        )
        return maps[0], scores[0]


def modeling() -> Any:
    """The package's model parts.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        from segment_anything import modeling as room
    except ImportError as error:
        raise MissingExtra(
            'the mask head needs segment-anything: pip install "vlmforensics[model]"'
        ) from error
    return room


def to_frame(
    points: Sequence[tuple[float, float] | tuple[float, float, bool]],
    box: Box | None,
    height: int,
    width: int,
) -> tuple[list[tuple[float, float, bool]], tuple[float, float, float, float] | None]:
    """Move user prompts from upright pixels to the square frame.

    Args:
        points: (x, y) or (x, y, is inside); a point without the flag is inside. Pixel (0, 0) has its centre
            at (0.5, 0.5) of the continuous picture, as in SAM.
        box: half-open, upright pixels, or None.
        height: of the upright picture.
        width: of the upright picture.
    """
    scale_x, scale_y = FRAME / width, FRAME / height
    moved = []
    for point in points:
        inside = bool(point[2]) if len(point) == 3 else True
        # The prompt encoder adds half a (frame) pixel; give it what is left of the picture's own half pixel.
        moved.append(((point[0] + 0.5) * scale_x - 0.5, (point[1] + 0.5) * scale_y - 0.5, inside))
    corners = None
    if box is not None:
        corners = (
            box.x0 * scale_x - 0.5,
            box.y0 * scale_y - 0.5,
            box.x1 * scale_x - 0.5,
            box.y1 * scale_y - 0.5,
        )
    return moved, corners
