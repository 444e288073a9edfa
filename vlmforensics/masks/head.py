"""The mask head as the assistant uses it: load the shipped weights, locate, report evidence."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from vlmforensics.errors import Defect, ModelError, SettingsError, WeightsCorrupt, WeightsUnavailable
from vlmforensics.imaging import resize_plane
from vlmforensics.masks.locator import PatchReader
from vlmforensics.masks.network import MaskNetwork, NetworkConfig
from vlmforensics.masks.regions import PixelCalibration, to_mask
from vlmforensics.masks.sam import to_frame
from vlmforensics.settings import Settings
from vlmforensics.types import Box, Evidence, Mask, Pixels, Region, Traces

logger = logging.getLogger(__name__)

SOURCE = "mask"
SCHEMA = "vlmforensics.masks/2"
MANIFEST = "masks.json"
SHIPPED = Path(__file__).parent / "data"
"""The folder of the weights that ship with the package."""
HEATMAP_SIDE = 256


@dataclass(frozen=True)
class TrainedInputs:
    """Which optional inputs the weights were trained with; the others would be noise and are ignored.

    Attributes:
        tower: patch features of the vision tower.
        traces: the maps of the blending detector.
        seg: the hidden state at ``[SEG]`` with the label's log-probabilities.
    """

    tower: bool = True
    traces: bool = False
    seg: bool = False


class MaskHead:
    """Says where a picture was tampered with.

    Args:
        network: its weights.
        calibration: of pixels and of the picture.
        inputs: what it was trained with.
        weights_sha256: digest of the weights file.
        training: how the weights came about, as their manifest tells it.
    """

    def __init__(
        self,
        network: MaskNetwork,
        calibration: PixelCalibration,
        *,
        inputs: TrainedInputs | None = None,
        weights_sha256: str = "",
        training: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = network.eval()
        self.calibration = calibration
        self.inputs = inputs or TrainedInputs()
        self.weights_sha256 = weights_sha256
        self.training = dict(training or {})

    @classmethod
    def load(
        cls,
        settings: Settings | None = None,
        device: str = "cpu",
        *,
        folder: Path | None = None,
        reader: PatchReader | None = None,
    ) -> MaskHead:
        """Load the weights that ship with the package.

        Args:
            settings: not needed for shipped weights; accepted so that every room loads alike.
            device: torch device.
            folder: other weights with a manifest, as ``finetune.masks`` exports them.
            reader: the tower whose patch tokens the locator reads; without one the head locates without them.

        Raises:
            WeightsUnavailable: no manifest or no weights in the folder.
            WeightsCorrupt: digest, keys or shapes are not those of the manifest.
        """
        del settings
        folder = folder or SHIPPED
        manifest = _read_manifest(folder)
        network, digest = _read_network(folder, manifest)
        try:
            calibration = PixelCalibration.from_json(manifest["calibration"])
            inputs = TrainedInputs(**manifest["inputs"])
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsCorrupt(
                f"{folder / MANIFEST} is not a manifest of a mask head: {error!r}"
            ) from error
        network.reader = reader
        training = manifest.get("training")
        return cls(network.to(device), calibration, inputs=inputs, weights_sha256=digest, training=training)

    def locate(
        self,
        pixels: Pixels,
        *,
        patches: Mapping[int, NDArray[np.float32]] | None = None,
        traces: Traces | None = None,
        seg: NDArray[np.float32] | None = None,
        label_log_probs: Sequence[float] | None = None,
        points: Sequence[tuple[float, float] | tuple[float, float, bool]] = (),
        box: Box | None = None,
        constant_seg: bool = False,
    ) -> Mask:
        """Locate tampering in one picture.

        Args:
            pixels: uint8 (H, W, 3), upright, at its own resolution.
            patches: tower layer → float32 (rows, columns, channels) over the whole picture; None or empty
                where the backbone has none, and features of another tower (other channels) count as none.
            traces: the maps of the blending detector over the whole picture, or None.
            seg: float32 (d,), hidden state at ``[SEG]``, or None.
            label_log_probs: natural-log probabilities in the order of ``types.LABELS``, or None.
            points: clicks (x, y) or (x, y, inside) in upright pixels; without the flag, inside.
            box: a box to look at, upright pixels.
            constant_seg: replace the ``[SEG]`` prompt by its learned default (for ablations).

        Returns:
            The mask, without regions where nothing was found.

        Raises:
            SettingsError: a click or box outside the picture.
            ModelError: patches of the right tower lack a layer that the head needs.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise Defect("the mask head needs uint8 (H, W, 3) pixels")
        height, width = pixels.shape[:2]
        _check_prompts(points, box, height, width)
        clicks, corners = to_frame(points, box, height, width)
        uses_seg = self.inputs.seg and not constant_seg
        with torch.inference_mode():
            said = self.network(
                pixels,
                patches=self._usable(patches),
                traces=traces if self.inputs.traces else None,
                seg=seg if uses_seg else None,
                label_log_probs=label_log_probs if uses_seg else None,
                points=clicks,
                box=corners,
            )
            logits = said.mask.float().cpu().numpy()
            presence = float(said.presence)
        return to_mask(logits, presence, width, height, self.calibration)

    def evidence(self, mask: Mask | None, pixels_shape: tuple[int, ...]) -> list[Evidence]:
        """One evidence: what is marked, or that nothing is.

        Args:
            mask: from :meth:`locate`; None where a caller dropped an empty one.
            pixels_shape: of the upright picture, to check that they belong together.
        """
        if mask is None:
            return [Evidence(source=SOURCE, statement="The mask head marks no region.")]
        height, width = mask.soft.shape
        if (height, width) != tuple(pixels_shape[:2]):
            raise Defect(f"a mask of {width}×{height} px does not belong to a picture of {pixels_shape[:2]}")
        presence = mask.presence if mask.presence is not None else float(mask.soft.max())
        region = None
        if mask.boxes:
            largest, many = mask.boxes[0], len(mask.boxes)
            region = Region(largest, mask.binary)
            statement = (
                f"The mask head marks {100 * mask.area_fraction:.1f} % of the picture in {many} "
                f"region{'s' if many > 1 else ''}; largest box ({largest.x0}, {largest.y0})-"
                f"({largest.x1}, {largest.y1}), mean confidence {mask.confidences[0]:.2f}; "
                f"picture score {presence:.2f}."
            )
        else:
            statement = (
                f"The mask head marks no region (highest confidence {float(mask.soft.max()):.2f}; "
                f"picture score {presence:.2f})."
            )
        heatmap = resize_plane(mask.soft, min(width, HEATMAP_SIDE), min(height, HEATMAP_SIDE))
        recompute = {
            "weights_sha256": self.weights_sha256,
            "threshold": mask.threshold,
            "regions": len(mask.boxes),
            "area_fraction": round(mask.area_fraction, 6),
        }
        return [
            Evidence(
                source=SOURCE,
                statement=statement,
                score=presence,
                region=region,
                heatmap=np.clip(heatmap, 0, 1),
                recompute=recompute,
            )
        ]

    def _usable(
        self, patches: Mapping[int, NDArray[np.float32]] | None
    ) -> dict[int, NDArray[np.float32]] | None:
        """The layers that the network reads, or None where there are none or they come from another tower."""
        config = self.network.config.encoder
        if not patches or not self.inputs.tower:
            return None
        if any(values.ndim != 3 or values.shape[2] != config.tower_channels for values in patches.values()):
            logger.info("the backbone's tower is not the mask head's: located without tower features")
            return None
        missing = sorted(set(config.layers) - set(patches))
        if missing:
            raise ModelError(
                f"the mask head needs tower layers {missing}, which the backbone did not hand over"
            )
        return {layer: patches[layer] for layer in config.layers}


