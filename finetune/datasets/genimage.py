"""GenImage: a million ImageNet photographs against eight generators.

``root`` holds a folder per generator with ``{train,val}/{ai,nature}``, however deep the archive put them and in any
spelling (``Midjourney``, ``stable_diffusion_v_1_4/imagenet_ai_0419_sdv4``, …). ``ai`` is synthetic, ``nature`` is real.

Real pictures are JPEG of any size, generated ones PNG of the generator's size: re-encode both alike before training.

References:
    Zhu et al. 2023, GenImage: A Million-Scale Benchmark for Detecting AI-Generated Image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from vlmforensics.errors import SettingsError
from vlmforensics.finetune.datasets.base import Found
from vlmforensics.types import Label

SPLITS = ("train", "val")
FOLDERS: Mapping[str, Label] = {"nature": "real", "ai": "synthetic"}
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


def load(root: Path, split: str) -> Iterator[Found]:
    """Pictures of a split, generator by generator, real ones first."""
    if split not in SPLITS:
        raise SettingsError(f"GenImage has the splits {', '.join(SPLITS)}, not {split!r}")
    homes = sorted(home for home in _homes(root) if home.name.lower() == split)
    if not homes:
        raise SettingsError(f"{root} holds no folder {split} with both ai and nature in it")
    return (found for home in homes for found in _pictures(root, home))


def _homes(root: Path) -> Iterator[Path]:
    """Folders with ``ai`` and ``nature`` in them; what lies below those is not walked."""
    for folder, inner, _ in os.walk(root):
        if {name.lower() for name in inner} >= FOLDERS.keys():
            yield Path(folder)
            inner.clear()


def _pictures(root: Path, home: Path) -> Iterator[Found]:
    generator = home.relative_to(root).parts[0] if home.parent != root else root.name
    folders = {folder.name.lower(): folder for folder in home.iterdir() if folder.is_dir()}
    for name, label in FOLDERS.items():
        for path in sorted(folders[name].rglob("*")):
            if path.suffix.lower() in PICTURES:
                yield Found(
                    image=path,
                    name=path.relative_to(root).as_posix(),
                    label=label,
                    source=f"genimage/{generator}",
                )
