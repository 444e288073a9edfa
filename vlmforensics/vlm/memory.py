"""Will it fit? Number format and quantisation of a big checkpoint, by the memory that is there."""

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


@dataclass(frozen=True)
class Plan:
    """How to load: number format, 4-bit or not, and the bytes that it takes."""

    dtype: torch.dtype
    four_bit: bool
    bytes: int

    def arguments(self, device: torch.device) -> dict[str, Any]:
        """Keyword arguments for ``from_pretrained``."""
        if not self.four_bit:
            return {"dtype": self.dtype}
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=self.dtype
        )
        return {"dtype": self.dtype, "quantization_config": config, "device_map": {"": str(device)}}


def parameter_count(folder: Path) -> int:
    """Number of values in a folder's safetensors files, from their headers alone.

    Raises:
        WeightsUnavailable: there are none.
        WeightsCorrupt: a header can't be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeightsUnavailable(f"{folder} holds no safetensors weights (other formats can carry code)")
    total = 0
    for path in files:
        try:
            with path.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > 100_000_000:
                    raise WeightsCorrupt(f"{path.name} has a header of {length} bytes")
                header = json.loads(stream.read(length))
            total += sum(math.prod(t["shape"]) for key, t in header.items() if key != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise WeightsCorrupt(f"{path.name} is not a safetensors file") from error
    return total


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on ``device`` in bytes, or None where it can't be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def plan(parameters: int, device: torch.device, free: int | None) -> Plan:
    """The best format that fits: bfloat16 on CUDA, else 4-bit there; float32 on a CPU.

    float32 because bfloat16 products are hundreds of times slower on CPUs without the instructions for them.

    Raises:
        ModelError: nothing fits; the message says what is needed, what is free, and what to do.
    """
    if device.type != "cuda":
        whole = Plan(torch.float32, four_bit=False, bytes=int(parameters * 4 * MARGIN))
        if free is not None and whole.bytes > free:
            raise ModelError(
                f"this model needs {whole.bytes / GIB:.1f} GB of memory in 32 bits on the {device.type}, "
                f"{free / GIB:.1f} GB are free: use a GPU, or the compact model"
            )
        return whole
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    whole = Plan(dtype, four_bit=False, bytes=int(parameters * 2 * MARGIN))
    if free is None or whole.bytes <= free:
        return whole
    small = Plan(dtype, four_bit=True, bytes=int(parameters * NF4_BYTES * MARGIN))
    if small.bytes > free:
        raise ModelError(
            f"this model needs {small.bytes / GIB:.1f} GB even in 4 bits, {free / GIB:.1f} GB are free on "
            f"{device}: free some, or use the compact model"
        )
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            f"this model needs {whole.bytes / GIB:.1f} GB in 16 bits, {free / GIB:.1f} GB are free on {device}; "
            'in 4 bits it fits: pip install "vlmforensics[train]" for bitsandbytes',
            code="extra.train",
        )
    return small
