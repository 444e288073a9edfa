"""Third-party detectors (an SBI, UCF or Effort checkpoint, say) behind the same evidence interface.

A detector is a TorchScript or ONNX file and a small TOML beside it that says how pixels become its input and
its output a score. Both formats hold a computation, which is run: use files from people that you trust.

Example of the TOML::

    model = "sbi.onnx"          # beside the TOML; ending .onnx, else TorchScript
    name = "SBI"
    sha256 = "…"                # optional: refuse other bytes
    width = 380
    height = 380
    channels = "rgb"            # or "bgr"
    scale = 0.00392156862745098 # multiplies 0..255 before mean and std; default 1/255
    mean = [0.0, 0.0, 0.0]
    std = [1.0, 1.0, 1.0]
    activation = "softmax"      # softmax | sigmoid | none
    index = 1                   # entry of the score in the output
    map_output = 1              # optional: which output is a boundary map, (1, 1, h, w) or (1, h, w)
    map_activation = "sigmoid"  # sigmoid | none
    threshold = 0.5             # of the map
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlmforensics.blending import finding
from vlmforensics.errors import MissingExtra, ModelError, SettingsError, WeightsCorrupt, WeightsUnavailable
from vlmforensics.imaging import resize
from vlmforensics.types import CaseImage, Evidence, Grey, Pixels, Traces

Array = NDArray[np.float32]
Runner = Callable[[Array], list[Array]]


@dataclass(frozen=True)
class Recipe:
    """The TOML's content; see the module's example for the meaning of each field."""

    model: str
    width: int
    height: int
    name: str = "external detector"
    sha256: str = ""
    channels: str = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    activation: str = "softmax"
    index: int = 1
    map_output: int | None = None
    map_activation: str = "sigmoid"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        choices = {
            "channels": ("rgb", "bgr"),
            "activation": ("softmax", "sigmoid", "none"),
            "map_activation": ("sigmoid", "none"),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise SettingsError(
                    f"{field} must be one of {', '.join(allowed)}, not {getattr(self, field)!r}"
                )
        numbers = (*self.mean, *self.std)
        if not all(isinstance(number, int | float) for number in numbers):
            raise SettingsError("mean and std must hold numbers")
        if len(self.mean) != 3 or len(self.std) != 3 or 0 in self.std:
            raise SettingsError("mean and std need three numbers each, std none of them 0")
        if not (8 <= self.width <= 4096 and 8 <= self.height <= 4096):
            raise SettingsError(f"width and height must lie in 8..4096, not {self.width}×{self.height}")


_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "int | None": (int,),
    "float": (int, float),
    "tuple[float, ...]": (tuple,),
}


def read_recipe(file: Path) -> Recipe:
    """Read and check a TOML.

    Raises:
        SettingsError: unreadable, unknown or missing keys, or wrong values.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"can't read {file}: {error}") from error
    known = {field.name: field for field in fields(Recipe)}
    unknown = sorted(set(table) - set(known))
    missing = sorted({"model", "width", "height"} - set(table))
    if unknown or missing:
        raise SettingsError(f"{file}: unknown keys {unknown}, missing keys {missing}")
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in table.items()}
    for key, value in values.items():
        kinds = _KINDS[str(known[key].type)]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise SettingsError(f"{file}: {key} has the wrong type: {value!r}")
    return Recipe(**values)


