"""Which pictures a batch examines, and where the bytes of each one lie.

Files, folders, globs, lists, manifests and tar shards all become jobs. In a folder nothing is chosen by name
or ending: a text file called ``.jpg`` is an input and gets its error record.
"""

from __future__ import annotations

import base64
import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from vlmforensics.batch.containers import Cell, Slice, read_part
from vlmforensics.errors import SettingsError, UnreadableFile
from vlmforensics.report.ledger import file_digest

STDIN = "-"
TAR = ".tar"
MANIFESTS = (".csv", ".jsonl", ".parquet")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

Key = tuple[str, str | None]
"""Label and SHA-256 of an input or a record: two tables may give different pictures the same label."""


@dataclass(frozen=True)
class Job:
    """One input.

    Attributes:
        file: its label in the record: the path as given or found, ``SHARD::MEMBER`` or ``MANIFEST::ROW``.
        path: opens it, or the file that it lies in.
        part: where in ``path`` its bytes lie, or None where they are the whole file.
        data: its bytes, where a text manifest carried them.
        sha256: digest of its bytes once they were hashed, else None.
        twin: the same bytes came before under another name and are not examined again.
        trouble: why there is nothing to open: a shard or manifest that broke off.
    """

    file: str
    path: str
    part: Slice | Cell | None = None
    data: bytes | None = None
    sha256: str | None = None
    twin: bool = False
    trouble: str | None = None

    @property
    def key(self) -> Key:
        """What the job's record is found by, once its bytes were hashed."""
        return self.file, self.sha256

    def source(self) -> str | bytes:
        """What opens it: its path, or its bytes where they are part of another file.

        Raises:
            UnreadableFile: the file around it can't be read.
        """
        if self.trouble is not None:
            raise UnreadableFile(self.trouble)
        if self.data is not None:
            return self.data
        if self.part is None:
            return self.path
        try:
            return read_part(self.path, self.part)
        except OSError as error:
            raise UnreadableFile(f"{self.path} can't be read: {error.strerror or error}") from error

    def hashed(self) -> Job:
        """The same job with the digest of its bytes; None there where they can't be read."""
        if self.sha256 is not None or self.trouble is not None:
            return self
        if self.data is None and self.part is None:
            return replace(self, sha256=file_digest(self.path))
        try:
            data = self.source()
        except UnreadableFile:
            return self
        return replace(self, sha256=hashlib.sha256(os.fsencode(data)).hexdigest())

    def to_json(self) -> str:
        """One ASCII line; any file name survives, UTF-8 or not."""
        fields = {key: value for key, value in asdict(self).items() if value is not None}
        if self.data is not None:
            fields["data"] = base64.b64encode(self.data).decode("ascii")
        if self.part is not None:
            fields["part"] = list(asdict(self.part).values())
        return json.dumps(fields, ensure_ascii=True)

    @classmethod
    def from_json(cls, line: str | bytes) -> Job:
        """The job that :meth:`to_json` wrote."""
        fields = json.loads(line)
        if "data" in fields:
            fields["data"] = base64.b64decode(fields["data"])
        if "part" in fields:
            kind = Slice if len(fields["part"]) == 2 else Cell
            fields["part"] = kind(*fields["part"])
        return cls(**fields)


