"""One digest for a folder of weights that somebody else made, remembered while its files don't change."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from vlmforensics.settings import Settings, load_settings
from vlmforensics.weights.fetch import sha256_of

SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")


def folder_digest(folder: Path, settings: Settings | None = None) -> str:
    """SHA-256 over names and digests of a checkpoint's files (weights, configuration, tokenizer, templates).

    Hashing 14 GB takes half a minute, so each file's digest is kept in the cache beside its size and
    modification time.
    """
    rows = "".join(f"{name}\0{entry[2]}\n" for name, entry in _entries(folder, settings).items())
    return hashlib.sha256(rows.encode()).hexdigest()


def _entries(folder: Path, settings: Settings | None) -> dict[str, list[object]]:
    """File name → size, modification time and SHA-256, in order of the names."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in SUFFIXES)
    store = _store(folder, settings)
    known = _read(store)
    fresh: dict[str, list[object]] = {}
    for path in files:
        info = path.stat()
        entry = known.get(path.name)
        if entry is None or entry[:2] != [info.st_size, info.st_mtime_ns]:
            entry = [info.st_size, info.st_mtime_ns, sha256_of(path)]
        fresh[path.name] = entry
    if fresh != known:
        _write(store, fresh)
    return fresh


def combine(*digests: str) -> str:
    """One SHA-256 hex digest that stands for several, in order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _store(folder: Path, settings: Settings | None) -> Path:
    cache = (settings or Settings()).cache
    root = cache if cache != Path() else load_settings().cache
    return root / "digests" / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]}.json"


def _read(path: Path) -> dict[str, list[object]]:
    try:
        return {
            str(name): list(entry) for name, entry in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(path: Path, entries: dict[str, list[object]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".digest-", delete=False) as stream:
            json.dump(entries, stream)
        Path(stream.name).replace(path)
    except OSError:
        return  # a read-only cache works too; the next load hashes again
