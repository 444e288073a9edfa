"""FakeClue: 100,000 pictures in seven categories with explanations of their artefacts.

``root`` holds ``data_json/{train,test}.json`` and the unpacked ``train.zip`` and ``test.zip``, which hold a folder of
their own name each. Labels are 1 for real and **0 for fake**. Answers don't always open with the label's words, and
some contradict it: the label field is the truth.

References:
    Wen et al. 2025, Spot the Fake: Large Multimodal Model-Based Synthetic Image Detection with Artifact Explanation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlmforensics.errors import SettingsError
from vlmforensics.finetune.datasets.base import Found, present
from vlmforensics.finetune.samples import fakeclue_label, fakeclue_records

SPLITS = ("train", "test")


def load(root: Path, split: str) -> Iterator[Found]:
    """Pictures of a split; fake ones of the category ``deepfake`` (FaceForensics++ frames) are ``tampered``."""
    if split not in SPLITS:
        raise SettingsError(f"FakeClue has the splits {', '.join(SPLITS)}, not {split!r}")
    file = present(root / "data_json" / f"{split}.json", "FakeClue's index")
    bases = (root / split / split, root / split, root)
    for record in fakeclue_records(file):
        path = next((base / record.image for base in bases if (base / record.image).is_file()), None)
        if path is None:
            raise SettingsError(
                f"{record.image} of {file} is missing: unpack {split}.zip into {root / split}"
            )
        yield Found(
            image=path,
            name=record.image,
            label=fakeclue_label(record.label, record.category),
            source=f"fakeclue/{record.image.split('/')[0]}",
            category=record.category,
            question=record.question,
            references=(record.answer,),
        )
