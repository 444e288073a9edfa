"""SIDA's mask decoder: Segment Anything, prompted by the language model's state at ``[SEG]``.

Huang et al. 2025, SIDA, §4: the state is projected to 256 numbers, an attention layer whose query is the label adds
to it, and the sum is the only prompt. With a single ``[SEG]`` the attention has one key, so the label has no effect
in it; it is kept as published. A mask is made only where the label is ``tampered``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vlmforensics.errors import WeightsCorrupt, WeightsUnavailable
from vlmforensics.imaging import resize, resize_plane
from vlmforensics.masks.regions import find_regions
from vlmforensics.masks.sam import modeling
from vlmforensics.types import LABELS, Box, Evidence, Mask, Pixels, Region, Traces

SOURCE = "mask"
PROMPT_FILE, SAM_FILE = "prompt.safetensors", "sam.safetensors"
THRESHOLD = 0.5
"""Logit 0, as published."""
SMALLEST_SHARE = 0.0005
HEATMAP_SIDE = 256
HEADS = 8


class SegPrompt(nn.Module):
    """From the state at ``[SEG]`` (d,) and label logits (3,) to Segment Anything's prompt (1, 1, 256)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))
        self.query = nn.Linear(len(LABELS), out)
        self.attention = nn.MultiheadAttention(out, HEADS, batch_first=True)

    def forward(self, state: Tensor, logits: Tensor) -> Tensor:
        """The prompt token."""
        seen = self.project(state)[None]
        added, _ = self.attention(self.query(logits)[None], seen, seen)
        return (seen + added)[None]


