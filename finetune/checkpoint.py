"""Training state on disk without pickle: tensors as safetensors, the rest as JSON, both behind one atomic rename."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn


def save_state(
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    facts: Mapping[str, Any],
) -> None:
    """Write parameters, the optimiser's moments and ``facts`` (JSON-serialisable) as ``state.safetensors``.

    One file, renamed into place: a kill leaves the former state or this one, never a mixture.
    """
    from safetensors.torch import save_file

    tensors = {f"parameter/{name}": value.detach() for name, value in parameters.items()}
    for name, value in parameters.items():
        for key, moment in optimiser.state.get(value, {}).items():
            tensors[f"optimiser/{name}/{key}"] = torch.as_tensor(moment)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "state.part"
    save_file(
        {key: value.contiguous().cpu() for key, value in tensors.items()},
        part,
        {"facts": json.dumps(dict(facts))},
    )
    part.replace(folder / "state.safetensors")


def load_state(
    folder: Path, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Put a saved state back; returns its facts, or None where there is none."""
    from safetensors import safe_open

    file = folder / "state.safetensors"
    if not file.exists():
        return None
    with safe_open(file, framework="pt") as tensors:
        keys = set(tensors.keys())
        with torch.no_grad():
            for name, value in parameters.items():
                value.copy_(tensors.get_tensor(f"parameter/{name}"))
                prefix = f"optimiser/{name}/"
                moments = {
                    key.removeprefix(prefix): tensors.get_tensor(key)
                    for key in keys
                    if key.startswith(prefix)
                }
                if moments:  # the step counter stays on the CPU, where torch keeps it
                    optimiser.state[value] = {
                        key: moment.to(value.device) if moment.dim() else moment
                        for key, moment in moments.items()
                    }
        facts: dict[str, Any] = json.loads(tensors.metadata()["facts"])
    return facts
