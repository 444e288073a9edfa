"""The blending detector as a witness: shipped weights in, one evidence and a boundary map out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from vlmforensics.blending import finding
from vlmforensics.blending.model import BlendingNet
from vlmforensics.blending.tiles import BATCH, MAX_TILES, OVERLAP, TILE, Analysis, analyse
from vlmforensics.errors import AdapterMismatch, WeightsCorrupt, WeightsUnavailable
from vlmforensics.settings import Settings
from vlmforensics.types import CaseImage, Evidence, Grey, Pixels, Traces

FORMAT = "vlmforensics.blending/1"
MIN_SIDE = 64
"""Pictures with a shorter side, in px, are not examined: they hold too little context to compare."""
WEIGHTS, MANIFEST = "blending.safetensors", "blending.json"


@dataclass(frozen=True)
class Thresholds:
    """Operating points, chosen on validation data.

    Attributes:
        score: at most 5 % of real photographs of held-out sources score higher.
        map: cells of the boundary map above it count as a trace.
    """

    score: float
    map: float


def load_net(data: bytes, name: str) -> BlendingNet:
    """Build the network from a safetensors file's bytes; half precision on disk becomes single in memory.

    Raises:
        WeightsCorrupt: not a safetensors file.
        AdapterMismatch: another network's names or shapes.
    """
    try:
        state = {key: value.float() for key, value in load(data).items()}
    except SafetensorError as error:
        raise WeightsCorrupt(f"{name} is not a safetensors file: {error}") from error
    net = BlendingNet()
    own = net.state_dict()
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    shapes = {key: value.shape for key, value in own.items() if key not in counters}
    given = {key: value.shape for key, value in state.items()}
    if shapes != given:
        wrong = sorted(key for key in {*shapes, *given} if shapes.get(key) != given.get(key))
        raise AdapterMismatch(
            f"{name} does not fit the blending network: {len(wrong)} tensors, e.g. {wrong[:3]}"
        )
    net.load_state_dict({**state, **counters}, strict=True)
    return net.eval()


def _drawn(found: Analysis) -> Traces:
    return Traces(finding.sigmoid(found.boundary), finding.sigmoid(found.region))


class BlendingDetector:
    """Finds the trace of two sources blended into one picture, at native resolution.

    Attributes:
        name: of the witness in evidence.
        weights_sha256: digest of the weights file.
        thresholds: operating points from the manifest.
        manifest: how the weights were made and what they measured.
    """

    name = finding.SOURCE
    version = "1"
    cost = "cpu-seconds"

    def __init__(
        self,
        net: BlendingNet,
        *,
        weights_sha256: str,
        thresholds: Thresholds,
        manifest: dict[str, Any] | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        max_tiles: int = MAX_TILES,
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        self._net = net.to(device=self.device, dtype=dtype, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.weights_sha256, self.thresholds = weights_sha256, thresholds
        self.manifest = manifest or {}
        self.max_tiles = max_tiles

    @classmethod
    def load(
        cls,
        settings: Settings | None = None,
        device: str | torch.device = "cpu",
        *,
        folder: Path | None = None,
        dtype: torch.dtype = torch.float32,
        max_tiles: int = MAX_TILES,
    ) -> BlendingDetector:
        """Load the shipped weights, or those that training left in ``folder``.

        Args:
            settings: not read at present; part of every witness's signature.
            device: a torch device.
            folder: holds ``blending.safetensors`` and ``blending.json``; None = the shipped ones.
            dtype: of the computation; float32 unless a GPU is at hand.
            max_tiles: bound on the work per picture, see ``tiles.MAX_TILES``.

        Raises:
            WeightsUnavailable: no such files.
            WeightsCorrupt: the weights are not those of the manifest.
            AdapterMismatch: the weights belong to another network.
        """
        place = folder if folder is not None else files("vlmforensics.blending") / "data"
        try:
            manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
            data = (place / WEIGHTS).read_bytes()
        except OSError as error:
            raise WeightsUnavailable(f"no blending detector in {place}: {error}") from error
        except json.JSONDecodeError as error:
            raise WeightsCorrupt(f"{place / MANIFEST} is not JSON: {error}") from error
        digest = hashlib.sha256(data).hexdigest()
        if manifest.get("format") != FORMAT or manifest.get("sha256") != digest:
            raise WeightsCorrupt(f"{place / WEIGHTS} is not the file that {MANIFEST} describes")
        return cls(
            load_net(data, WEIGHTS),
            weights_sha256=digest,
            thresholds=Thresholds(**manifest["thresholds"]),
            manifest=manifest,
            device=device,
            dtype=dtype,
            max_tiles=max_tiles,
        )

    def analyse(self, pixels: Pixels) -> Analysis:
        """Raw measurements of one picture (logits), each side at least 16 px."""
        return analyse(self._net, pixels, device=self.device, dtype=self.dtype, max_tiles=self.max_tiles)

    def map(self, pixels: Pixels) -> Grey:
        """Boundary probability per cell of 4×4 px.

        Args:
            pixels: uint8 (H, W, 3), upright.

        Returns:
            float32 (H // 4, W // 4) in [0, 1]; zeros where the picture is too small or a tile was left out.
        """
        traces = self.traces(pixels)
        return finding.blank(*pixels.shape[:2]) if traces is None else traces.boundary

    def examine(self, case: CaseImage) -> list[Evidence]:
        """One evidence, or an empty list where the picture is too small."""
        return self.examine_map(case)[0]

    def traces(self, pixels: Pixels) -> Traces | None:
        """Both maps of a picture, see ``examine_map``; None where it is too small."""
        if min(pixels.shape[:2]) < MIN_SIDE:
            return None
        return _drawn(self.analyse(pixels))

    def examine_map(self, case: CaseImage) -> tuple[list[Evidence], Traces | None]:
        """The evidence and both maps, from one pass.

        Returns:
            The list (see ``examine``), and maps (H // 4, W // 4) over the upright frame; None where it is too small.
        """
        if min(case.width, case.height) < MIN_SIDE:
            return [], None
        found = self.analyse(case.upright)
        traces = _drawn(found)
        made = finding.evidence(
            score=float(finding.sigmoid(np.array(found.logit))),
            boundary=traces.boundary,
            size=(case.width, case.height),
            threshold=self.thresholds.map,
            covered=found.covered,
            recompute={
                "weights_sha256": self.weights_sha256,
                "tile": TILE,
                "overlap": OVERLAP,
                "max_tiles": self.max_tiles,
                "batch": BATCH,
                "map_threshold": self.thresholds.map,
            },
        )
        return [made], traces

    def sentence(self, evidence: Evidence) -> str:
        """The prompt hint for a language model; see ``finding.sentence``."""
        return finding.sentence(evidence)
