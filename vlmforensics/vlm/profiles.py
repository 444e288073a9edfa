"""How a checkpoint without a label head is asked for a label: its prompt and the words that stand for labels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmforensics.errors import AdapterMismatch
from vlmforensics.types import LABELS, Label
from vlmforensics.vlm.prompts import QUESTION

NOTE = "vlmforensics.json"
"""A file in a checkpoint or adapter folder that names its profile: ``{"profile": "fakevlm"}``."""


@dataclass(frozen=True)
class Profile:
    """A way of asking.

    Attributes:
        name: key in ``PROFILES``.
        question: what is asked.
        prefix: how the answer is forced to begin; the next words are scored.
        words: continuation → the labels that share its probability equally.
        ending: what completes prefix and word to the sentence that answers begin with in training.
        raw: the prompt is ``<image>`` and the question alone, without the checkpoint's chat template.
        template: the whole prompt with ``{image}`` and ``{text}``, where it is neither raw nor the checkpoint's.
        hints: sentences of external detectors may be added.
        remark: tokens of the model's own explanation, which follows the label word as it was trained to; 0 for none.
        whole: the picture is squashed to the tower's square, so that its border is seen; otherwise the
            checkpoint's own processor decides (LLaVA-1.5's cuts the borders off).
    """

    name: str
    question: str
    prefix: str
    words: Mapping[str, tuple[Label, ...]]
    ending: str = "."
    raw: bool = False
    template: str = ""
    hints: bool = True
    remark: int = 0
    whole: bool = True

    def log_probs(self, scores: Mapping[str, float]) -> tuple[float, float, float]:
        """Log-probabilities of the labels from unnormalised log-scores of the words."""
        top = max(scores.values())
        mass = dict.fromkeys(LABELS, 0.0)
        for word, labels in self.words.items():
            for label in labels:
                mass[label] += math.exp(scores[word] - top) / len(labels)
        total = sum(mass.values())
        floor = 1e-12  # a label that no word stands for, or a word beyond single precision
        real, synthetic, tampered = (math.log(max(mass[label] / total, floor)) for label in LABELS)
        return real, synthetic, tampered


PROFILES: Mapping[str, Profile] = {
    "general": Profile(
        name="general",
        question=QUESTION + " Answer with one word: real, synthetic or tampered.",
        prefix="The picture is",
        words={" real": ("real",), " synthetic": ("synthetic",), " tampered": ("tampered",)},
    ),
    # What our own recipes train: the verdict sentence first, then the explanation.
    "explained": Profile(
        name="explained",
        question=QUESTION,
        prefix="The picture is",
        words={" real": ("real",), " synthetic": ("synthetic",), " tampered": ("tampered",)},
    ),
    # Chen et al. 2024, X²-DFD: a yes-no question whose answers begin "This image is real/fake", detector sentences
    # after it. Its fixed fourth token is found here by the words themselves.
    "x2dfd": Profile(
        name="x2dfd",
        question="Is this image real or fake?",
        prefix="This image is",
        words={" real": ("real",), " fake": ("synthetic", "tampered")},
    ),
    # As published: the raw question right after the picture, no chat template (with one, real pictures flip to
    # fake), answers that begin "This is a real/fake image", and the processor's own crop. Wen et al. 2025,
    # Spot the Fake (FakeVLM). Its "fake" covers whole generation and face swaps alike.
    "fakevlm": Profile(
        name="fakevlm",
        question="Does the image looks real/fake?",
        prefix="This is a",
        words={" real": ("real",), " fake": ("synthetic", "tampered")},
        ending=" image.",
        raw=True,
        hints=False,
        remark=160,
        whole=False,
    ),
    # Huang et al. 2025, SIDA: LLaVA's first conversation format and the question of its training. White space around
    # added tokens is what the original, slow tokenizer leaves of it: none. The labels are read by a head, not by words.
    "sida": Profile(
        name="sida",
        question="Can you identify if this image is real, full synthetic, or tampered image? Please mask the "
        "tampered regions if it is tampered.",
        prefix="The image is",
        words={" real": ("real",), " full synthetic": ("synthetic",), " tampered": ("tampered",)},
        template="A chat between a curious human and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the human's questions. USER:<im_start>{image}<im_end>{text} "
        "ASSISTANT:",
        hints=False,
        whole=False,
    ),
}


def read_note(folder: Path) -> dict[str, Any]:
    """The note in a checkpoint or adapter folder; empty where there is none.

    Raises:
        AdapterMismatch: it can't be read.
    """
    path = folder / NOTE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterMismatch(f"{path} can't be read: {error}") from error
    if not isinstance(found, dict):
        raise AdapterMismatch(f"{path} is not a JSON object")
    return found


def profile_of(folder: Path, default: Profile | None = None) -> Profile:
    """The profile that the folder's note names; ``default`` (``general``) where it names none.

    Raises:
        AdapterMismatch: the note can't be read or names a profile that does not exist.
    """
    named = read_note(folder).get("profile")
    if named is None:
        return default or PROFILES["general"]
    if named not in PROFILES:
        raise AdapterMismatch(f"{folder / NOTE} must name one of the profiles {', '.join(PROFILES)}")
    return PROFILES[named]
