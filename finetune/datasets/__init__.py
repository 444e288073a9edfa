"""Published data sets, read in the layout in which they are published: one file each, one line in :data:`DATASETS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from vlmforensics.errors import SettingsError
from vlmforensics.finetune.datasets.base import Found, to_samples

__all__ = ["DATASETS", "Found", "load_dataset", "to_samples"]

DATASETS: dict[str, str] = {
    "fakeclue": "vlmforensics.finetune.datasets.fakeclue:load",
    "sid-set": "vlmforensics.finetune.datasets.sid_set:load",
    "loki": "vlmforensics.finetune.datasets.loki:load",
    "dd-vqa": "vlmforensics.finetune.datasets.dd_vqa:load",
    "genimage": "vlmforensics.finetune.datasets.genimage:load",
    "deepfakebench": "vlmforensics.finetune.datasets.deepfakebench:load",
}
"""Name → ``module:function`` of ``(root, split) -> Iterator[Found]``."""


def load_dataset(name: str, root: Path, split: str) -> Iterator[Found]:
    """Pictures of a published set, in the order of its files.

    Args:
        name: a key of ``DATASETS``.
        root: the folder that the set's own instructions create; each loader says which.
        split: as the set names it, e.g. ``train``, ``validation``, ``test``.

    Raises:
        SettingsError: no such set, no such split, or the folder is not in the published layout.
    """
    if name not in DATASETS:
        raise SettingsError(f"no data set is called {name!r}; there are {', '.join(sorted(DATASETS))}")
    if not root.is_dir():
        raise SettingsError(f"{root} is no folder; give the one that {name} was unpacked into")
    module, _, function = DATASETS[name].partition(":")
    load: Callable[[Path, str], Iterator[Found]] = getattr(import_module(module), function)
    return load(root, split)
