"""Files and ZIP archives that a visitor dropped, as a batch's inputs; an archive can't fill memory or disk."""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmforensics.batch import Job
from vlmforensics.errors import InputError
from vlmforensics.report.text import printable
from vlmforensics.ui.language import ENGLISH, Words
from vlmforensics.ui.uploads import Upload

MIB = 1 << 20
_END, _END64 = b"PK\x05\x06", b"PK\x06\x07"
_CHUNK = 1 * MIB


@dataclass(frozen=True)
class Limits:
    """What a batch of the page takes.

    Attributes:
        files: pictures at most.
        entry: bytes of one picture, unpacked.
        total: bytes of all archives' pictures together, unpacked.
        directory: bytes of an archive's list of contents.
    """

    files: int = 500
    entry: int = 50 * MIB
    total: int = 2048 * MIB
    directory: int = 2 * MIB


def collect(
    uploads: Sequence[Upload], folder: Path, limits: Limits, t: Words = ENGLISH
) -> tuple[list[Job], list[str]]:
    """Turn uploads into jobs in ``folder``, which outlasts gradio's sweep of uploads; archives are unpacked there.

    Nothing in an archive becomes a path: its files are numbered, their names are labels. Folders, hidden files and
    what macOS adds are passed over in silence; everything else that is left out is named.

    Returns:
        The jobs, and one sentence for each file that was left out.
    """
    jobs: list[Job] = []
    left_out: list[str] = []
    budget = limits.total
    for upload in uploads:
        if len(jobs) >= limits.files:
            left_out.append(_full(upload.name, limits, t))
            continue
        if not _is_archive(upload.path):
            target = folder / f"{len(jobs):05d}"
            _link(upload.path, target)
            jobs.append(Job(_unlike(upload.name, jobs), str(target)))
            continue
        try:
            for name, item in _unpacked(upload, folder, limits, budget, len(jobs), t):
                if isinstance(item, str):
                    left_out.append(item)
                else:
                    budget -= item.stat().st_size
                    jobs.append(Job(_unlike(f"{upload.name}/{name}", jobs), str(item)))
        except (InputError, zipfile.BadZipFile, NotImplementedError, struct.error, OSError) as error:
            why = error.message if isinstance(error, InputError) else t("the archive is damaged")
            left_out.append(f"{upload.name}: {why}")
    return jobs, left_out


def _link(path: Path, target: Path) -> None:
    """Give a file a second name, which stays when the first is deleted; a copy where the disk is another."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def _unlike(label: str, jobs: Sequence[Job]) -> str:
    """The label, told apart from the others where two files have one name."""
    taken = {job.file for job in jobs}
    candidate, number = label, 1
    while candidate in taken:
        number += 1
        candidate = f"{label} ({number})"
    return candidate


def _full(name: str, limits: Limits, t: Words) -> str:
    return t(
        "{name}: left out, a batch on this page takes {most} pictures; the command line takes any number",
        name=printable(name, 200),
        most=limits.files,
    )


def _is_archive(path: Path) -> bool:
    """By its beginning: a picture with an archive at its end is a picture."""
    with path.open("rb") as stream:
        return stream.read(4) in (b"PK\x03\x04", _END)


def _check_directory(path: Path, limits: Limits, t: Words) -> None:
    """Refuse a list of contents that would fill the memory when read: its size stands in the last bytes."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 65_557 - 20))
        tail = stream.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + 22:
        raise InputError(t("the archive is damaged"))
    directory = struct.unpack("<I", tail[at + 12 : at + 16])[0]
    if _END64 in tail[max(0, at - 20) : at] or directory > limits.directory:
        raise InputError(
            t("the archive lists too many files for this page; use the command line on the folder")
        )


def _unpacked(
    upload: Upload, folder: Path, limits: Limits, budget: int, before: int, t: Words
) -> Iterator[tuple[str, Path | str]]:
    """Yield (name in the archive, the unpacked file or why it was left out)."""
    _check_directory(upload.path, limits, t)
    taken = before
    with zipfile.ZipFile(upload.path) as archive:
        for info in archive.infolist():
            parts = info.filename.replace("\\", "/").split("/")
            if info.is_dir() or "__MACOSX" in parts or parts[-1].startswith("."):
                continue
            name = printable(info.filename, 200)
            label = f"{upload.name}/{name}"
            if taken >= limits.files:
                yield name, _full(label, limits, t)
                return
            if info.flag_bits & 0x1:
                yield name, f"{label}: {t('left out, it is encrypted')}"
                continue
            target = folder / f"{taken:05d}"
            try:
                copied = _copy(archive, info, target, min(limits.entry, budget))
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
                target.unlink(missing_ok=True)
                yield name, f"{label}: {t('left out, it is damaged or packed by an unknown method')}"
                continue
            if copied is None:
                target.unlink(missing_ok=True)
                if budget < limits.entry:
                    raise InputError(
                        t("its files together are larger than this page unpacks; the rest was left out")
                    )
                most = limits.entry // MIB
                yield name, f"{label}: {t('left out, it unpacks to more than {most} MB', most=most)}"
                continue
            budget -= copied
            taken += 1
            yield name, target


def _copy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, most: int) -> int | None:
    """Unpack one file and return its size, or None once it exceeds ``most`` bytes, whatever its header says."""
    copied = 0
    with archive.open(info) as source, target.open("wb") as sink:
        while block := source.read(_CHUNK):
            copied += len(block)
            if copied > most:
                return None
            sink.write(block)
    return copied
