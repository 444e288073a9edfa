"""Training state on disk without pickle: tensors as safetensors, the rest as JSON, both behind one atomic rename."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vlmforensics.errors import SettingsError

MADE_FROM = "made-from.json"


def check_same(where: Path, known: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Compare what lies in ``where`` with what it is about to be used for.

    Args:
        where: named in the message.
        known: what was noted when it was begun.
        facts: what it would have to be now, as JSON gives it back.

    Raises:
        SettingsError: they differ, or nothing was noted.
    """
    odd = [key for key, value in facts.items() if key not in known or known[key] != value]
    if odd:
        raise SettingsError(
            f"{where} was begun with other settings or data ({', '.join(odd)}); go on with the former ones, "
            "remove it, or use another folder"
        )


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names and numbers, whatever their order, device and precision."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def claim_cache(folder: Path, facts: Mapping[str, Any], *, filled: bool) -> None:
    """Note beside a cache what it is made from, or check that it is made from that.

    Args:
        folder: of the cache, made where missing.
        facts: what decides what the cache holds, as JSON gives it back.
        filled: something is cached already.

    Raises:
        SettingsError: it is made from something else, or nobody knows from what.
    """
    file = folder / MADE_FROM
    if filled:
        check_same(folder, json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}, facts)
        return
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")  # several processes may fill one cache
    part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    part.replace(file)


def write_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write an ``.npz`` file, renamed into place; several processes may fill one folder."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    part.replace(path)


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
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    run: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Put a saved state back; returns its facts, or None where there is none.

    Args:
        folder: where :func:`save_state` wrote it.
        parameters: filled in place.
        optimiser: gets its moments back.
        run: facts that the state must have been saved with, for it to be of the same run.

    Raises:
        SettingsError: it is of another run.
    """
    from safetensors import safe_open

    file = folder / "state.safetensors"
    if not file.exists():
        return None
    with safe_open(file, framework="pt") as tensors:
        facts: dict[str, Any] = json.loads(tensors.metadata()["facts"])
        check_same(folder, facts, run)
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
    return facts
