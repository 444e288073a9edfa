"""The batch file itself as ledger: JSON lines, each appended whole and flushed to the disk.

A torn last line (the process was killed while writing it) is cut off when the file is opened again; its
picture is then simply not recorded yet. A picture counts as recorded where a line has its name and the
SHA-256 that its bytes have now. Records of other weights, another calibration or other settings are never
mixed into one file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from vlmforensics.errors import SettingsError
from vlmforensics.report.record import SCHEMA_ID, to_json

_DIGESTS = ("name", "version", "weights_sha256", "calibration_sha256", "settings_sha256")


class Ledger:
    """An open batch file; use it in a ``with`` statement.

    Args:
        path: the JSONL file.
        resume: continue an existing file; False refuses one that exists and is not empty.
        overwrite: throw an existing file's contents away.

    Attributes:
        path: as given.
        failed: number of error records in the file, old and new.
        count: number of records in the file.

    Raises:
        SettingsError: the file can't be written, holds something else than records, exists without
            ``resume``, or is being written by another process.
    """

    def __init__(self, path: Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path = path
        self.failed = 0
        self.count = 0
        self._recorded: set[bytes] = set()
        self._names: set[bytes] = set()
        self._places: dict[bytes, int] = {}
        self._end = 0
        self._model: dict[str, Any] | None = None
        try:
            # unbuffered: what a full disk refused must not be tried again when the file is closed
            self._stream: IO[bytes] = path.open("ab+", buffering=0)
        except OSError as error:
            raise SettingsError(f"can't write to {path}: {error.strerror}") from error
        try:
            _lock(self._stream, path)
            if overwrite:
                self._stream.truncate(0)
            elif path.stat().st_size and not resume:
                raise SettingsError(
                    f"{path} exists: give --resume to continue it, --overwrite to replace it, or another name"
                )
            else:
                self._read()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; every record was already on the disk."""
        self._stream.close()

    def knows(self, file: str) -> bool:
        """True where some record bears this name, whatever bytes it was about (cheap: ask before hashing)."""
        return _key(file) in self._names

    def has(self, file: str, sha256: str | None) -> bool:
        """True where this very picture is recorded: same name, same bytes (None: unreadable then and now)."""
        return _key(file, sha256) in self._recorded

    def holds(self, sha256: str) -> bool:
        """True where some record is about these bytes, under whatever name."""
        return bytes.fromhex(sha256) in self._places

    def of_bytes(self, sha256: str) -> dict[str, Any] | None:
        """The first record about these bytes, read from the file; None where there is none."""
        place = self._places.get(bytes.fromhex(sha256))
        if place is None:
            return None
        with self.path.open("rb") as stream:
            stream.seek(place)
            record: dict[str, Any] = json.loads(stream.readline())
        return record

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record and flush it to the disk.

        Raises:
            SettingsError: it was made with other weights, calibration or settings than the file's; or the
                disk is full.
        """
        self._check_model(record["model"], f"{self.path} was made with other weights or settings")
        line = to_json(record).encode("ascii") + b"\n"
        try:
            written = 0
            while written < len(line):
                written += os.write(self._stream.fileno(), line[written:])
            os.fsync(self._stream.fileno())
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._stream.fileno(), self._end)
            raise SettingsError(
                f"can't write to {self.path}: {error.strerror}; the {self.count} records in it are whole, and "
                "the same command with --resume goes on from there"
            ) from error
        self._note(record, self._end)
        self._end += len(line)

    def replace(self, records: Mapping[tuple[str, str | None], Mapping[str, Any]]) -> None:
        """Put records in the place of those with the same name and bytes; the file changes at once or not at all.

        Raises:
            SettingsError: there is no room for the new file beside the old one.
        """
        part = self.path.with_name(f".{self.path.name}.part")
        try:
            with self.path.open("rb") as old, part.open("wb") as new:
                for line in old:
                    record = json.loads(line)
                    better = records.get((record["file"], record["sha256"]))
                    new.write(line if better is None else to_json(better).encode("ascii") + b"\n")
                new.flush()
                os.fsync(new.fileno())
            part.replace(self.path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise SettingsError(f"can't write {part}: {error.strerror}") from error
        self._stream.close()
        self._stream = self.path.open("ab+", buffering=0)
        _lock(self._stream, self.path)
        self._places.clear()
        self._read(notes=False)

    def _read(self, *, notes: bool = True) -> None:
        """Cut a torn last line, then learn what is recorded (``notes`` False: only where each record lies)."""
        with self.path.open("rb") as stream:
            kept = self._read_lines(stream, notes=notes)
        self._stream.truncate(kept)
        self._end = kept

    def _read_lines(self, stream: IO[bytes], *, notes: bool) -> int:
        kept = 0
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                break
            place, kept = kept, kept + len(line)
            try:
                record = json.loads(line)
                if record["schema"] != SCHEMA_ID:
                    raise ValueError(record["schema"])
                self._check_model(
                    record["model"], f"line {number} of {self.path} was made with other weights"
                )
                if notes:
                    self._note(record, place)
                elif record["sha256"] is not None:
                    self._places.setdefault(bytes.fromhex(record["sha256"]), place)
            except (ValueError, KeyError, TypeError) as error:
                raise SettingsError(
                    f"line {number} of {self.path} is not a batch record; choose another file"
                ) from error
        return kept

    def _check_model(self, model: Mapping[str, Any], complaint: str) -> None:
        digests = {key: model.get(key) for key in _DIGESTS}
        if self._model is None:
            self._model = digests
        elif digests != self._model:
            other = ", ".join(key for key in _DIGESTS if digests[key] != self._model[key])
            raise SettingsError(f"{complaint} ({other} differ): write to another file, or give --overwrite")

    def _note(self, record: Mapping[str, Any], place: int) -> None:
        self._recorded.add(_key(record["file"], record["sha256"]))
        self._names.add(_key(record["file"]))
        if record["sha256"] is not None:
            self._places.setdefault(bytes.fromhex(record["sha256"]), place)
        self.count += 1
        self.failed += record["error"] is not None


def _key(file: str, sha256: str | None = "") -> bytes:
    """Sixteen bytes that stand for a name, or a name with its bytes: millions of them fit in memory."""
    text = f"{file}\0{sha256}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def file_digest(path: str | Path) -> str | None:
    """SHA-256 (hex) of a regular file's bytes, or None where it can't be read (or is no regular file)."""
    try:
        if not Path(path).is_file():
            return None
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def _lock(stream: IO[bytes], path: Path) -> None:
    """Keep a second process from writing to the same file; where the system has no such lock, do without."""
    try:
        import fcntl
    except ModuleNotFoundError:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SettingsError(f"{path} is being written by another process") from error
    except OSError:
        return  # a file system without locks
