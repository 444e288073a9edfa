"""SID-Set: 300,000 pictures, real, full synthetic and tampered with masks; as folders or as parquet shards.

``root`` is either ``SID_Set`` with ``<split>/{real,full_synthetic,tampered,masks}`` (the mask of ``tampered/NAME.png``
is ``masks/NAME_mask.png``) and optional ``<split>/description/{real,full_synthetic,tampered}_GT.json``, or a folder of
shards ``<split>-*.parquet`` (also below ``data/``) with the columns ``img_id, image, mask, width, height, label``.
Labels are 0 real, 1 full synthetic, 2 tampered.

Real pictures are JPEG of any size, the others PNG of 1024 px: whoever trains without re-encoding all labels alike
teaches that.

References:
    Huang et al. 2024, SIDA: Social Media Image Deepfake Detection, Localization and Explanation with Large
    Multimodal Model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmforensics.errors import SettingsError
from vlmforensics.finetune.datasets.base import Found, read_json
from vlmforensics.types import LABELS, Label

FOLDERS: Mapping[str, Label] = {"real": "real", "full_synthetic": "synthetic", "tampered": "tampered"}
QUESTION = (
    "Can you identify if this image is real, full synthetic, or tampered image? "
    "Please mask the tampered regions if it is tampered."
)
WHY = QUESTION[:-1] + " and answer why."
ANSWERS: Mapping[Label, str] = {
    "real": "The image is real.",
    "synthetic": "The image is full synthetic.",
    "tampered": "The image is tampered.",
}
"""As published, without the tokens ``[CLS]``, ``[SEG]`` and ``[END]``: those belong to a recipe."""
_COLUMNS = ["img_id", "image", "mask", "label"]


def load(root: Path, split: str) -> Iterator[Found]:
    """Pictures of a split, from shards where there are any, else from folders."""
    shards = sorted([*root.glob(f"{split}-*.parquet"), *(root / "data").glob(f"{split}-*.parquet")])
    if shards:
        return (found for shard in shards for found in _shard(shard))
    if not (root / split).is_dir():
        raise SettingsError(f"{root} holds neither a folder {split} nor shards {split}-*.parquet")
    return _folders(root / split)


def _folders(home: Path) -> Iterator[Found]:
    for folder, label in FOLDERS.items():
        file = home / "description" / f"{folder}_GT.json"
        described = read_json(file) if file.is_file() else {}
        if not (home / folder).is_dir():
            raise SettingsError(f"{home} is not in SID-Set's layout: it has no folder {folder}")
        for path in sorted((home / folder).iterdir()):
            if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
                continue
            mask = home / "masks" / f"{path.stem}_mask.png" if label == "tampered" else None
            if mask is not None and not mask.is_file():
                raise SettingsError(f"the tampered picture {path} has no mask {mask}")
            yield _found(path, f"{folder}/{path.name}", label, mask, str(described.get(path.name, "")))


def _shard(file: Path) -> Iterator[Found]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        extra = [name for name in ("description",) if name in table.schema_arrow.names]
        batches = table.iter_batches(batch_size=16, columns=[*_COLUMNS, *extra])
        for batch in batches:
            for row in batch.to_pylist():
                yield _row(row, file)
    except (OSError, pa.ArrowException) as error:
        raise SettingsError(f"can't read {file} as a shard of SID-Set: {error}") from error


def _row(row: Mapping[str, Any], file: Path) -> Found:
    name = str(row.get("img_id"))
    try:
        label = LABELS[int(row["label"])]
        image = row["image"]["bytes"]
        mask = row["mask"]["bytes"] if row["mask"] is not None else None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SettingsError(f"{file}, {name}: not SID-Set's columns: {error!r}") from error
    if int(row["label"]) < 0 or not image:
        raise SettingsError(f"{file}, {name}: label or picture is missing")
    if (mask is not None) != (label == "tampered"):
        raise SettingsError(f"{file}, {name}: label {row['label']} and {'a' if mask else 'no'} mask")
    return _found(image, name, label, mask, str(row.get("description") or ""))


def _found(
    image: Path | bytes, name: str, label: Label, mask: Path | bytes | None, description: str
) -> Found:
    answer = f"{ANSWERS[label]} {description.strip()}" if description.strip() else ANSWERS[label]
    return Found(
        image=image,
        name=name,
        label=label,
        source="sid-set",
        question=WHY if description.strip() else QUESTION,
        references=(answer,),
        mask=mask,
    )
