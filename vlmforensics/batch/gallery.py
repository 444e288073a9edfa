"""A batch as a folder of pages: an overview with filters, and the full report of every picture.

No script and no request to anywhere; pictures are small copies written beside the pages. The most suspect come
first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlmforensics import imaging
from vlmforensics.batch.exports import make_folder, read_records
from vlmforensics.batch.inputs import Job, Key, jobs_of
from vlmforensics.errors import VlmForensicsError
from vlmforensics.report import record_to_html, write_atomically
from vlmforensics.report.gallery import PAGE, Card, index_page, page_name
from vlmforensics.settings import Settings
from vlmforensics.types import CaseImage

MOST = 10_000
"""Pictures in a gallery: more is no gallery. The most suspect are kept."""
_SIDE = 320


def write_gallery(
    records: Path, folder: Path, jobs: Iterable[Job], settings: Settings, *, most: int = MOST
) -> int:
    """Write ``index.html`` (``index-2.html`` …), ``pictures/`` and ``thumbs/``.

    Args:
        records: batch file.
        folder: made where it is missing; pages of an earlier gallery are replaced.
        jobs: where the pictures are; one that is gone or has changed is shown without picture.
        settings: limits of decoding.
        most: records shown.

    Returns:
        How many records are shown: a file that changed and was examined again has two.

    Raises:
        SettingsError: the folder can't be written to.
    """
    chosen, total = _chosen(records, most)
    where = jobs_of(jobs, set(chosen.values()))
    make_folder(folder / "pictures")
    make_folder(folder / "thumbs")
    rank = {line: place for place, line in enumerate(chosen)}
    cards: dict[int, Card] = {}
    for line, record in enumerate(read_records(records)):
        place = rank.get(line)
        if place is not None:
            cards[place] = _card(record, folder, place, where.get(chosen[line]), settings)
    shown = [cards[place] for place in sorted(cards)]
    pages = max(1, -(-len(shown) // PAGE))
    for page in range(pages):
        text = index_page(
            shown[page * PAGE : (page + 1) * PAGE], page=page, pages=pages, shown=len(shown), total=total
        )
        write_atomically(folder / page_name(page), text)
    return len(shown)


def _chosen(records: Path, most: int) -> tuple[dict[int, Key], int]:
    """Lines of the most suspect records in their order, each with its key, and how many records there are."""
    total = 0

    def keys() -> Iterable[tuple[float, str, int, str | None]]:
        nonlocal total
        for line, record in enumerate(read_records(records)):
            total += 1
            yield _suspicion(record), record["file"], line, record["sha256"]

    smallest = heapq.nsmallest(most, keys())
    return {line: (file, sha256) for _, file, line, sha256 in smallest}, total


def _suspicion(record: Mapping[str, Any]) -> float:
    """Sorts the most suspect first and failures last."""
    chances = record["probabilities"]
    return 2.0 if chances is None else float(chances["real"])


def _card(record: Mapping[str, Any], folder: Path, place: int, job: Job | None, settings: Settings) -> Card:
    name = f"{place:06d}"
    case = None if record["error"] is not None else _picture(record, job, settings)
    thumb = None
    if case is not None:
        small = imaging.to_jpeg_preview(case.upright, side=_SIDE)
        write_atomically(folder / "thumbs" / f"{name}.jpg", small)
        thumb = f"thumbs/{name}.jpg"
    page = None
    if record["error"] is None:
        write_atomically(folder / "pictures" / f"{name}.html", record_to_html(record, case))
        page = f"pictures/{name}.html"
    return Card.of(record, page, thumb)


def _picture(record: Mapping[str, Any], job: Job | None, settings: Settings) -> CaseImage | None:
    """The record's picture, if its bytes are the same."""
    if job is None:
        return None
    try:
        case = imaging.open_case(job.source(), file=job.file, settings=settings)
    except VlmForensicsError:
        return None
    return case if case.sha256 == record["sha256"] else None
