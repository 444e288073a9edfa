"""DeepfakeBench: face sets behind one index format.

``root`` holds ``preprocessing/dataset_json*/<Dataset>.json`` and ``datasets/rgb/…`` with cropped frames. An index is
``{dataset: {class: {split: {video: {label, frames}}}}}``, with a compression level between split and video for
FaceForensics++ and its kin. Class names map to real and fake as in the benchmark's configuration. A split is written
``<Dataset>:<split>`` or ``<Dataset>:<split>:<compression>``, e.g. ``FaceForensics++:train:c23``.

References:
    Yan et al. 2023, DeepfakeBench: A Comprehensive Benchmark of Deepfake Detection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmforensics.errors import SettingsError
from vlmforensics.finetune.datasets.base import Found, read_json
from vlmforensics.types import Label

_REAL = (
    "FF-real", "DFD_real", "CelebDFv1_real", "CelebDFv2_real", "DFDCP_Real", "DFDC_Real", "DF_real", "UADFV_Real",
    "roop_Real",
)  # fmt: skip
_FAKE = (
    "FF-DF", "FF-F2F", "FF-FS", "FF-NT", "FF-FH", "FF-SH", "DFD_fake", "CelebDFv1_fake", "CelebDFv2_fake",
    "DFDCP_FakeA", "DFDCP_FakeB", "DFDC_Fake", "DF_fake", "UADFV_Fake", "roop_Fake",
)  # fmt: skip
CLASSES: Mapping[str, Label] = {name: "real" if name in _REAL else "tampered" for name in (*_REAL, *_FAKE)}
"""Class → label; every fake class edits the face in a real video."""


def load(root: Path, split: str) -> Iterator[Found]:
    """Frames of a split, video by video."""
    dataset, _, rest = split.partition(":")
    part, _, compression = rest.partition(":")
    if not part:
        raise SettingsError("write the split as DATASET:SPLIT[:COMPRESSION], e.g. FaceForensics++:test:c23")
    found = sorted(root.glob(f"preprocessing/dataset_json*/{dataset}.json"))
    if not found:
        raise SettingsError(f"{root}/preprocessing/dataset_json holds no index {dataset}.json")
    content = read_json(found[-1])
    if not isinstance(content, dict) or dataset not in content:
        raise SettingsError(f"{found[-1]} is no index of {dataset}")
    return _frames(root, found[-1], dataset, content[dataset], part, compression)


def _frames(
    root: Path, file: Path, dataset: str, classes: Mapping[str, Any], part: str, compression: str
) -> Iterator[Found]:
    for name, splits in classes.items():
        if part not in splits:
            raise SettingsError(f"{file}: {name} has the splits {', '.join(splits)}, not {part!r}")
        videos = _videos(splits[part], compression, f"{file}: {name}/{part}")
        for video, facts in videos.items():
            try:
                said, frames = str(facts["label"]), [str(frame) for frame in facts["frames"]]
            except (KeyError, TypeError) as error:
                raise SettingsError(f"{file}, video {video}: not in DeepfakeBench's layout") from error
            if said not in CLASSES:
                raise SettingsError(
                    f"{file}, video {video}: the class {said!r} is not known to be real or fake"
                )
            for frame in frames:
                path = _path(root, frame)
                mask = _mask(path) if CLASSES[said] == "tampered" else None
                yield Found(
                    image=path,
                    name=frame,
                    label=CLASSES[said],
                    source=f"deepfakebench/{dataset}/{said}",
                    category="deepfake",
                    mask=mask,
                )


def _videos(content: Mapping[str, Any], compression: str, where: str) -> Mapping[str, Any]:
    """Videos of a split, below its compression level where it has one."""
    levels = {name for name, value in content.items() if isinstance(value, dict) and "frames" not in value}
    if not levels:
        return content
    if compression not in levels:
        raise SettingsError(f"{where} needs a compression level, one of {', '.join(sorted(levels))}")
    videos: Mapping[str, Any] = content[compression]
    return videos


def _path(root: Path, frame: str) -> Path:
    """A frame's path; indices written on Windows have backslashes, and some start above ``datasets/rgb``."""
    name = frame.replace("\\", "/").removeprefix("./")
    for base in (root, root / "datasets" / "rgb", root / "datasets"):
        if (base / name).is_file():
            return base / name
    raise SettingsError(f"the frame {frame} is neither below {root} nor below its datasets/rgb")


def _mask(path: Path) -> Path | None:
    """The mask of a frame, which lies in ``masks`` where the frame lies in ``frames``."""
    parts = list(path.parts)
    if "frames" not in parts:
        return None
    place = len(parts) - 1 - parts[::-1].index("frames")
    mask = Path(*parts[:place], "masks", *parts[place + 1 :])
    return mask if mask.is_file() else None
