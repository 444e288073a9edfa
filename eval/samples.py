"""Labelled pictures to measure on: folders and tables of one's own, manifests, and published localisation sets."""

from __future__ import annotations

import csv
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmforensics.errors import SettingsError
from vlmforensics.finetune.pictures import assign_folds, share_of
from vlmforensics.types import LABELS

FAKE = "fake"
"""Truth of sets with two labels: not real, but whether generated or edited is not said."""
TRUTHS = (*LABELS, FAKE)
ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".heic"}
_SYNONYMS = {
    "real": "real", "nature": "real", "authentic": "real", "0_real": "real", "au": "real", "original": "real",
    "synthetic": "synthetic", "full_synthetic": "synthetic", "ai": "synthetic", "generated": "synthetic",
    "1_fake": "fake", "fake": "fake",
    "tampered": "tampered", "edited": "tampered", "tp": "tampered", "spliced": "tampered",
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One labelled picture.

    Attributes:
        name: unique within its suite and stable, e.g. the path below the data folder.
        path: of the file.
        label: ``real``, ``synthetic``, ``tampered``, or ``fake`` where a set does not say which of the two.
        source: where it comes from; tables are split by it.
        family: sources that are alike; bootstrap draws and folds keep families whole.
        mask: of what was tampered with (bright = tampered), or None.
        groups: further columns for subgroup tables, e.g. skin tone.
        question: what a published set asks, empty elsewhere.
        references: reference explanations, empty elsewhere.
    """

    name: str
    path: Path
    label: str
    source: str
    family: str
    mask: Path | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    question: str = ""
    references: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values, for the run's list of samples."""
        return {
            **vars(self),
            "path": str(self.path),
            "mask": None if self.mask is None else str(self.mask),
            "groups": dict(self.groups),
            "references": list(self.references),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Sample:
        """The opposite of :meth:`to_json`."""
        mask = row["mask"]
        fields: dict[str, Any] = {
            **row,
            "path": Path(row["path"]),
            "mask": None if mask is None else Path(mask),
            "references": tuple(row["references"]),
        }
        return cls(**fields)


def label_of(text: str, where: str) -> str:
    """One of ``TRUTHS`` from the words that sets use for it.

    Raises:
        SettingsError: another word; numbers are refused, for sets disagree on what 0 and 1 mean.
    """
    found = _SYNONYMS.get(text.strip().lower())
    if found is None:
        raise SettingsError(f"{where} has the label {text!r}; use one of {', '.join(TRUTHS)}")
    return found


def labelled_pictures(data: Path) -> list[Sample]:
    """Read labelled pictures of one's own.

    Args:
        data: a CSV or JSON-lines table with ``path`` and ``label`` (optional: ``source``, ``family``, ``mask``; further
            columns become subgroups), a folder with ``manifest.jsonl``, or a folder with sub-folders named after the
            labels (``real``, ``synthetic``, ``tampered``, ``fake``), whose own sub-folders are sources.

    Raises:
        SettingsError: nothing of that kind, no pictures, an unknown label, or a file that is not there.
    """
    if data.is_dir():
        if (data / "manifest.jsonl").is_file():
            return _manifest(data)
        found = list(_folders(data))
    else:
        found = [_row(row, data, place) for place, row in enumerate(_table(data), start=1)]
    if not found:
        raise SettingsError(
            f"{data} has no labelled pictures: give a CSV or JSONL with path and label, a folder with manifest.jsonl, "
            f"or sub-folders {', '.join(LABELS)}"
        )
    return found


def _manifest(data: Path) -> list[Sample]:
    from vlmforensics.finetune.pictures import load_manifest

    return [
        Sample(str(p.path.relative_to(data)), p.path, p.label, p.source, p.family, p.mask)
        for p in load_manifest(data)
    ]


def _folders(data: Path) -> Iterable[Sample]:
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        if folder.name.lower() not in _SYNONYMS:
            continue
        label = label_of(folder.name, str(data))
        for path in pictures_below(folder):
            inner = path.relative_to(folder).parts
            source = inner[0] if len(inner) > 1 else folder.name
            yield Sample(str(path.relative_to(data)), path, label, source, source)


def pictures_below(folder: Path) -> list[Path]:
    """Files below a folder whose ending is a picture's, sorted; an absent folder has none."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())


def _table(file: Path) -> list[dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".csv":
            return list(csv.DictReader(text.splitlines()))
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise SettingsError(f"can't read labelled pictures from {file}: {error}") from error


def _row(row: Mapping[str, Any], file: Path, place: int) -> Sample:
    where = f"row {place} of {file}"
    if not row.get("path") or not row.get("label"):
        raise SettingsError(f"{where} lacks path or label")
    path = file.parent / str(row["path"])
    if not path.is_file():
        raise SettingsError(f"{where}: {path} is not there")
    source = str(row.get("source") or path.parent.name)
    known = {"path", "label", "source", "family", "mask"}
    return Sample(
        name=str(row["path"]),
        path=path,
        label=label_of(str(row["label"]), where),
        source=source,
        family=str(row.get("family") or source),
        mask=file.parent / str(row["mask"]) if row.get("mask") else None,
        groups={
            str(k): str(v) for k, v in row.items() if k not in known and isinstance(v, str | int) and str(v)
        },
    )


def choose(samples: Sequence[Sample], most: int | None, *, seed: int = 0) -> list[Sample]:
    """At most ``most`` samples: labels as even as they allow, then sources, drawn by the seed.

    Raises:
        SettingsError: two samples of one name, or none at all.
    """
    if len({sample.name for sample in samples}) < len(samples):
        raise SettingsError("two pictures have the same name; names must be unique within a suite")
    if not samples:
        raise SettingsError("the suite has no pictures")
    if most is None or most >= len(samples):
        return list(samples)
    draw = random.Random(seed)  # noqa: S311 - choosing, not secrecy
    pools: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in sorted(samples, key=lambda s: s.name):
        pools[sample.label][sample.source].append(sample)
    queues: dict[str, list[Sample]] = {}
    for label, sources in sorted(pools.items()):
        for own in sources.values():
            draw.shuffle(own)
        names = sorted(sources)
        draw.shuffle(names)
        queue: list[Sample] = []
        while any(sources[name] for name in names):
            queue += [sources[name].pop() for name in names if sources[name]]
        queues[label] = queue[::-1]
    chosen: list[Sample] = []
    while len(chosen) < most:
        for label in sorted(queues):
            if queues[label] and len(chosen) < most:
                chosen.append(queues[label].pop())
    return sorted(chosen, key=lambda s: s.name)


def of_fold(samples: Sequence[Sample], fold: str) -> list[Sample]:
    """The samples whose family lies in one fold, as training deals families.

    Args:
        samples: all that training dealt.
        fold: ``I/N``, counted from 0.

    Raises:
        SettingsError: no such fold.
    """
    index, count = share_of(fold)
    folds = assign_folds(samples, count)
    return [sample for sample, home in zip(samples, folds, strict=True) if home == index]


# ---------------------------------------------------------------- localisation sets


def localisation_sets(data: Path) -> list[Sample]:
    """Published localisation sets, whichever of them lie below ``data``, each in a folder of its own name.

    CASIA (``Tp``, ``Au``, ``Gt`` with ``NAME_gt.png``), Columbia (``4cam_splc``, ``4cam_auth``, masks in ``edgemask``:
    green = spliced), Coverage (``image`` with ``N.tif`` and ``Nt.tif``, ``mask`` with ``Nforged.tif``), IMD2020 (a
    folder a scene: ``*_orig.*``, edits, ``*_mask.png``) and NIST16 (``probe``, ``world``, ``mask`` of the same stem).

    Raises:
        SettingsError: none of them is there.
    """
    found: list[Sample] = []
    for folder in sorted(path for path in (data, *data.iterdir()) if path.is_dir()):
        for key, reader in _LAYOUTS.items():
            if folder.name.lower().startswith(key):
                found += [
                    Sample(
                        f"{folder.name}/{path.relative_to(folder)}",
                        path,
                        label,
                        key,
                        key,
                        mask if label != "real" else None,
                    )
                    for path, label, mask in reader(folder)
                ]
    if not found:
        raise SettingsError(
            f"{data} holds none of {', '.join(_LAYOUTS)}: each set belongs in a folder of its own name"
        )
    return found


Found = Iterable[tuple[Path, str, Path | None]]


def _by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem.lower(): path for path in pictures_below(folder)}


def _sub(folder: Path, *names: str) -> Path:
    """The sub-folder of one of these names, whatever their case; the first name where there is none."""
    wanted = {name.lower() for name in names}
    return next(
        (p for p in sorted(folder.rglob("*")) if p.is_dir() and p.name.lower() in wanted), folder / names[0]
    )


def _casia(folder: Path) -> Found:
    masks = _by_stem(_sub(folder, "Gt", "Groundtruth", "CASIA 2 Groundtruth"))
    for path in pictures_below(_sub(folder, "Tp")):
        mask = masks.get(f"{path.stem.lower()}_gt") or masks.get(path.stem.lower())
        if mask is not None:
            yield path, "tampered", mask
    for path in pictures_below(_sub(folder, "Au")):
        yield path, "real", None


def _columbia(folder: Path) -> Found:
    masks = {
        path.stem.lower().removesuffix("_edgemask"): path
        for path in pictures_below(folder)
        if "edgemask" in path.stem.lower()
    }
    for path in pictures_below(folder):
        if "edgemask" in str(path.relative_to(folder)).lower():
            continue
        if "splc" in str(path.relative_to(folder)).lower():
            if path.stem.lower() in masks:
                yield path, "tampered", masks[path.stem.lower()]
        else:
            yield path, "real", None


def _coverage(folder: Path) -> Found:
    masks = _by_stem(_sub(folder, "mask"))
    for path in pictures_below(_sub(folder, "image")):
        stem = path.stem.lower()
        if not stem.endswith("t"):
            yield path, "real", None
        elif f"{stem[:-1]}forged" in masks:
            yield path, "tampered", masks[f"{stem[:-1]}forged"]


def _imd2020(folder: Path) -> Found:
    for scene in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = pictures_below(scene)
        masks = {p.stem.lower().removesuffix("_mask"): p for p in files if p.stem.lower().endswith("_mask")}
        for path in files:
            stem = path.stem.lower()
            if stem.endswith("_mask"):
                continue
            if stem.endswith("_orig"):
                yield path, "real", None
            elif stem in masks:
                yield path, "tampered", masks[stem]


def _nist16(folder: Path) -> Found:
    masks = _by_stem(_sub(folder, "mask", "reference"))
    for path in pictures_below(_sub(folder, "probe")):
        if path.stem.lower() in masks:
            yield path, "tampered", masks[path.stem.lower()]
    for path in pictures_below(_sub(folder, "world")):
        yield path, "real", None


_LAYOUTS: dict[str, Callable[[Path], Found]] = {
    "casia": _casia,
    "columbia": _columbia,
    "coverage": _coverage,
    "imd2020": _imd2020,
    "nist16": _nist16,
}
INVERTED = frozenset({"nist16"})
"""Sets whose masks are dark where tampered."""
GREEN = frozenset({"columbia"})
"""Sets whose masks mark the spliced part in green."""
