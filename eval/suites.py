"""The suites: which pictures, under which conditions, and what is looked at beyond the verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmforensics.errors import SettingsError
from vlmforensics.eval import conditions as given
from vlmforensics.eval.samples import Sample, labelled_pictures, localisation_sets


@dataclass(frozen=True)
class Suite:
    """One suite.

    Attributes:
        about: one line for people.
        read: data → labelled pictures; None for a set that ``finetune.datasets`` reads under the suite's name.
        conditions: what is done to each picture, by default.
        text: explanations are part of what is measured.
        faithful: every explanation is put to the tests of ``faithful``.
        most: pictures by default; None = all.
        split: of a set that ``finetune.datasets`` reads, by default.
    """

    about: str
    read: Callable[[Path], list[Sample]] | None = None
    conditions: Sequence[str] = (given.AS_FOUND, given.EQUALISED)
    text: bool = False
    faithful: bool = False
    most: int | None = None
    split: str = ""


SUITES = {
    "shared": Suite(
        "labelled pictures of your own: a manifest, a CSV or JSONL, or folders", labelled_pictures
    ),
    "fakeclue": Suite("FakeClue in its published layout", text=True, split="test"),
    "sid-set": Suite("SID-Set, folders or shards", split="validation"),
    "loki": Suite("LOKI's pictures that are asked to be true or false", text=True, split="true_or_false"),
    "dd-vqa": Suite("DD-VQA with frames of FaceForensics++", text=True, split="test"),
    "deepfakebench": Suite("a set of DeepfakeBench, by frame", split="FaceForensics++:test:c23"),
    "genimage": Suite("GenImage, all generators that are there", split="val"),
    "localisation": Suite(
        "CASIA, Columbia, Coverage, IMD2020, NIST16: where, to the pixel",
        localisation_sets,
        (given.AS_FOUND,),
    ),
    "robustness": Suite(
        "labelled pictures under compression, scaling, blur, noise and sharing",
        labelled_pictures,
        (given.PIXELS, *given.grid()),
        most=60,
    ),
    "calibration": Suite(
        "how far the probabilities can be taken at their word, under three conditions",
        labelled_pictures,
        (given.AS_FOUND, given.EQUALISED, f"{given.CHAIN}-1"),
    ),
    "faithfulness": Suite(
        "whether explanations follow the evidence", labelled_pictures, (given.AS_FOUND,), True, True, 200
    ),
    "fairness": Suite("labelled pictures with subgroup columns (skin tone, age …)", labelled_pictures),
    "injection": Suite(
        "text drawn into pictures that orders or suggests a verdict",
        labelled_pictures,
        (given.PIXELS, *given.injections()),
        most=60,
    ),
    "speed": Suite("time by stage, and pictures a minute", labelled_pictures, (given.AS_FOUND,), most=20),
}


def suite_of(name: str) -> Suite:
    """The suite called ``name``.

    Raises:
        SettingsError: there is none.
    """
    if name not in SUITES:
        raise SettingsError(f"there is no suite {name!r}; there are {', '.join(SUITES)}")
    return SUITES[name]


def read_suite(name: str, data: Path, out: Path, split: str = "") -> list[Sample]:
    """The labelled pictures of a suite.

    Args:
        name: of the suite.
        data: in the suite's layout.
        out: folder of the run; pictures that a set keeps inside a table are written there.
        split: of a published set; its own by default.
    """
    suite = suite_of(name)
    return suite.read(data) if suite.read is not None else _published(name, data, out, split or suite.split)


def _published(name: str, data: Path, out: Path, split: str) -> list[Sample]:
    """Pictures of a published set, each once: of several questions about one the first, which is about the whole."""
    from vlmforensics.finetune.datasets import load_dataset, to_samples

    found: dict[str, Sample] = {}
    for item in load_dataset(name, data, split):
        if item.name in found:
            continue
        (stored,) = to_samples([item], out / "pictures")
        found[item.name] = Sample(
            name=item.name,
            path=stored.image.absolute(),
            label=item.label,
            source=item.source,
            family=item.source,
            mask=None if stored.mask is None else stored.mask.absolute(),
            groups={"category": item.category} if item.category else {},
            question=item.question,
            references=item.references,
        )
    return list(found.values())
