"""One training sample of the vision-language model, and the two files it lives in: our JSON lines and FakeClue's JSON.

A line of JSON holds one picture with its label, what is asked, what detectors say beforehand, the answer to learn and
the clues behind it. Paths are relative to the file's folder where the picture lies below it, absolute elsewhere; the
reader hands out absolute ones. The prompt holds neither the image token nor the hints: both belong to the trainer,
which drops hints at random (``finetune.hints``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vlmforensics.errors import SettingsError
from vlmforensics.report.files import write_atomically
from vlmforensics.settings import Settings
from vlmforensics.types import Label
from vlmforensics.vlm.prompts import QUESTION

FAKECLUE_QUESTION = "<image>Does the image looks real/fake?"
"""FakeClue's constant human turn, slip of grammar included: models fine-tuned on it know no other."""
FACE_SWAPS = "deepfake"
"""FakeClue's category of FaceForensics++ frames: faces edited in real video, so ``tampered`` in our three labels."""

Text = Annotated[str, Field(min_length=1, max_length=20_000)]
PixelBox = tuple[int, int, int, int]


class ClueAnswer(BaseModel):
    """Yes or no to one clue of the catalogue.

    Attributes:
        id: clue of ``vlmforensics.clues``.
        answer: True = the clue is present.
        by: who said so: ``measured:SOURCE`` for an evidence source, ``human``, or the voting annotators' names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    answer: bool
    by: Annotated[str, Field(min_length=1, max_length=400)]


class Sample(BaseModel):
    """One line of a training file.

    Attributes:
        image: path of the picture.
        sha256: of the picture file, lower-case hex.
        label: the truth.
        source: where the picture comes from; splits and balanced sampling keep sources together.
        category: FakeClue's (``animal``, ``human``, …), or empty.
        mask: path of a grey mask, bright = tampered, or None.
        boxes: half-open ``[x0, y0, x1, y1)`` in pixels of the picture, where a set marks places with boxes.
        prompt: the user's turn without image token and hints.
        hints: sentences of external detectors (X²-DFD's weak-feature supplement).
        answer: what the model is to say.
        clues: answers behind it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Path
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    label: Label
    source: Annotated[str, Field(max_length=200)] = ""
    category: Annotated[str, Field(max_length=100)] = ""
    mask: Path | None = None
    boxes: tuple[PixelBox, ...] = ()
    prompt: Text = QUESTION
    hints: tuple[Text, ...] = ()
    answer: Text
    clues: tuple[ClueAnswer, ...] = ()

    @field_validator("prompt", "answer")
    @classmethod
    def _without_image_token(cls, text: str) -> str:
        if "<image>" in text:
            raise ValueError("must not hold the image token; the trainer places it")
        return text

    @model_validator(mode="after")
    def _consistent(self) -> Sample:
        if self.mask is not None and self.label == "real":
            raise ValueError("a real picture has no mask of tampering")
        if len({clue.id for clue in self.clues}) != len(self.clues):
            raise ValueError("a clue is answered twice")
        if any(not (0 <= x0 < x1 and 0 <= y0 < y1) for x0, y0, x1, y1 in self.boxes):
            raise ValueError("a box is empty or negative")
        return self


def read_samples(file: Path) -> Iterator[Sample]:
    """Samples of a JSON-lines file, one at a time, paths made absolute.

    Raises:
        SettingsError: the file can't be read, or a line is no sample; names file and line.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parse(line, file, number)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"can't read samples from {file}: {error}") from error


def write_samples(file: Path, samples: Iterable[Sample]) -> int:
    """Write a JSON-lines file, whole or not at all; returns the number of samples.

    Raises:
        SettingsError: the folder can't be written to.
    """
    lines = [line_of(sample, file.parent) for sample in samples]
    write_atomically(file, "".join(f"{line}\n" for line in lines))
    return len(lines)


def line_of(sample: Sample, folder: Path) -> str:
    """The sample as one line of JSON (no line break) for a file in ``folder``."""
    record = sample.model_dump(mode="json", exclude_defaults=False)
    for name in ("image", "mask"):
        if record[name] is not None:
            record[name] = _relative(Path(record[name]), folder)
    if not record["boxes"]:
        del record["boxes"]
    return json.dumps(record, ensure_ascii=False)


def import_fakeclue(file: Path, images: Path, *, hash_pictures: bool = True) -> Iterator[Sample]:
    """Samples of a JSON file in FakeClue's layout, in the file's order.

    The label field decides (1 real, 0 fake), never the text: answers of the published set don't always agree with it.
    Fake pictures of the category ``deepfake`` are ``tampered``, all others ``synthetic``.

    Args:
        file: ``train.json`` or ``test.json``.
        images: folder that the ``image`` paths are relative to.
        hash_pictures: False gives every sample the digest of its path instead, for a look at a set of 100,000.

    Raises:
        SettingsError: the file is not in that layout, or a picture is missing.

    References:
        Wen et al. 2025, Spot the Fake: Large Multimodal Model-Based Synthetic Image Detection with Artifact
        Explanation (FakeVLM, FakeClue).
    """
    for record in fakeclue_records(file):
        path = images / record.image
        key = hashlib.sha256(record.image.encode()).hexdigest()
        yield Sample(
            image=path,
            sha256=digest(path) if hash_pictures else key,
            label=fakeclue_label(record.label, record.category),
            source=record.image.split("/")[0],
            category=record.category,
            prompt=record.question,
            answer=record.answer,
        )


@dataclass(frozen=True)
class FakeClueRecord:
    """One record of FakeClue's JSON: ``label`` is 1 for real and 0 for fake; texts without the image token."""

    image: str
    label: int
    category: str
    question: str
    answer: str


def fakeclue_records(file: Path) -> Iterator[FakeClueRecord]:
    """Records of a JSON file in FakeClue's layout, in the file's order.

    Raises:
        SettingsError: the file is not in that layout; names the record.
    """
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"can't read {file} as FakeClue JSON: {error}") from error
    if not isinstance(records, list):
        raise SettingsError(f"{file} is not in FakeClue's layout: it must be a list of records")
    for number, record in enumerate(records):
        try:
            turns = {str(turn["from"]): str(turn["value"]) for turn in record["conversations"]}
            read = FakeClueRecord(
                image=str(record["image"]),
                label=int(record["label"]),
                category=str(record.get("cate", "")),
                question=turns["human"].replace("<image>", "").strip(),
                answer=turns["gpt"].replace("<image>", "").strip(),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SettingsError(
                f"{file}, record {number}: not in FakeClue's layout (image, label, cate, conversations): {error!r}"
            ) from error
        if read.label not in (0, 1):
            raise SettingsError(
                f"{file}, record {number}: label {read.label} is neither 1 (real) nor 0 (fake)"
            )
        yield read


def fakeclue_label(label: int, category: str) -> Label:
    """Our label of a FakeClue record: 1 is real; 0 is tampered in the category ``deepfake``, else synthetic."""
    if label == 1:
        return "real"
    return "tampered" if category == FACE_SWAPS else "synthetic"


def export_fakeclue(file: Path, samples: Iterable[Sample], images: Path) -> int:
    """Write samples as FakeClue JSON, whole or not at all; returns the number of records.

    What FakeClue has no place for (mask, hints, clues, the difference of synthetic and tampered) is left out.

    Args:
        file: to write.
        samples: their pictures must lie below ``images``.
        images: the folder that ``image`` paths are to be relative to.

    Raises:
        SettingsError: a picture lies elsewhere or can't be read, or the file can't be written.
    """
    records: list[dict[str, Any]] = []
    for sample in samples:
        try:
            name = sample.image.resolve().relative_to(images.resolve()).as_posix()
        except ValueError:
            raise SettingsError(
                f"{sample.image} does not lie below {images}, so {file} can't name it; choose a folder above both"
            ) from None
        width, height = size_of(sample.image)
        records.append(
            {
                "image": name,
                "label": int(sample.label == "real"),
                "cate": sample.category,
                "width": width,
                "height": height,
                "conversations": [
                    {"from": "human", "value": FAKECLUE_QUESTION},
                    {"from": "gpt", "value": sample.answer},
                ],
            }
        )
    write_atomically(file, json.dumps(records, ensure_ascii=False, indent=1) + "\n")
    return len(records)


def digest(path: Path) -> str:
    """SHA-256 of a file, lower-case hex.

    Raises:
        SettingsError: it can't be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise SettingsError(f"can't read the picture {path}: {error.strerror}") from error


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in pixels as displayed.

    Raises:
        InputError: the file is no picture that can be opened.
    """
    from vlmforensics.imaging import open_case

    case = open_case(path, settings=Settings(sandbox=False))
    return case.width, case.height


def _relative(path: Path, folder: Path) -> str:
    try:
        return path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return str(path.resolve())


def _parse(line: str, file: Path, number: int) -> Sample:
    try:
        sample = Sample.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the line"
        raise SettingsError(f"{file}, line {number}: {where}: {first['msg']}") from error
    folder = file.parent.resolve()
    changes: dict[str, Path] = {"image": folder / sample.image}
    if sample.mask is not None:
        changes["mask"] = folder / sample.mask
    return sample.model_copy(update=changes)