def _torchscript(file: Path, device: torch.device) -> Runner:
    try:
        module = torch.jit.load(str(file), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise WeightsCorrupt(f"{file.name} is not a TorchScript file: {error}") from error

    def run(batch: Array) -> list[Array]:
        with torch.inference_mode():
            out = module(torch.from_numpy(batch).to(device))
        parts = (
            list(out.values())
            if isinstance(out, dict)
            else list(out)
            if isinstance(out, tuple | list)
            else [out]
        )
        return [part.float().cpu().numpy() for part in parts]

    return run


def _onnx(file: Path, device: torch.device) -> Runner:
    try:
        import onnxruntime  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingExtra("ONNX detectors need onnxruntime: pip install onnxruntime") from error
    providers = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    try:
        session = onnxruntime.InferenceSession(str(file), providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:
        raise WeightsCorrupt(f"{file.name} is not an ONNX model that can be run: {error}") from error
    name = session.get_inputs()[0].name

    def run(batch: Array) -> list[Array]:
        return [np.asarray(part, dtype=np.float32) for part in session.run(None, {name: batch})]

    return run


def _softmax(values: Array) -> Array:
    raised = np.exp(values - values.max())
    return np.asarray(raised / raised.sum(), dtype=np.float32)


class ExternalDetector:
    """A third-party detector as a witness; same methods as ``BlendingDetector``.

    The whole picture is resized to the model's input, as these expect; they can't see what that destroys.

    Attributes:
        recipe: how to run it.
        weights_sha256: digest of the model file.
    """

    name = finding.SOURCE
    version = "1"
    cost = "cpu-seconds"

    def __init__(self, recipe: Recipe, run: Runner, weights_sha256: str) -> None:
        self.recipe, self._run, self.weights_sha256 = recipe, run, weights_sha256

    @classmethod
    def load(cls, file: Path, device: str | torch.device = "cpu") -> ExternalDetector:
        """Load the detector that a TOML describes.

        Args:
            file: the TOML; the model lies beside it.
            device: a torch device.

        Raises:
            SettingsError: the TOML is wrong, or names a file outside its own folder.
            WeightsUnavailable: the model file is missing.
            WeightsCorrupt: the model file has another digest, or can't be run.
            MissingExtra: an ONNX file without onnxruntime.
        """
        recipe = read_recipe(file)
        if Path(recipe.model).name != recipe.model:
            raise SettingsError(f"model must be a file beside {file.name}, not {recipe.model!r}")
        model = file.parent / recipe.model
        try:
            digest = hashlib.sha256(model.read_bytes()).hexdigest()
        except OSError as error:
            raise WeightsUnavailable(f"can't read {model}: {error}") from error
        if recipe.sha256 and recipe.sha256.lower() != digest:
            raise WeightsCorrupt(f"{model.name} has SHA-256 {digest}, not {recipe.sha256}")
        make = _onnx if model.suffix.lower() == ".onnx" else _torchscript
        return cls(recipe, make(model, torch.device(device)), digest)

    def _measure(self, pixels: Pixels) -> tuple[float, Grey | None]:
        """Score in [0, 1] and map in [0, 1] (or None) of one picture."""
        recipe = self.recipe
        values = resize(pixels, recipe.width, recipe.height, resample="bilinear").astype(np.float32)
        if recipe.channels == "bgr":
            values = values[..., ::-1]
        values = (values * recipe.scale - np.array(recipe.mean)) / np.array(recipe.std)
        outputs = self._run(np.ascontiguousarray(values.transpose(2, 0, 1)[None], dtype=np.float32))
        flat = outputs[0].ravel()
        if recipe.activation == "softmax":
            flat = _softmax(flat)
        elif recipe.activation == "sigmoid":
            flat = finding.sigmoid(flat)
        if not -len(flat) <= recipe.index < len(flat):
            raise ModelError(f"{recipe.name} gives {len(flat)} numbers; there is no index {recipe.index}")
        score = float(flat[recipe.index])
        if not 0 <= score <= 1:
            raise ModelError(f"{recipe.name} gives {score}, not a score in [0, 1]; check `activation`")
        if recipe.map_output is None:
            return score, None
        if recipe.map_output >= len(outputs):
            raise ModelError(
                f"{recipe.name} has {len(outputs)} outputs; there is no output {recipe.map_output}"
            )
        plane = np.squeeze(outputs[recipe.map_output])
        if plane.ndim != 2:
            raise ModelError(
                f"{recipe.name}: output {recipe.map_output} is no map but has shape {plane.shape}"
            )
        drawn = finding.sigmoid(plane) if recipe.map_activation == "sigmoid" else plane
        return score, np.clip(drawn, 0, 1).astype(np.float32)

    def map(self, pixels: Pixels) -> Grey:
        """The detector's map, float32 (h, w) in [0, 1]; zeros at stride 4 where it draws none."""
        drawn = self._measure(pixels)[1]
        return finding.blank(*pixels.shape[:2]) if drawn is None else drawn

    def examine(self, case: CaseImage) -> list[Evidence]:
        """One evidence of source ``blending``."""
        return self.examine_map(case)[0]

    def examine_map(self, case: CaseImage) -> tuple[list[Evidence], Traces | None]:
        """The evidence, and the map as boundary; None for detectors that draw none."""
        score, drawn = self._measure(case.upright)
        made = finding.evidence(
            score=score,
            boundary=drawn,
            size=(case.width, case.height),
            threshold=self.recipe.threshold,
            covered=1.0,
            recompute={"weights_sha256": self.weights_sha256, "detector": self.recipe.name},
            who=f"The detector {self.recipe.name}",
        )
        return [made], None if drawn is None else Traces(drawn)

    def sentence(self, evidence: Evidence) -> str:
        """The prompt hint for a language model; see ``finding.sentence``."""
        return finding.sentence(evidence)
