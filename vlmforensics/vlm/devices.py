"""Which device and number format a network runs with, by what is there."""

from __future__ import annotations

import torch

from vlmforensics.errors import SettingsError
from vlmforensics.settings import Settings


def pick_device(settings: Settings | None = None) -> torch.device:
    """``settings.device`` as a torch device; ``auto`` is CUDA where there is one, else the CPU.

    Apple's MPS is used only when named: some operations differ there between runs, and reports must repeat.

    Raises:
        SettingsError: the device named does not exist on this machine.
    """
    wanted = (settings or Settings()).device
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise SettingsError(f"device {wanted!r} is not auto, cpu, cuda, cuda:N or mps") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise SettingsError(f"device {wanted!r} is not available here; use device = auto or cpu")
    return device


def use_threads(settings: Settings | None = None) -> None:
    """Give torch the CPU threads of the settings (0 leaves its own choice)."""
    threads = (settings or Settings()).threads
    if threads > 0:
        torch.set_num_threads(threads)
