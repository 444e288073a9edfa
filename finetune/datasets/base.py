"""What every loader yields, and how it becomes a training sample."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmforensics.errors import SettingsError
from vlmforensics.finetune.samples import PixelBox, Sample, digest
from vlmforensics.types import Label
from vlmforensics.vlm.prompts import QUESTION

STATED: dict[Label, str] = {
    "real": "This picture shows no sign of manipulation.",
    "synthetic": "This picture is wholly synthetic.",
    "tampered": "This picture was tampered with.",
}
"""The answer where a set gives a label and no words."""


@dataclass(frozen=True)
class Found:
    """One picture of a published set, with what the set says of it.

    Attributes:
        image: path, or the file's bytes where the set keeps pictures inside a table.
        name: of the picture within the set.
        label: in our three labels.
        source: what to keep together in splits, e.g. ``genimage/Midjourney``.
        category: FakeClue's or the set's own; empty where it has none.
        question: as published, without the image token; empty where the set asks nothing.
        references: answers as published, the first one to train on, all to score against.
        mask: grey, bright = tampered; path or the file's bytes, or None.
        boxes: half-open ``[x0, y0, x1, y1)`` in pixels of the picture.
    """

    image: Path | bytes
    name: str
    label: Label
    source: str
    category: str = ""
    question: str = ""
    references: tuple[str, ...] = ()
    mask: Path | bytes | None = None
    boxes: tuple[PixelBox, ...] = ()


def to_samples(found: Iterable[Found], store: Path) -> Iterator[Sample]:
    """Training samples; pictures and masks that came as bytes are written into ``store``, named by their digest.

    Raises:
        SettingsError: a picture can't be read or written.
    """
    for item in found:
        path = _stored(item.image, store, item.name)
        yield Sample(
            image=path,
            sha256=digest(path),
            label=item.label,
            source=item.source,
            category=item.category,
            mask=None if item.mask is None else _stored(item.mask, store, item.name),
            boxes=item.boxes,
            prompt=item.question or QUESTION,
            answer=item.references[0] if item.references else STATED[item.label],
        )


def read_json(file: Path, *, encoding: str = "utf-8") -> Any:
    """A JSON file.

    Raises:
        SettingsError: it can't be read or is no JSON.
    """
    try:
        return json.loads(file.read_text(encoding=encoding))
    except (OSError, ValueError) as error:
        raise SettingsError(f"can't read {file}: {error}") from error


def present(path: Path, what: str) -> Path:
    """The path, which must exist.

    Raises:
        SettingsError: it does not; ``what`` says what it is and who needs it.
    """
    if not path.exists():
        raise SettingsError(f"{what} is missing: {path}")
    return path


def _stored(content: Path | bytes, store: Path, name: str) -> Path:
    if isinstance(content, Path):
        return content
    path = store / f"{hashlib.sha256(content).hexdigest()}{_suffix(content, name)}"
    if not path.exists():
        try:
            store.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(content)
            part.replace(path)
        except OSError as error:
            raise SettingsError(f"can't write {path}: {error.strerror}") from error
    return path


def _suffix(content: bytes, name: str) -> str:
    for start, suffix in ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"RIFF", ".webp")):
        if content.startswith(start):
            return suffix
    raise SettingsError(f"{name} holds bytes that are no PNG, JPEG or WebP")
