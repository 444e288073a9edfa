"""``vlmforensics doctor``: what this machine has, what works on it, and which models fit."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vlmforensics.cli.common import DONE, FAILED, stdout
from vlmforensics.errors import ModelError, SettingsError
from vlmforensics.settings import Settings

GIB = 1 << 30
_PACKAGES = (
    "vlmforensics", "torch", "torchvision", "transformers", "peft", "onnx", "gguf", "pillow", "pillow-heif",
    "c2pa-python", "gradio", "ray", "bitsandbytes", "httpx",
)  # fmt: skip
_OPTIONAL = {"gradio": "ui", "ray": "ray", "bitsandbytes": "train", "httpx": "remote"}


@dataclass(frozen=True)
class Check:
    """One line of the examination: ``state`` is ``ok``, ``note`` (works, worth knowing) or ``problem``."""

    name: str
    state: str
    says: str


_MODELS = {"compact": 243_000_000, "llava-1.5-7b": 7_063_427_072, "fakevlm": 7_063_427_072}
"""Parameters of the models by name."""


def run(settings: Settings, *, as_json: bool, measure: bool = False) -> int:
    """Run all checks and print them; returns 1 where one is a problem.

    Args:
        settings: device, cache and quantisation that models would be loaded with.
        as_json: print a JSON list.
        measure: also time the machine and, where it is in the cache, the compact model.
    """
    checks = [*_machine(settings), *_packages(), *_torch(), *_fitting(settings), *_weights(settings)]
    if measure:
        checks += [*_arithmetic(settings), *_compact(settings)]
    if as_json:
        sys.stdout.write(json.dumps([asdict(check) for check in checks], indent=2) + "\n")
    else:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False)
        for check in checks:
            mark = {"ok": "ok", "note": "note", "problem": "PROBLEM"}[check.state]
            table.add_row(
                check.name,
                Text(mark, style={"ok": "green", "note": "yellow", "problem": "bold red"}[check.state]),
                Text(check.says),
            )
        stdout().print(table)
    return FAILED if any(check.state == "problem" for check in checks) else DONE


def _machine(settings: Settings) -> list[Check]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory()
    enough = memory is None or memory >= 4 * GIB
    free = shutil.disk_usage(_existing(settings.cache)).free
    needed = "compact needs about 2 GiB"
    return [
        Check(
            "system", "ok", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
        ),
        Check("processor", "ok", f"{usable} usable cores"),
        Check("memory", "ok" if enough else "problem", f"{_gib(memory)} in all; {needed}"),
        Check(
            "disk",
            "ok" if free > 2 * GIB else "problem",
            f"{_gib(free)} free under {settings.cache}; {needed}",
        ),
    ]


def _packages() -> list[Check]:
    checks = []
    for name in _PACKAGES:
        try:
            checks.append(Check(name, "ok", version(name)))
        except PackageNotFoundError:
            extra = _OPTIONAL.get(name)
            state, says = ("note", f'not installed; pip install "vlmforensics[{extra}]"') if extra else (
                "problem", 'not installed; pip install "vlmforensics[model]"'
            )  # fmt: skip
            checks.append(Check(name, state, says))
    return checks


def _torch() -> list[Check]:
    """Devices, and whether torch and torchvision were built for one another."""
    try:
        import torch
    except ImportError as error:
        return [Check("torch import", "problem", f"{error}")]
    checks = [Check("torch threads", "ok", str(torch.get_num_threads()))]
    try:
        from torchvision.ops import nms

        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
        checks.append(Check("torchvision operators", "ok", "present"))
    except (ImportError, RuntimeError, AttributeError) as error:
        says = f"{error}: torch and torchvision must come from the same index; reinstall both together"
        checks.append(Check("torchvision operators", "problem", says))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            free, _ = torch.cuda.mem_get_info(index)
            says = f"{card.name}, {_gib(card.total_memory)}, {_gib(free)} free, capability {card.major}.{card.minor}"
            checks.append(Check(f"cuda:{index}", "ok", says))
    else:
        checks.append(
            Check("cuda", "note", "no CUDA device: compact runs here, llava-1.5-7b and fakevlm want a GPU")
        )
    return checks


def _fitting(settings: Settings) -> list[Check]:
    """Which models fit on the device, in which number format, by the memory that is free now."""
    try:
        import torch

        from vlmforensics.vlm.devices import pick_device
        from vlmforensics.vlm.memory import free_bytes, plan
    except ImportError:
        return []  # said already
    try:
        device = pick_device(settings)
    except SettingsError as error:
        return [Check("device", "problem", str(error))]
    free, beside = free_bytes(device), free_bytes(torch.device("cpu"))
    checks = []
    for name, parameters in _MODELS.items():
        try:
            how = plan(parameters, device, free, quantize=settings.quantize, beside=beside)
        except ModelError as error:
            checks.append(Check(f"fits {name}", "problem" if name == "compact" else "note", str(error)))
            continue
        where = f"{device} and memory, slowly" if how.spill else str(device)
        says = f"in {how.label} on {where}: needs {_gib(how.bytes)}, {_gib(free)} free"
        checks.append(Check(f"fits {name}", "note" if how.spill else "ok", says))
    return checks


def _arithmetic(settings: Settings) -> list[Check]:
    """How fast the device multiplies and reads, and what that allows a 7B model to say at best."""
    import torch

    from vlmforensics.vlm.devices import pick_device
    from vlmforensics.vlm.memory import NF4_BYTES

    device = pick_device(settings)
    dtype = torch.float32 if device.type != "cuda" else torch.bfloat16
    side = 1024 if device.type == "cpu" else 8192
    left = torch.ones(side, side, device=device, dtype=dtype)
    products = 2 * side**3 / _best_of(lambda: left @ left, device) / 1e9
    vector = torch.ones((1 << 26 if device.type == "cpu" else 1 << 28), device=device, dtype=dtype)
    reads = vector.nbytes / _best_of(vector.sum, device) / 1e9
    words = reads * 1e9 / (_MODELS["llava-1.5-7b"] * NF4_BYTES)
    return [
        Check(
            "speed of products",
            "ok",
            f"{products:.0f} GFLOP/s in {str(dtype).removeprefix('torch.')} on {device}",
        ),
        Check(
            "speed of memory",
            "ok",
            f"{reads:.0f} GB/s: a 7B model in nf4 says at most {words:.0f} tokens a second",
        ),
    ]


def _best_of(work: Callable[[], object], device: Any, times: int = 3) -> float:
    """Seconds of the fastest of a few runs."""
    import torch

    best = float("inf")
    for _ in range(times + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


def _compact(settings: Settings) -> list[Check]:
    """The compact model on a grey picture: seconds of a look, tokens a second of its text."""
    import numpy as np

    from vlmforensics import weights
    from vlmforensics.compact import load

    if not any(row.name == "compact" and row.state == "ready" for row in weights.list_models(settings)):
        return [Check("speed of compact", "note", "not measured: its weights are not in the cache")]
    backbone = load(settings)
    picture = np.full((512, 512, 3), 127, np.uint8)
    backbone.look(picture)  # the first pass also warms up
    start = time.perf_counter()
    look = backbone.look(picture)
    looked = time.perf_counter() - start
    start = time.perf_counter()
    text = "".join(backbone.narrate(look, "Describe this picture at length.", max_new_tokens=32))
    said = time.perf_counter() - start
    tokens = len(backbone.parts.tokenizer.encode(text, add_special_tokens=False))
    speed = f"{tokens / said:.1f} tokens a second" if tokens else "it said nothing"
    return [Check("speed of compact", "ok", f"{looked:.2f} s a look, {speed}")]


def _weights(settings: Settings) -> list[Check]:
    from vlmforensics import weights

    states = {"ready": "ok", "absent": "note", "damaged": "problem"}
    says = {
        "ready": "in the cache",
        "absent": "not in the cache; fetched at first use, or by `vlmforensics models pull`",
        "damaged": "damaged; `vlmforensics models pull` rebuilds it",
    }
    return [Check(f"weights {r.name}", states[r.state], says[r.state]) for r in weights.list_models(settings)]


def _memory() -> int | None:
    """Physical memory in bytes, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _existing(folder: Path) -> Path:
    """The nearest ancestor that exists."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _gib(count: int | None) -> str:
    return "not known" if count is None else f"{count / GIB:.1f} GiB"
