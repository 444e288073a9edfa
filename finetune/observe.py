"""What every witness says of labelled pictures, before any judging: the raw material of calibration.

One JSON line per picture and variant, appended as it comes, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlmforensics.assistant import Assistant, gate_features
from vlmforensics.assistant.parts import patches_of
from vlmforensics.compact.backbone import CompactBackbone
from vlmforensics.errors import InputError, SettingsError
from vlmforensics.finetune.features import prepare
from vlmforensics.finetune.journal import append, read_journal
from vlmforensics.finetune.pictures import Picture, familiar_families, is_unfamiliar
from vlmforensics.fusion import Calibration, Reading
from vlmforensics.fusion.conformal import LabelScores
from vlmforensics.imaging import open_case
from vlmforensics.settings import Settings, load_settings
from vlmforensics.types import LABELS, CaseImage, Evidence, Pixels
from vlmforensics.vlm.base import Look

TRAINED_ONCE = ("blending", "mask")
"""Networks that trained on real and synthetic pictures of all sources that are not held back; there is no copy for each
family left out, so what they say of families that they may know is not heard."""


@dataclass(frozen=True)
class Observation:
    """One line.

    Attributes:
        variant: how the picture was prepared, see ``features``.
        sha256: of the picture that it was made from.
        readings: evidence source → what it measured.
        features: what the distance gate compares, or empty.
    """

    variant: str
    sha256: str
    readings: Mapping[str, Reading]
    features: tuple[float, ...]


def witnesses(settings: Settings, which: str) -> Assistant:
    """An assistant for observing; its calibration is empty, as only raw readings are used.

    The label head and the experts don't speak: their scores come from training, with the picture's family left out.

    Args:
        settings: threads, cache.
        which: ``signals``; ``blending``: them and the blending detector, which is all that calibration hears;
            ``networks``: the blending detector and the mask head; or ``all``.
    """
    from vlmforensics.blending import BlendingDetector
    from vlmforensics.compact.shipped import load
    from vlmforensics.masks import MaskHead
    from vlmforensics.signals import load_sources

    if which not in ("signals", "blending", "networks", "all"):
        raise SettingsError(f"witnesses are `signals`, `blending`, `networks` or `all`, not {which!r}")
    empty = Calibration(
        prior=np.zeros(3),
        sources={},
        conformal={label: LabelScores.of(np.zeros(1), 1) for label in LABELS},
        levels={"synthetic": 0.1, "tampered": 0.1},
        margin=0.0,
    )
    compact = load(settings)
    experts = compact.parts.experts
    return Assistant(
        Onlooker(compact.parts, compact.version, compact.weights_sha256),
        () if which == "networks" else load_sources(settings),
        None if which == "signals" else BlendingDetector.load(settings),
        MaskHead.load(settings, reader=experts.tower if experts else None)
        if which in ("networks", "all")
        else None,
        empty,
        settings,
    )


class Onlooker(CompactBackbone):
    """The compact model's tower alone: it sees, for the gate and the mask head, and has no opinion."""

    def look(self, pixels: Pixels, hints: Sequence[str] = (), *, for_text: bool = True) -> Look:
        """The tower's patch features."""
        del hints, for_text
        return Look(None, patches=patches_of(self.tower)(pixels))


def choose(
    pictures: Sequence[Picture], variants: Sequence[str], *, real: int, synthetic: int
) -> list[tuple[str, Picture]]:
    """Pictures to observe, the first by hash of each source: real ones of unfamiliar families, synthetic, tampered."""
    familiar = familiar_families(pictures)
    taken: Counter[tuple[str, str]] = Counter()
    chosen = []
    for picture in sorted(pictures, key=lambda p: p.sha256):
        most = {"real": 0 if picture.family in familiar else real, "synthetic": synthetic}.get(
            picture.label, 10**6
        )
        if taken[picture.label, picture.source] < most:
            taken[picture.label, picture.source] += 1
            chosen.append(picture)
    return [
        (variant, picture)
        for variant in variants
        for picture in chosen
        if not variant.startswith("made") or picture.label == "real"
    ]


def others(
    pictures: Sequence[Picture], chosen: Sequence[tuple[str, Picture]], variants: Sequence[str]
) -> list[tuple[str, Picture]]:
    """The pictures that were not chosen, real and synthetic ones, by hash, in each variant."""
    taken = {picture.sha256 for _, picture in chosen}
    left = sorted((p for p in pictures if p.sha256 not in taken), key=lambda p: p.sha256)
    return [(variant, picture) for variant in variants for picture in left]


