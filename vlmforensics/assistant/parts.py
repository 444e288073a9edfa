"""The parts that an assistant is made of, and how the real ones are loaded."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from vlmforensics.errors import MissingExtra
from vlmforensics.fusion import Calibration
from vlmforensics.settings import Settings
from vlmforensics.types import Box, CaseImage, Evidence, EvidenceSource, Mask, ModelInfo, Pixels, Traces
from vlmforensics.vlm.base import Backbone

if TYPE_CHECKING:
    from vlmforensics.compact.tower import Tower
    from vlmforensics.compact.whole import Reader

COMPACT = "compact"
VLM = "vlm"
MASK = "mask"
TowerPatches = Callable[[Pixels], Mapping[int, NDArray[np.float32]]]


class BlendingWitness(Protocol):
    """The external blending detector (X²-DFD's weak-feature supplement)."""

    weights_sha256: str

    def examine_map(self, case: CaseImage) -> tuple[list[Evidence], Traces | None]:
        """One evidence, source ``blending``, and what was drawn over the upright picture, if anything."""
        ...

    def sentence(self, evidence: Evidence) -> str:
        """The finding as one sentence for the backbone's prompt."""
        ...


class MaskWitness(Protocol):
    """The mask head."""

    weights_sha256: str

    def locate(
        self,
        pixels: Pixels,
        *,
        patches: Mapping[int, NDArray[np.float32]],
        traces: Traces | None,
        seg: NDArray[np.float32] | None,
        label_log_probs: tuple[float, float, float] | None,
        points: Sequence[Any] = (),
        box: Box | None = None,
    ) -> Mask | None:
        """The suspected region, or None."""
        ...

    def evidence(self, mask: Mask | None, pixels_shape: tuple[int, ...]) -> list[Evidence]:
        """One evidence, source ``mask``, also where no region was found."""
        ...


@dataclass(frozen=True, eq=False)
class Parts:
    """Everything that :class:`vlmforensics.assistant.Assistant` wires together.

    Attributes:
        backbone: one witness, and the narrator.
        sources: local witnesses, in the order of the report.
        blending: the blending detector, or None where it is not installed.
        masks: the mask head, or None.
        calibration: what fusion reads (``vlmforensics.fusion.Calibration``).
        tower: upright pixels → tower layer → patch features, for the mask head where the backbone is another
            model than the one the mask head was trained beside; None where the backbone's own features fit.
        calibrated_as: entry of the calibration that reads the backbone's opinion.
    """

    backbone: Backbone
    sources: Sequence[EvidenceSource]
    blending: BlendingWitness | None
    masks: MaskWitness | None
    calibration: Calibration
    tower: TowerPatches | None = None
    calibrated_as: str = VLM


def calibration_for(calibrated_as: str, calibration: Calibration) -> Calibration:
    """The calibration as it holds beside a backbone.

    The source ``vlm`` was calibrated on the compact model. Another model's opinion means something else, so it
    is read by the entry ``vlm@NAME`` where the calibration file has one, and else counts zero and is shown as
    not calibrated.

    Args:
        calibrated_as: ``vlm`` for the compact model, else the entry to read in its place.
        calibration: as loaded.
    """
    if calibrated_as == VLM:
        return calibration
    sources = {name: entry for name, entry in calibration.sources.items() if name != VLM}
    if calibrated_as in sources:
        sources[VLM] = sources[calibrated_as]
    return replace(calibration, sources=sources)


def gate_features(patches: Mapping[int, NDArray[np.float32]]) -> NDArray[np.float64]:
    """What the distance gate compares: mean patch feature of the deepest tower layer, float64 (channels,)."""
    deepest = patches[max(patches)]
    return np.asarray(deepest.reshape(-1, deepest.shape[-1]).mean(axis=0), dtype=np.float64)


def describe(parts: Parts, settings: Settings) -> ModelInfo:
    """Name every set of weights that can move the verdict, and one digest over them all."""
    digests = {"backbone": parts.backbone.weights_sha256}
    for name, part in (("blending", parts.blending), ("masks", parts.masks)):
        if part is not None:
            digests[name] = part.weights_sha256
    for source in parts.sources:
        weights = getattr(source, "weights_sha256", "")
        if weights:
            digests[source.name] = weights
    whole = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
    return ModelInfo(
        name=parts.backbone.name,
        version=parts.backbone.version,
        weights_sha256=whole,
        calibration_sha256=parts.calibration.sha256,
        settings_sha256=settings.sha256,
        parts=tuple(digests.items()),
    )


def let_threads_sleep() -> None:
    """Make OpenMP's threads sleep while they wait for one another, where torch is not loaded yet.

    By default they spin. Our signals compute beside the networks, so on a small or busy machine the spinning
    threads keep the very thread from running that they wait for: on two cores with other work, examining one
    picture was 20 times as slow. A policy that the user chose is left alone.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # OpenBLAS's threads, which serve numpy alone, know no such policy: on a busy machine its small products took a
    # hundred times as long as on one thread. The signals run beside one another anyway.
    threadpool_limits(1, user_api="blas")


def load_parts(model: str, settings: Settings) -> Parts:
    """Load the real parts: the backbone by name; the local witnesses are the same beside every backbone.

    Args:
        model: ``compact``, ``llava-1.5-7b``, ``fakevlm``, a checkpoint folder or ``http(s)://…/v1``.
        settings: device, cache and calibration file.

    Raises:
        ModelError: weights that are missing, corrupt or of another shape.
        MissingExtra: a package that the model needs is not installed.
    """
    from vlmforensics.signals import load_sources

    calibration = Calibration.load(settings.calibration)
    let_threads_sleep()
    try:
        from vlmforensics.blending import BlendingDetector
        from vlmforensics.compact.assembly import build_base
        from vlmforensics.compact.shipped import whole_expert
        from vlmforensics.vlm import load_backbone

        backbone = load_backbone(model, settings)
        embedded = model == COMPACT
        # beside another backbone the tower alone is kept; the rest of the compact base goes out of memory here
        tower = backbone.tower if embedded else build_base(settings).tower  # type: ignore[attr-defined]
        device = str(tower.device)
        experts = backbone.parts.experts if embedded else whole_expert(settings, device)  # type: ignore[attr-defined]
        own_masks = getattr(backbone, "mask_heads", None)  # a model that brings its own mask decoder
        if own_masks is not None:
            # its numbers mean something else than those that ``mask`` was calibrated on
            others = {name: entry for name, entry in calibration.sources.items() if name != MASK}
            calibration = replace(calibration, sources=others)
        return Parts(
            backbone=backbone,
            sources=[*load_sources(settings), experts],
            blending=BlendingDetector.load(settings, device=device),
            masks=_masks(own_masks, settings, device, experts.tower),
            calibration=calibration,
            tower=None if embedded or own_masks is not None else patches_of(tower),
            calibrated_as=VLM if embedded and settings.adapter is None else f"{VLM}@{backbone.name}",
        )
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] == "vlmforensics":
            raise
        raise MissingExtra(
            f'the model needs {error.name}, which is not installed: pip install "vlmforensics[model]"'
        ) from error


def _masks(own: Path | None, settings: Settings, device: str, reader: Reader) -> MaskWitness:
    """The shipped mask head, or the one that a backbone or its adapter brings: of our layout, or SIDA's."""
    from vlmforensics.masks import MaskHead
    from vlmforensics.masks.head import MANIFEST
    from vlmforensics.masks.sida import SidaMaskHead

    if own is None or (own / MANIFEST).is_file():
        return MaskHead.load(settings, device=device, folder=own, reader=reader)
    return SidaMaskHead.load(own, device)


def patches_of(tower: Tower) -> TowerPatches:
    """The tower as the mask head wants it: what a look of the compact model carries along."""
    from vlmforensics.compact.tower import squash

    def patches(pixels: Pixels) -> Mapping[int, NDArray[np.float32]]:
        seen = tower.features([squash(pixels)])
        return {layer: features[0] for layer, features in seen.patches.items()}

    return patches
