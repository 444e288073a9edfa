"""Other views of a batch file: masks as pictures, conversations as training data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmforensics.errors import SettingsError
from vlmforensics.report import replacing, write_atomically

QUESTION = "<image>Does the image looks real/fake?"
"""FakeClue's one question, its grammar included: it is part of the data."""
OPENINGS = {
    "real": "This is a real image.",
    "synthetic": "This is a fake image.",
    "tampered": "This is a fake image.",
}
_CITATION = re.compile(r"\s*\[E\d+(?:,\s*E\d+)*\]")


def read_records(records: Path) -> Iterator[dict[str, Any]]:
    """The records of a batch file, one at a time."""
    with records.open(encoding="ascii") as stream:
        for line in stream:
            yield json.loads(line)


def write_masks(records: Path, folder: Path) -> int:
    """Write each record's mask as ``SHA256.png`` (grey, 255 = suspected, size of the upright picture).

    Returns:
        How many masks there are; pictures without a suspected region have none.

    Raises:
        SettingsError: the folder can't be written to.
    """
    from vlmforensics.imaging import rle_decode, to_png

    count = 0
    make_folder(folder)
    for record in read_records(records):
        if record["mask"] is None:
            continue
        mask = rle_decode(record["mask"])
        if mask.any():
            count += 1
            write_atomically(folder / f"{record['sha256']}.png", to_png(mask.astype("uint8") * 255))
    return count


def write_conversations(records: Path, target: Path) -> int:
    """Write decided and explained records as FakeClue does: a JSON list of conversations.

    ``label`` is 1 for real and 0 for synthetic or tampered. It is this tool's verdict, not the truth: weigh it by
    ``probabilities``, and do not measure anything against it. Inconclusive and failed pictures are left out.

    Returns:
        How many conversations were written.

    Raises:
        SettingsError: the file can't be written.
    """
    count = 0
    with replacing(target) as stream:
        stream.write(b"[")
        for record in read_records(records):
            if record["verdict"] in OPENINGS and record["explanation"]:
                stream.write((b",\n" if count else b"\n") + json.dumps(conversation(record)).encode("ascii"))
                count += 1
        stream.write(b"\n]\n")
    return count


def conversation(record: Mapping[str, Any]) -> dict[str, Any]:
    """One record in FakeClue's layout; citations are dropped, for the list they point to is not there."""
    text = _CITATION.sub("", record["explanation"])
    return {
        "image": record["file"],
        "label": int(record["verdict"] == "real"),
        "cate": Path(record["file"]).parent.name or "unknown",
        "width": record["width"],
        "height": record["height"],
        "conversations": [
            {"from": "human", "value": QUESTION},
            {"from": "gpt", "value": f"{OPENINGS[record['verdict']]} {text}"},
        ],
        "sha256": record["sha256"],
        "verdict": record["verdict"],
        "probabilities": record["probabilities"],
    }


def make_folder(folder: Path) -> None:
    """Make a folder for output.

    Raises:
        SettingsError: that can't be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"can't make the folder {folder}: {error.strerror}") from error
