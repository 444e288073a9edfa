"""Settings: one frozen value, merged from defaults, a TOML file, ``VLMF_*`` variables and arguments, in that order.

Unknown keys are errors. The digest of the settings that can change a verdict goes into every record.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from platformdirs import user_cache_path

from vlmforensics.errors import SettingsError

MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """All settings, with units.

    Attributes:
        cache: folder for weights; ``VLMF_HOME`` overrides.
        offline: never touch the network; a needed download is an error.
        model: backbone name, checkpoint folder or ``http(s)://…/v1``.
        adapter: folder of a peft adapter that goes over the model, or None.
        quantize: of big local models: ``auto`` (4-bit where nothing else fits), ``none`` or ``nf4``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        threads: CPU threads of the networks; 0 = as torch chooses.
        alpha: bound on the share of real pictures called synthetic or tampered, in (0, 0.5).
        calibration: JSON file that replaces the shipped calibration, or None.
        seed: of every random choice.
        max_bytes, max_pixels, max_side, max_frames, max_aspect: limits checked before decoding.
        decode_seconds, decode_bytes: limits of the decoding process (wall seconds, stretched up to tenfold while a
            busy machine keeps it from having that much processor time; address space in bytes).
        sandbox: decode in a separate process.
        max_new_tokens: of an explanation or an answer.
        remote_enabled: pictures may be sent to a remote backbone.
        remote_seconds: a remote backbone's answer is waited for as long.
        remote_parallel: requests to a remote backbone that are under way at once.
        remote_samples: answers drawn from a remote backbone that tells no log-probabilities.
        allow_plugins: load third-party evidence sources from entry points.
    """

    cache: Path = Path()
    offline: bool = False
    model: str = "compact"
    adapter: Path | None = None
    quantize: str = "auto"
    device: str = "auto"
    threads: int = 0
    alpha: float = 0.01
    calibration: Path | None = None
    seed: int = 0
    max_bytes: int = 50 * MIB
    max_pixels: int = 100_000_000
    max_side: int = 20_000
    max_frames: int = 256
    max_aspect: float = 50.0
    decode_seconds: float = 30.0
    decode_bytes: int = 4096 * MIB
    sandbox: bool = True
    max_new_tokens: int = 160
    remote_enabled: bool = False
    remote_seconds: float = 120.0
    remote_parallel: int = 4
    remote_samples: int = 5
    allow_plugins: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise SettingsError(f"alpha must lie between 0 and 0.5, not {self.alpha}")
        if self.quantize not in {"auto", "none", "nf4"}:
            raise SettingsError(f"quantize must be auto, none or nf4, not {self.quantize!r}")
        for name in (
            "max_bytes", "max_pixels", "max_side", "max_frames", "decode_seconds", "max_new_tokens", "remote_seconds",
            "remote_parallel", "remote_samples",
        ):  # fmt: skip
            if getattr(self, name) <= 0:
                raise SettingsError(f"{name} must be positive, not {getattr(self, name)}")

    @property
    def sha256(self) -> str:
        """Digest of the settings that can change a verdict (limits, seed, alpha; not paths, device or threads).

        What ``model``, ``adapter`` and ``quantize`` lead to is in the record's model name, version and digests.
        """
        ignored = {
            "cache", "offline", "device", "threads", "calibration", "model", "adapter", "quantize", "remote_enabled",
            "remote_seconds", "remote_parallel", "remote_samples",
        }  # fmt: skip
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ignored}
        return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


_PARSERS: dict[str, Callable[[str], object]] = {
    "bool": lambda text: text.strip().lower() in {"1", "true", "yes", "on"},
    "int": int,
    "float": float,
    "str": str,
}


def _parse(name: str, type_name: str, value: object) -> object:
    """Convert ``value`` to the field's type; a value of another kind is an error, never coerced silently."""
    if type_name.startswith("Path"):
        return Path(str(value)).expanduser()
    try:
        if isinstance(value, str):
            return _PARSERS[type_name](value)
        if type_name == "float" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
    except ValueError as error:
        raise SettingsError(f"setting {name}: {value!r} is not a {type_name}") from error
    if type(value).__name__ != type_name:
        raise SettingsError(f"setting {name}: {value!r} is not a {type_name}")
    return value


_NO_SETTINGS = {"VLMF_HOME", "VLMF_REMOTE_KEY"}
"""The cache's folder, and the remote backbone's key, which is read where it is sent and kept nowhere."""


def remote_by_name(model: str | None) -> bool | None:
    """What a command's ``remote_enabled`` is: naming an address allows it, unless the environment says something."""
    named = model is not None and urlsplit(model).scheme in ("http", "https")
    return True if named and "VLMF_REMOTE_ENABLED" not in os.environ else None


def where_pictures_go(model: str) -> str:
    """The notice that pictures leave the machine for a remote model; empty for one that runs here."""
    address = urlsplit(model)
    if address.scheme not in ("http", "https"):
        return ""
    near = address.hostname in ("localhost", "127.0.0.1", "::1")
    return f"pictures are sent to {model}" + ("" if near or address.scheme == "https" else ", unencrypted")


def load_settings(
    file: Path | None = None, environ: Mapping[str, str] | None = None, **arguments: Any
) -> Settings:
    """Merge defaults, ``file`` (TOML), ``VLMF_NAME`` variables and arguments that are not None.

    Raises:
        SettingsError: unknown key, wrong type or value, unreadable file.
    """
    environ = os.environ if environ is None else environ
    types = {f.name: str(f.type) for f in fields(Settings)}
    merged: dict[str, object] = {}
    if file is not None:
        try:
            merged.update(tomllib.loads(file.read_text(encoding="utf-8")))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"can't read settings from {file}: {error}") from error
    for key, text in environ.items():
        if key.startswith("VLMF_") and key not in _NO_SETTINGS:
            merged[key.removeprefix("VLMF_").lower()] = text
    merged.update({key: value for key, value in arguments.items() if value is not None})
    unknown = sorted(set(merged) - set(types))
    if unknown:
        raise SettingsError(f"unknown setting {', '.join(unknown)}; known: {', '.join(sorted(types))}")
    values: dict[str, Any] = {name: _parse(name, types[name], value) for name, value in merged.items()}
    if "cache" not in values:
        home = environ.get("VLMF_HOME")
        values["cache"] = Path(home).expanduser() if home else user_cache_path("vlmforensics")
    return replace(Settings(), **values)