def _check_prompts(
    points: Sequence[tuple[float, float] | tuple[float, float, bool]],
    box: Box | None,
    height: int,
    width: int,
) -> None:
    for point in points:
        if not (0 <= point[0] < width and 0 <= point[1] < height):
            raise SettingsError(
                f"the click ({point[0]}, {point[1]}) is outside the picture of {width}×{height} px"
            )
    if box is not None and (box.x1 > width or box.y1 > height):
        raise SettingsError(f"the box {box.as_list()} is outside the picture of {width}×{height} px")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsUnavailable(f"no mask head: {path} can't be read; reinstall vlmforensics") from error
    except ValueError as error:
        raise WeightsCorrupt(f"{path} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise WeightsCorrupt(f"{path} is not a {SCHEMA} manifest")
    return manifest


def _read_network(folder: Path, manifest: Mapping[str, Any]) -> tuple[MaskNetwork, str]:
    """Build the network of the manifest and fill it strictly: digest, then keys, then shapes."""
    try:
        name, expected = str(manifest["weights"]["file"]), str(manifest["weights"]["sha256"])
        network = MaskNetwork(NetworkConfig.from_json(manifest["network"]))
    except (KeyError, TypeError) as error:
        raise WeightsCorrupt(f"{folder / MANIFEST} is not a manifest of a mask head: {error!r}") from error
    path = folder / Path(name).name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsUnavailable(f"no mask head: {path} can't be read; reinstall vlmforensics") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected:
        raise WeightsCorrupt(
            f"{path} has digest {digest[:12]}…, not {expected[:12]}…; reinstall vlmforensics"
        )
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise WeightsCorrupt(f"{path} is not a safetensors file: {error}") from error
    wanted = network.state_dict()
    missing, unexpected = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or unexpected:
        raise WeightsCorrupt(f"{path}: missing {missing[:3]}, unexpected {unexpected[:3]}")
    wrong = [key for key, value in tensors.items() if value.shape != wanted[key].shape]
    if wrong:
        raise WeightsCorrupt(f"{path}: other shapes than the manifest's network: {wrong[:3]}")
    network.load_state_dict({key: value.to(wanted[key].dtype) for key, value in tensors.items()}, strict=True)
    return network, digest