def donors_of(pictures: Sequence[Picture], folds: Sequence[int]) -> dict[str, list[Picture]]:
    """sha256 of a picture → real pictures of its fold."""
    by_fold: dict[int, list[Picture]] = {fold: [] for fold in set(folds)}
    for picture, fold in zip(pictures, folds, strict=True):
        if picture.label == "real":
            by_fold[fold].append(picture)
    return {picture.sha256: by_fold[fold] for picture, fold in zip(pictures, folds, strict=True)}


def observe(
    assistant: Assistant,
    jobs: Sequence[tuple[str, Picture]],
    donors: Mapping[str, Sequence[Picture]],
    file: Path,
) -> Iterator[str]:
    """Examine prepared pictures and append what the witnesses said; yields a progress line now and then.

    Args:
        assistant: with all its witnesses; its calibration does not matter.
        jobs: (variant, picture) pairs.
        donors: sha256 of a picture → real pictures that a forgery made from it may borrow from.
        file: JSON lines; pictures that it already holds are left out.
    """
    done = {(o.variant, o.sha256) for o in read_observations(file)}
    todo = [job for job in jobs if (job[0], job[1].sha256) not in done]
    settings = load_settings(sandbox=False)
    started = time.monotonic()
    for count, (variant, picture) in enumerate(todo, start=1):
        try:
            data = prepare(picture, variant, donors[picture.sha256], settings)
            report = assistant.examine(data, file=picture.path.name, for_text=False)
        except InputError as error:
            yield f"left out {error}"
            continue
        patches = report.look.patches if report.look is not None else {}
        line = {
            "variant": variant,
            "sha256": picture.sha256,
            "readings": {item.source: _reading(item) for item in report.evidence},
            "features": [_short(v) for v in gate_features(patches)] if patches else [],
            "failures": [failure.source for failure in report.failures],
        }
        append(file, [line])
        if count % 50 == 0 or count == len(todo):
            yield f"{count} of {len(todo)}, {count / (time.monotonic() - started):.2f} a second"


def again(
    name: str, pictures: Sequence[Picture], donors: Mapping[str, Sequence[Picture]], file: Path
) -> Iterator[str]:
    """Read one witness anew in the observations of a file, after it changed; goes on where it stopped.

    A network is read only where calibration may hear it: not of families that it may know.

    Args:
        name: of a signal, ``blending`` or ``mask``.
        pictures: that were observed, and more.
        donors: as for ``observe``.
        file: JSON lines, replaced as a whole at the end.

    Raises:
        SettingsError: there is no such witness, or an observed picture is missing.
    """
    settings = load_settings(sandbox=False)
    speak = _speaker(name, settings)
    familiar = familiar_families(pictures) if name in TRAINED_ONCE else set()
    by_hash = {picture.sha256: picture for picture in pictures}
    part = file.with_name(f"{name}-{file.name}")  # calibration reads all observed-*.jsonl
    rows, done = read_journal(file), len(read_journal(part))
    for count, row in enumerate(rows[done:], start=done + 1):
        picture = by_hash.get(row["sha256"])
        if picture is None:
            raise SettingsError(f"{row['sha256']} in {file} is no picture of the data")
        readings = row["readings"]
        heard = name not in TRAINED_ONCE or (
            not readings.keys().isdisjoint(TRAINED_ONCE)  # the networks were asked
            and is_unfamiliar(picture, familiar)
        )
        if heard:
            data = prepare(picture, row["variant"], donors[picture.sha256], settings)
            found = speak(open_case(data, file=picture.path.name, settings=settings))
            kept = {key: reading for key, reading in readings.items() if key != name}
            readings = kept | {item.source: _reading(item) for item in found}
        append(part, [row | {"readings": readings}])
        if count % 200 == 0 or count == len(rows):
            yield f"{file.name}: {count} of {len(rows)}"
    if rows:
        part.replace(file)


def _speaker(name: str, settings: Settings) -> Callable[[CaseImage], list[Evidence]]:
    """What one witness says of a picture."""
    from vlmforensics.signals import load_sources

    if name in TRAINED_ONCE:
        assistant = witnesses(settings, "networks")

        def heard(case: CaseImage) -> list[Evidence]:
            report = assistant.examine(case.data, file=case.file, for_text=False)
            return [item for item in report.evidence if item.source == name]

        return heard
    source = next((source for source in load_sources(settings) if source.name == name), None)
    if source is None:
        raise SettingsError(f"there is no evidence source {name!r}")
    return source.examine


def _reading(item: Evidence) -> list[object]:
    return [_short(item.score), [_short(value) for value in item.vector], item.code]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def read_observations(file: Path) -> list[Observation]:
    """Read what ``observe`` wrote; a torn last line is cut off."""
    found = []
    for row in read_journal(file):
        readings = {
            name: Reading(score, tuple(vector), code)
            for name, (score, vector, code) in row["readings"].items()
        }
        found.append(Observation(row["variant"], row["sha256"], readings, tuple(row["features"])))
    return found
