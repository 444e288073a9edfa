"""What the evidence rooms say of pictures, kept on disk: examining is the slow part of annotation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlmforensics import __version__
from vlmforensics.finetune.journal import append, read_journal
from vlmforensics.settings import Settings
from vlmforensics.types import Evidence

Examine = Callable[[Path], Sequence[Evidence]]
"""Path of a picture → what the evidence rooms say of it; raises ``InputError``."""


class Measurements:
    """Evidence by the digest of the picture.

    Args:
        examine: called for pictures that the file does not know.
        setup: names what examines; evidence of another setup is not taken from the file.
        file: JSON lines, or None to keep nothing.

    Raises:
        SettingsError: the file can't be read.
    """

    def __init__(self, examine: Examine, setup: str, file: Path | None = None) -> None:
        self._examine, self._setup, self._file = examine, setup, file
        self._known: dict[str, dict[str, Any]] = {}
        for row in read_journal(file) if file is not None else ():
            if row.get("setup") == setup:
                self._known[row["sha256"]] = row

    def of(self, path: Path, sha256: str) -> tuple[list[Evidence], tuple[str, ...]]:
        """Evidence (source, statement, score, code), and external detectors' sentences for a prompt.

        The sentences are those that the model gets in use: the blending detector's (weak-feature supplement).

        Raises:
            InputError: the picture can't be examined.
        """
        row = self._known.get(sha256)
        if row is None:
            evidence = self._examine(path)
            row = {
                "setup": self._setup,
                "sha256": sha256,
                "evidence": [
                    [
                        item.source,
                        item.statement,
                        None if item.score is None else float(item.score),
                        item.code,
                    ]
                    for item in evidence
                ],
                "hints": _hints(evidence),
            }
            self._known[sha256] = row
            if self._file is not None:
                append(self._file, [row])
        found = [
            Evidence(source, statement, score=score, code=code)
            for source, statement, score, code in row["evidence"]
        ]
        return found, tuple(row["hints"])


def measurements(
    model: str | None, settings: Settings, file: Path | None, *, signals_only: bool = False
) -> Measurements:
    """What measures: the whole assistant, or the local signals alone.

    Args:
        model: as for ``Assistant.load``.
        settings: of decoding and models.
        file: keeps what was measured.
        signals_only: no network is loaded, so the blending detector, the mask head and the model say nothing.
    """
    if signals_only:
        from vlmforensics.imaging import open_case
        from vlmforensics.signals import load_sources

        sources = load_sources(settings)

        def measure(path: Path) -> Sequence[Evidence]:
            case = open_case(path, settings=settings)
            return [item for source in sources for item in source.examine(case)]

        return Measurements(measure, f"signals {__version__}", file)
    from vlmforensics.assistant import Assistant

    assistant = Assistant.load(model, settings=settings)

    def examine(path: Path) -> Sequence[Evidence]:
        return assistant.examine(path, for_text=False).evidence

    return Measurements(examine, f"{assistant.model.weights_sha256} {__version__}", file)


def _hints(evidence: Sequence[Evidence]) -> list[str]:
    found = [item for item in evidence if item.source == "blending"]
    if not found:
        return []
    from vlmforensics.blending.finding import sentence  # the room loads torch, which the signals do without

    return [sentence(item) for item in found]
