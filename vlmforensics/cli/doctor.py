"""``vlmforensics doctor``: what this machine has, what works on it, and which models fit."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vlmforensics.cli.common import DONE, FAILED, stdout
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


def run(settings: Settings, *, as_json: bool) -> int:
    """Run all checks and print them; returns 1 where one is a problem."""
    checks = [*_machine(settings), *_packages(), *_torch(), *_weights(settings)]
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
            fits = "llava-1.5-7b in bf16" if card.total_memory >= 18 * GIB else (
                "llava-1.5-7b in 4 bits" if card.total_memory >= 7 * GIB else "compact"
            )  # fmt: skip
            checks.append(
                Check(f"cuda:{index}", "ok", f"{card.name}, {_gib(card.total_memory)}: fits {fits}")
            )
    else:
        checks.append(
            Check("cuda", "note", "no CUDA device: compact runs here, llava-1.5-7b and fakevlm want a GPU")
        )
    return checks


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
