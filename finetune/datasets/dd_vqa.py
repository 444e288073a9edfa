"""DD-VQA: questions on faces of FaceForensics++ with two or three human answers each; pictures are not included.

``root`` holds the repository's ``DQ_FF++/{train_set,test_set}/<Manipulation>/<Manipulation>.json`` and, as pictures
come from FaceForensics++ under that set's own licence, frames in DeepfakeBench's layout below ``FaceForensics++``:
``{original_sequences/youtube,manipulated_sequences/<Method>}/<c23|c40|raw>/frames/<video>/*.png``. The middle frame
of a video stands for it.

References:
    Zhang et al. 2024, Common Sense Reasoning for Deep Fake Detection (ECCV).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from vlmforensics.errors import SettingsError
from vlmforensics.finetune.datasets.base import Found, read_json
from vlmforensics.types import Label

SPLITS = ("train", "test")
MANIPULATIONS: Mapping[str, tuple[str, str, Label]] = {
    "0": ("Deepfakes", "manipulated_sequences/Deepfakes", "tampered"),
    "1": ("Face2Face", "manipulated_sequences/Face2Face", "tampered"),
    "2": ("FaceShifter", "manipulated_sequences/FaceShifter", "tampered"),
    "3": ("FaceSwap", "manipulated_sequences/FaceSwap", "tampered"),
    "5": ("Original", "original_sequences/youtube", "real"),
    "6": ("Neuraltexture", "manipulated_sequences/NeuralTextures", "tampered"),
}
"""Number at the beginning of a key → folder of questions, folder of frames, label. Face edits in real video."""


def load(root: Path, split: str) -> Iterator[Found]:
    """One item per question of a split; question 0 is about the whole picture, the others about parts of the face."""
    if split not in SPLITS:
        raise SettingsError(f"DD-VQA has the splits {', '.join(SPLITS)}, not {split!r}")
    home = root / "DQ_FF++" / f"{split}_set"
    files = sorted(home.glob("*/*.json"))
    if not files:
        raise SettingsError(f"{home} holds no questions of DD-VQA")
    for file in files:
        for key, asked in read_json(file).items():
            yield from _questions(root, file, key, asked)


def _questions(root: Path, file: Path, key: str, asked: object) -> Iterator[Found]:
    number, _, video = key.partition("_")
    if number not in MANIPULATIONS or MANIPULATIONS[number][0].lower() != file.parent.name.lower():
        raise SettingsError(f"{file}: the key {key} does not belong to {file.parent.name}")
    name, folder, label = MANIPULATIONS[number]
    frame = _frame(root / "FaceForensics++" / folder, video)
    if not isinstance(asked, dict):
        raise SettingsError(f"{file}, {key}: not in DD-VQA's layout")
    for index in sorted(asked, key=int):
        try:
            question, answers = (
                str(asked[index]["question"]),
                [str(a).strip() for a in asked[index]["answer"]],
            )
        except (KeyError, TypeError) as error:
            raise SettingsError(f"{file}, {key}, question {index}: not in DD-VQA's layout") from error
        yield Found(
            image=frame,
            name=f"{key}/{index}",
            label=label,
            source=f"dd-vqa/{name}",
            category="deepfake",
            question=question.strip(),
            references=tuple(answer for answer in answers if answer),
        )


def _frame(home: Path, video: str) -> Path:
    for compression in ("c23", "c40", "raw"):
        frames = sorted((home / compression / "frames" / video).glob("*.png"))
        if frames:
            return frames[len(frames) // 2]
    raise SettingsError(
        f"no frames of the video {video} below {home}: DD-VQA comes without pictures; "
        "cut them from FaceForensics++ as DeepfakeBench does (…/c23/frames/<video>/*.png)"
    )
