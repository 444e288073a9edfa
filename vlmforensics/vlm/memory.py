"""Will it fit? Number format, quantisation and place of a big checkpoint, by the memory that is there."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from vlmforensics.errors import ModelError, WeightsCorrupt, WeightsUnavailable

GIB = 1 << 30
MARGIN = 1.2
"""Activations, cache and fragmentation on top of the weights, for prompts of one picture."""
NF4_BYTES = 0.62
"""Bytes per parameter in nf4 with the embeddings and the head left in 16 bits, for a 7B model."""
FORMATS = ("auto", "none", "nf4")
"""What the setting ``quantize`` may say."""


@dataclass(frozen=True)
class Plan:
    """How to load.

    Attributes:
        dtype: of what is not quantised, and of the arithmetic.
        four_bit: nf4 through bitsandbytes (Dettmers et al. 2023, QLoRA).
        bytes: estimate of what it takes.
        spill: bytes that the device may hold where the rest stays in the machine's memory and is brought over layer
            by layer; 0 where all is on the device.
    """

    dtype: torch.dtype
    four_bit: bool
    bytes: int
    spill: int = 0

    @property
    def label(self) -> str:
        """The number format, for the record: it changes results a little."""
        return "nf4" if self.four_bit else str(self.dtype).removeprefix("torch.")

    @property
    def placed(self) -> bool:
        """True where loading puts the model on its device."""
        return self.four_bit or bool(self.spill)

    def arguments(self, device: torch.device) -> dict[str, Any]:
        """Keyword arguments for ``from_pretrained``."""
        if self.spill:
            room: dict[int | str, int] = {device.index or 0: self.spill, "cpu": 1 << 50}
            return {"dtype": self.dtype, "device_map": "auto", "max_memory": room}
        if not self.four_bit:
            return {"dtype": self.dtype}
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=self.dtype
        )
        return {"dtype": self.dtype, "quantization_config": config, "device_map": {"": str(device)}}


def leave_odd_layers_unpacked(model: Any) -> None:
    """Keep 4-bit layers of odd shapes off bitsandbytes' packed CPU kernel.

    On processors with AVX512-BF16 it packs 32 rows and whole blocks of 64 columns, and fails on other shapes at the
    first picture; such layers take its general kernel instead.
    """
    for layer in model.modules():
        if getattr(layer, "support_avx512bf16_for_cpu", False):
            layer.support_avx512bf16_for_cpu = layer.out_features % 32 == 0 and layer.in_features % 64 == 0


def parameter_count(folder: Path) -> int:
    """Number of values in a folder's safetensors files, from their headers alone.

    Raises:
        WeightsUnavailable: there are none.
        WeightsCorrupt: a header can't be read.
    """
    return sum(math.prod(shape) for shape in tensor_shapes(folder).values())


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor in a folder's safetensors files, from their headers alone.

    Raises:
        WeightsUnavailable: there are none.
        WeightsCorrupt: a header can't be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeightsUnavailable(f"{folder} holds no safetensors weights (other formats can carry code)")
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            with path.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > 100_000_000:
                    raise WeightsCorrupt(f"{path.name} has a header of {length} bytes")
                header = json.loads(stream.read(length))
            shapes |= {
                key: tuple(map(int, entry["shape"])) for key, entry in header.items() if key != "__metadata__"
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise WeightsCorrupt(f"{path.name} is not a safetensors file") from error
    return shapes


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on ``device`` in bytes, or None where it can't be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def needs(parameters: int, format_: str) -> int:
    """Bytes that a model of so many parameters takes in ``float32``, ``bfloat16``, ``float16`` or ``nf4``."""
    each = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "nf4": NF4_BYTES}[format_]
    return int(parameters * each * MARGIN)


def plan(
    parameters: int,
    device: torch.device,
    free: int | None,
    *,
    quantize: str = "auto",
    beside: int | None = 0,
) -> Plan:
    """The best way to load that fits.

    On CUDA 16 bits, else nf4, else 16 bits with what does not fit kept in the machine's memory (slow). On a CPU
    float32, because bfloat16 products are hundreds of times slower on processors without the instructions for them,
    else nf4, whose arithmetic is in float32 there.

    Args:
        parameters: of the checkpoint.
        device: where the model runs.
        free: bytes free there, or None where it can't be told.
        quantize: ``auto``, ``none`` (never nf4) or ``nf4`` (always).
        beside: on CUDA, bytes free in the machine's memory, or None where it can't be told.

    Raises:
        ModelError: nothing fits; the message says what is needed, what is free, and what to do.
    """
    cuda = device.type == "cuda"
    half = torch.bfloat16 if cuda and torch.cuda.is_bf16_supported() else torch.float16
    dtype = half if cuda else torch.float32
    whole = Plan(dtype, four_bit=False, bytes=needs(parameters, str(dtype).removeprefix("torch.")))
    small = Plan(dtype, four_bit=True, bytes=needs(parameters, "nf4"))
    room = math.inf if free is None else free
    if quantize == "nf4":
        if small.bytes > room:
            raise _too_big(small, free, device, "close what else uses it, or take the compact model")
        _need_bitsandbytes(small, whole, free, device)
        return small
    if whole.bytes <= room:
        return whole
    if quantize == "auto" and small.bytes <= room:
        _need_bitsandbytes(small, whole, free, device)
        return small
    # a quarter is left for activations and for the layer that is brought over
    if cuda and free is not None and (beside is None or whole.bytes <= free + beside):
        return Plan(dtype, four_bit=False, bytes=whole.bytes, spill=int(free * 0.75))
    if small.bytes <= room:
        raise _too_big(whole, free, device, "use 4-bit (--quantize nf4)")
    raise _too_big(small if quantize == "auto" else whole, free, device, _way_out(cuda))


def _way_out(cuda: bool) -> str:
    if cuda:
        return "close what else uses it, or take the compact model"
    return "use a GPU, a server (http://HOST/v1), or the compact model"


def _too_big(wanted: Plan, free: int | None, device: torch.device, way_out: str) -> ModelError:
    form = "4 bits" if wanted.four_bit else "32 bits" if wanted.dtype == torch.float32 else "16 bits"
    left = "an unknown amount" if free is None else f"{free / GIB:.1f} GB"
    return ModelError(
        f"this model needs {wanted.bytes / GIB:.1f} GB of memory in {form} on {device}, {left} free: {way_out}",
        code="model.memory",
    )


def _need_bitsandbytes(small: Plan, whole: Plan, free: int | None, device: torch.device) -> None:
    if device.type == "mps":
        raise _too_big(whole, free, device, "4-bit weights are not supported on mps: use the compact model")
    if find_spec("bitsandbytes") is None:
        left = "an unknown amount" if free is None else f"{free / GIB:.1f} GB"
        raise ModelError(
            f"this model needs {whole.bytes / GIB:.1f} GB unquantised, {left} free on {device}; in 4 bits it "
            f'needs {small.bytes / GIB:.1f} GB: pip install "vlmforensics[train]" for bitsandbytes',
            code="extra.train",
        )
