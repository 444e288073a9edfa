"""Weak-feature supplement: sentences of external detectors in the prompt, some dropped while training.

A model that always reads the detectors learns to repeat them; one that never does can't use them. So each sentence is
dropped with a fixed probability, anew in every epoch, and by a seed: the same seed, epoch and picture give the same
prompt in every process, whatever the order of the samples.

References:
    Chen et al. 2024, X²-DFD: A framework for eXplainable and eXtendable Deepfake Detection, §3 (WFS).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from vlmforensics.errors import SettingsError
from vlmforensics.finetune.samples import Sample
from vlmforensics.vlm.prompts import clean_hints


def kept_hints(
    hints: Sequence[str], probability: float, *, key: str, seed: int = 0, epoch: int = 0
) -> tuple[str, ...]:
    """The hints that stay, in their order; each is dropped independently.

    Args:
        hints: sentences of external detectors.
        probability: of dropping one, 0 (keep all) to 1 (drop all).
        key: names the sample, e.g. its SHA-256.
        seed: of the run.
        epoch: counts from 0; another epoch drops others.

    Raises:
        SettingsError: the probability is not in [0, 1].
    """
    if not 0 <= probability <= 1:
        raise SettingsError(f"the drop-out of hints is a probability in [0, 1], not {probability}")
    name = hashlib.sha256(f"{key}/{seed}/{epoch}".encode()).digest()
    draws = np.random.default_rng(int.from_bytes(name[:8], "big")).random(len(hints))
    return tuple(hint for hint, draw in zip(hints, draws, strict=True) if draw >= probability)


def prompt_of(sample: Sample, probability: float = 0.0, *, seed: int = 0, epoch: int = 0) -> str:
    """The user's turn as the model reads it in training: the prompt, then the hints that stay.

    Worded as ``vlm.prompts.question_with`` does for inference, so that training and use agree.
    """
    hints = kept_hints(sample.hints, probability, key=sample.sha256, seed=seed, epoch=epoch)
    return " ".join([sample.prompt, *clean_hints(hints)])