class Inputs:
    """The jobs of a batch, read lazily each time it is walked: memory does not grow with their number.

    Files come in the order given, folders are walked in byte order of names. Symbolic links are followed, each
    folder once, so that loops end. A folder that can't be read becomes an input itself, and so an error record,
    rather than a silent gap.

    Named files that end in ``.csv``, ``.jsonl`` or ``.parquet`` are manifests, in ``.tar`` shards; a name that
    does not exist and holds ``*``, ``?`` or ``[`` is a pattern (``**`` walks folders); ``-`` reads names from
    standard input, one a line, or ended by NUL as ``find -print0`` does.

    Args:
        named: what the user named.
        exclude: files and folders that are not inputs wherever they lie (the output).
        column: of a manifest, that holds the path or the bytes; None looks for a usual name.
        stdin: what ``-`` reads.

    Raises:
        SettingsError: something named does not exist, a pattern without a match, a manifest without a usable
            column, a compressed shard.
    """

    def __init__(
        self,
        named: Sequence[str | Path],
        *,
        exclude: Sequence[Path] = (),
        column: str | None = None,
        stdin: IO[bytes] | None = None,
    ) -> None:
        self._left_out = {Path(path).resolve() for path in exclude}
        self._column = column
        self._spool = _spooled(stdin) if STDIN in map(str, named) and stdin is not None else None
        self._named = [name for given in named for name in self._expanded(str(given))]
        for name in self._named:
            self._check(name)

    def __iter__(self) -> Iterator[Job]:
        seen: set[tuple[int, int]] = set()
        for name in self._named:
            if name == STDIN:
                for line in self._lines():
                    yield from self._of(line, seen, listed=True)
            else:
                yield from self._of(name, seen)

    def count(self) -> int:
        """How many jobs there are; walks everything once, opens no picture."""
        return sum(1 for _ in self)

    def _expanded(self, name: str) -> Iterable[str]:
        if name == STDIN and self._spool is not None:
            return [name]
        if os.path.lexists(name) or not glob.has_magic(name):
            return [name]
        found = sorted(glob.glob(name, recursive=True), key=os.fsencode)  # noqa: PTH207 - absolute patterns too
        if not found:
            raise SettingsError(f"nothing matches {name}")
        return found

    def _check(self, name: str) -> None:
        from vlmforensics.batch import manifests

        if name == STDIN and self._spool is not None:
            return
        if not Path(name).exists():
            raise SettingsError(f"{name} does not exist")
        if name.lower().endswith(_COMPRESSED):
            raise SettingsError(
                f"{name} is compressed, so that a picture in it can't be read by itself: unpack it first, "
                "or store it as plain .tar (pictures do not get smaller by compression)"
            )
        if Path(name).suffix.lower() in MANIFESTS and Path(name).is_file():
            manifests.check(Path(name), self._column)

    def _of(self, name: str, seen: set[tuple[int, int]], *, listed: bool = False) -> Iterator[Job]:
        from vlmforensics.batch import containers, manifests

        path = Path(name)
        suffix = path.suffix.lower()
        if path.is_dir():
            for found in _walk(path, seen):
                if not self._is_output(found):
                    yield Job(str(found), str(found.absolute()))
        elif self._is_output(path):
            return
        elif (suffix == TAR or suffix in MANIFESTS) and not listed:
            try:
                if suffix == TAR:
                    for member, part in containers.tar_members(path):
                        yield Job(f"{path}::{member}", str(path.absolute()), part)
                    return
                for row in manifests.rows(path, self._column):
                    where = str((path.parent / row.path).absolute()) if row.path else str(path.absolute())
                    yield Job(row.label, where, row.part, row.data)
            except SettingsError as error:
                # what came before it is examined; that the rest is missing must not go unnoticed
                yield Job(str(path), str(path.absolute()), trouble=error.message)
        else:
            yield Job(str(path), str(path.absolute()))

    def _is_output(self, path: Path) -> bool:
        """True for what is left out, and for all that lies in a folder that is."""
        if not self._left_out:
            return False
        try:
            resolved = path.resolve()
        except (OSError, RuntimeError):
            return False  # a link loop: certainly not the output
        return resolved in self._left_out or not self._left_out.isdisjoint(resolved.parents)

    def _lines(self) -> Iterator[str]:
        if self._spool is None:
            return
        with Path(self._spool.name).open("rb") as listed:
            nul = b"\0" in listed.read(1 << 16)
            listed.seek(0)
            for line in _split(listed) if nul else listed:
                name = os.fsdecode(line if nul else line.rstrip(b"\r\n"))
                if name:
                    yield name


def jobs_of(jobs: Iterable[Job], keys: Collection[Key]) -> dict[Key, Job]:
    """The jobs of some records, hashed; no file is read whose label none of them has."""
    labels = {file for file, _ in keys}
    hashed = (job.hashed() for job in jobs if job.file in labels)
    return {job.key: job for job in hashed if job.key in keys}


def _spooled(stdin: IO[bytes]) -> Any:
    """Standard input as a file that can be read several times; gone with the object."""
    spool = tempfile.NamedTemporaryFile(prefix="vlmforensics-list-")  # noqa: SIM115 - lives as long as the inputs
    while block := stdin.read(1 << 20):
        spool.write(block)
    spool.flush()
    return spool


def _split(listed: IO[bytes]) -> Iterator[bytes]:
    """Names ended by NUL."""
    rest = b""
    while block := listed.read(1 << 20):
        *whole, rest = (rest + block).split(b"\0")
        yield from whole
    yield rest


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError:
        yield folder
        return
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        try:
            if entry.is_dir():
                yield from _walk(path, seen)
            elif entry.is_file():
                yield path
        except OSError:
            yield path  # a link loop or a vanished target: its record says so