class SidaMaskHead:
    """Says where a picture was tampered with, in SIDA's opinion. See ``assistant.parts.MaskWitness``.

    Args:
        sam: ``segment_anything``'s model.
        prompt: makes its prompt.
        weights_sha256: digest of the files.
        device: torch device.
    """

    def __init__(self, sam: Any, prompt: SegPrompt, weights_sha256: str, device: str = "cpu") -> None:
        self.sam = sam.to(device).float().eval().requires_grad_(False)
        self.prompt = prompt.to(device).float().eval().requires_grad_(False)
        self.weights_sha256, self.device = weights_sha256, torch.device(device)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> SidaMaskHead:
        """Read strictly from the ``heads`` folder that ``vlm.sida_convert`` writes.

        Raises:
            WeightsUnavailable: a file is missing.
            WeightsCorrupt: keys or shapes don't fit.
        """
        from vlmforensics import weights

        prompts, tensors = _read(folder / PROMPT_FILE), _read(folder / SAM_FILE)
        try:
            out, width = prompts["project.2.weight"].shape
            prompt = SegPrompt(int(width), int(out))
            prompt.load_state_dict(prompts)
            sam = build_sam(tensors)
            sam.load_state_dict(tensors)
        except (KeyError, RuntimeError, ValueError, IndexError) as error:
            raise WeightsCorrupt(f"{folder} holds no mask decoder of SIDA: {error}") from error
        return cls(sam, prompt, weights.folder_digest(folder), device)

    def locate(
        self,
        pixels: Pixels,
        *,
        patches: Mapping[int, NDArray[np.float32]] | None = None,
        traces: Traces | None = None,
        seg: NDArray[np.float32] | None = None,
        label_log_probs: Sequence[float] | None = None,
        points: Sequence[Any] = (),
        box: Box | None = None,
    ) -> Mask | None:
        """The suspected region, or None where the label is not ``tampered`` and nobody points anywhere.

        Args:
            pixels: uint8 (H, W, 3), upright, at its own resolution.
            patches: not used by SIDA.
            traces: not used by SIDA.
            seg: float32 (d,), hidden state that predicts ``[SEG]``.
            label_log_probs: of SIDA's label head, in the order of ``types.LABELS``.
            points: clicks (x, y) or (x, y, inside) in upright pixels; without the flag, inside.
            box: a box to look at, upright pixels.
        """
        del patches, traces
        told = seg is not None and label_log_probs is not None
        tampered = label_log_probs is not None and int(np.argmax(label_log_probs)) == LABELS.index("tampered")
        if not points and box is None and not (told and tampered):
            return None
        height, width = pixels.shape[:2]
        with torch.inference_mode():
            embedding, frame = self._embed(pixels)
            scale = frame[0] / height
            sparse, dense = self.sam.prompt_encoder(
                points=self._points(points, scale), boxes=self._box(box, scale), masks=None
            )
            if told:
                state = torch.as_tensor(seg, device=self.device).float()
                logits = torch.as_tensor(label_log_probs, device=self.device).float()
                sparse = torch.cat([sparse, self.prompt(state, logits)], dim=1)
            low, _ = self.sam.mask_decoder(
                image_embeddings=embedding,
                image_pe=self.sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            logits_map = self.sam.postprocess_masks(low, frame, (height, width))[0, 0]
            soft = torch.sigmoid(logits_map).cpu().numpy().astype(np.float32)
        binary, boxes, confidences = find_regions(soft, THRESHOLD, SMALLEST_SHARE)
        return Mask(soft, binary, boxes, confidences, THRESHOLD)

    def evidence(self, mask: Mask | None, pixels_shape: tuple[int, ...]) -> list[Evidence]:
        """One evidence: what is marked, or that nothing is."""
        recompute = {"weights_sha256": self.weights_sha256, "threshold": THRESHOLD}
        if mask is None or not mask.boxes:
            return [
                Evidence(
                    SOURCE,
                    "The mask decoder of SIDA marks no region.",
                    status="observed",
                    recompute=recompute,
                )
            ]
        height, width = pixels_shape[:2]
        largest, many = mask.boxes[0], len(mask.boxes)
        statement = (
            f"The mask decoder of SIDA marks {100 * mask.area_fraction:.1f} % of the picture in {many} "
            f"region{'s' if many > 1 else ''}; largest box ({largest.x0}, {largest.y0})-"
            f"({largest.x1}, {largest.y1}), mean confidence {mask.confidences[0]:.2f}."
        )
        heatmap = resize_plane(mask.soft, min(width, HEATMAP_SIDE), min(height, HEATMAP_SIDE))
        return [
            Evidence(
                SOURCE,
                statement,
                score=float(mask.confidences[0]),
                status="observed",
                region=Region(largest, mask.binary),
                heatmap=np.clip(heatmap, 0, 1),
                recompute=recompute,
            )
        ]

    def _embed(self, pixels: Pixels) -> tuple[Tensor, tuple[int, int]]:
        """Embedding of the picture with its longest side at the encoder's size, and its size there (H, W)."""
        side = self.sam.image_encoder.img_size
        scale = side / max(pixels.shape[:2])
        height, width = (int(length * scale + 0.5) for length in pixels.shape[:2])
        small = resize(pixels, max(1, width), max(1, height), resample="bilinear")
        planes = torch.as_tensor(small.copy(), device=self.device).permute(2, 0, 1).float()
        return self.sam.image_encoder(self.sam.preprocess(planes)[None]), (height, width)

    def _points(self, points: Sequence[Any], scale: float) -> tuple[Tensor, Tensor] | None:
        if not points:
            return None
        places = torch.tensor([[[x * scale, y * scale] for x, y, *_ in points]], device=self.device)
        inside = torch.tensor(
            [[int(point[2]) if len(point) > 2 else 1 for point in points]], device=self.device
        )
        return places.float(), inside

    def _box(self, box: Box | None, scale: float) -> Tensor | None:
        if box is None:
            return None
        return torch.tensor([[box.x0, box.y0, box.x1, box.y1]], device=self.device).float() * scale


def build_sam(tensors: Mapping[str, Tensor]) -> Any:
    """Segment Anything without weights, of the sizes that the tensors have (ViT-B, -L, -H, or a tiny one).

    Raises:
        KeyError, IndexError, ValueError: tensors that are not Segment Anything's.
    """
    room = modeling()
    _, grid, _, width = tensors["image_encoder.pos_embed"].shape
    patch = tensors["image_encoder.patch_embed.proj.weight"].shape[-1]
    spans = {
        int(found[1]): tuple(value.shape)
        for name, value in tensors.items()
        if (found := re.fullmatch(r"image_encoder\.blocks\.(\d+)\.attn\.rel_pos_h", name))
    }
    everywhere = [block for block, shape in spans.items() if shape[0] == 2 * grid - 1]
    windows = {(shape[0] + 1) // 2 for block, shape in spans.items() if block not in everywhere}
    out = tensors["image_encoder.neck.0.weight"].shape[0]
    encoder = room.ImageEncoderViT(
        depth=len(spans),
        embed_dim=width,
        img_size=grid * patch,
        mlp_ratio=tensors["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=width // spans[0][1],
        patch_size=patch,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=everywhere,
        window_size=min(windows, default=14),
        out_chans=out,
    )
    prompts = room.PromptEncoder(
        embed_dim=out,
        image_embedding_size=(grid, grid),
        input_image_size=(grid * patch, grid * patch),
        mask_in_chans=tensors["prompt_encoder.mask_downscaling.3.weight"].shape[0],
    )
    decoder = room.MaskDecoder(
        num_multimask_outputs=tensors["mask_decoder.mask_tokens.weight"].shape[0] - 1,
        transformer=room.TwoWayTransformer(
            depth=2,
            embedding_dim=out,
            mlp_dim=tensors["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
            num_heads=HEADS,
        ),
        transformer_dim=out,
        iou_head_depth=3,
        iou_head_hidden_dim=tensors["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
    )
    return room.Sam(encoder, prompts, decoder)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise WeightsUnavailable(f"{path} is missing: convert the checkpoint again")
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsCorrupt(f"{path} can't be read: {error}") from error
    return {name: value.float() for name, value in found.items() if not name.startswith("pixel_")}
