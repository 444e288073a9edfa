"""The frozen numbers of fusion, read from JSON: calibrators, weights, prior, conformal scores, levels."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from vlmforensics.errors import SettingsError
from vlmforensics.fusion.calibrators import KINDS, Calibrator
from vlmforensics.fusion.conformal import LabelScores
from vlmforensics.fusion.gates import DistanceGate
from vlmforensics.fusion.scale import Floats, as_map
from vlmforensics.fusion.strict import Node, rounded
from vlmforensics.types import LABELS, Reliability

SCHEMA = "vlmforensics.calibration/1"
DEFAULT_FILE = "compact/data/calibration.json"
MAX_BYTES = 16 << 20


class Guarantee(NamedTuple):
    """What is promised about accusations of real pictures, and in which words.

    Attributes:
        alpha: requested bound on the share of real pictures called synthetic or tampered.
        n, groups: real calibration pictures and the groups they come from.
        possible: False where n is too small for this alpha, so that no picture is ever accused.
        upper: 95 % confidence bound on the accusation rate given these very calibration pictures.
        sentence: all of that for the reader.
    """

    alpha: float
    n: int
    groups: int
    possible: bool
    upper: float
    sentence: str


@dataclass(frozen=True, eq=False)
class SourceCalibration:
    """How one source is read and how much it counts.

    Attributes:
        calibrator: raw output → llr.
        weight: (3,) factors ≥ 0 on the llr of each label in fusion: a source may be worth much for one question and
            little for another. A file may give one number for all.
        cap: largest |llr|, nats (``scale.cap_for`` of the rarest label's count, or as declared for a fixed
            table).
        reach: (3,) nats, the furthest that this source spoke in a picture's favour in calibration: its largest llr
            for *real*, its smallest for the others. A file may give one number, for *real*.
        provenance: True where it reads the file around the pixels, so that gates about pixels do not
            concern it.
        fixed: True where the ratios were declared, not fitted; its weight is then not fitted either.
        counts: label → number of calibration pictures in which it spoke.
        task: what its reliability is about, e.g. ``real against the rest``.
        reliability: balanced accuracy of its sign on that task, or None.
    """

    calibrator: Calibrator
    weight: Floats
    cap: float
    reach: Floats
    provenance: bool
    fixed: bool
    counts: Mapping[str, int]
    task: str
    reliability: Reliability | None

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        quality = self.reliability
        return {
            "kind": self.calibrator.kind, "weight": as_map(self.weight), "cap": self.cap, "reach": as_map(self.reach),
            "provenance": self.provenance, "fixed": self.fixed,
            "counts": dict(self.counts), "task": self.task,
            "parameters": self.calibrator.to_json(),
            "reliability": None if quality is None else {
                "balanced_accuracy": quality.balanced_accuracy,
                "low": quality.low, "high": quality.high, "n": quality.n,
            },
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Any, where: str) -> SourceCalibration:
        """Read and check."""
        keys = (
            "kind",
            "weight",
            "cap",
            "reach",
            "provenance",
            "fixed",
            "counts",
            "task",
            "parameters",
            "reliability",
        )
        node = Node(value, where, keys)
        kind = node.text("kind")
        if kind not in KINDS:
            node.fail(f"kind {kind!r} is not one of {', '.join(sorted(KINDS))}")
        counts = node.by_label("counts")
        quality = None
        if node.value["reliability"] is not None:
            inner = Node(
                node.value["reliability"], f"{where}.reliability", ("balanced_accuracy", "low", "high", "n")
            )
            share, low, high = (inner.number(key, 0, 1) for key in ("balanced_accuracy", "low", "high"))
            quality = Reliability(share, low, high, inner.count("n"))
        return cls(
            calibrator=KINDS[kind].from_json(node.value["parameters"], f"{where}.parameters"),
            weight=node.label_array("weight", 0)
            if isinstance(node.value["weight"], Mapping)
            else np.full(3, node.number("weight", 0)),
            cap=node.number("cap", 0),
            reach=node.label_array("reach")
            if isinstance(node.value["reach"], Mapping)
            else np.array([node.number("reach", 0), 0.0, 0.0]),
            provenance=node.flag("provenance"),
            fixed=node.flag("fixed"),
            counts=MappingProxyType({label: counts.count(label) for label in LABELS}),
            task=node.text("task"),
            reliability=quality,
        )


@dataclass(frozen=True, eq=False)
class Calibration:
    """Everything that turns evidence into a verdict. Frozen; equal content has equal ``sha256``.

    Attributes:
        prior: (3,) log-odds before evidence, summing to 0.
        sources: source name → how it is read.
        conformal: label → calibration scores.
        levels: label → miss level; a label is excluded where its p-value is at most its level. ``real`` has
            none: its level is alpha, chosen at run time.
        margin: log-odds by which synthetic and tampered must differ to be told apart where both remain;
            nats ≥ 0.
        distance: gate for pictures far from calibration, or None.
        quality: figures of the fit for the model card (expected calibration error, log loss …); not used in
            judging.
        origin: seed, counts and notes of the fit; not used in judging.
    """

    prior: Floats
    sources: Mapping[str, SourceCalibration]
    conformal: Mapping[str, LabelScores]
    levels: Mapping[str, float]
    margin: float
    distance: DistanceGate | None = None
    quality: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Calibration:
        """Read a calibration file; None reads the shipped one.

        Raises:
            SettingsError: unreadable, not JSON, another schema, an unknown key or a number out of place.
        """
        if path is None:
            return cls.default()
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise SettingsError(f"can't read the calibration {path}: {error.strerror or error}") from error
        return cls._parse(data, str(path))

    @classmethod
    def default(cls) -> Calibration:
        """The calibration shipped with the compact model."""
        shipped = resources.files("vlmforensics") / DEFAULT_FILE
        try:
            return cls._parse(shipped.read_bytes(), DEFAULT_FILE)
        except OSError as error:
            raise SettingsError(
                f"the shipped calibration {DEFAULT_FILE} is missing: reinstall vlmforensics or name a "
                "calibration file"
            ) from error

    @classmethod
    def _parse(cls, data: bytes, name: str) -> Calibration:
        if len(data) > MAX_BYTES:
            raise SettingsError(
                f"calibration {name} is over {MAX_BYTES >> 20} MiB", code="settings.calibration"
            )
        try:
            record = json.loads(
                data.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys
            )
        except (UnicodeDecodeError, ValueError, RecursionError) as error:
            message = f"calibration {name} is not valid JSON: {error}"
            raise SettingsError(message, code="settings.calibration") from error
        return cls.from_json(record)

    @classmethod
    def from_json(cls, record: Any) -> Calibration:
        """Read and check the parsed file.

        Raises:
            SettingsError: see ``load``.
        """
        top = Node(
            record, "top level",
            ("schema", "labels", "prior", "sources", "conformal", "decision", "distance", "quality",
            "origin"),
        )  # fmt: skip
        if top.value["schema"] != SCHEMA or top.value["labels"] != list(LABELS):
            top.fail(f"schema must be {SCHEMA} with labels {', '.join(LABELS)}, not {top.value['schema']!r}")
        decision = Node(top.value["decision"], "decision", ("levels", "margin"))
        levels = decision.by_label("levels", LABELS[1:])
        conformal = top.by_label("conformal")
        sources = Node(top.value["sources"], "sources", (), optional=_keys(top.value["sources"]))
        quality, origin = top.value["quality"], top.value["origin"]
        if not isinstance(quality, Mapping) or not isinstance(origin, Mapping):
            top.fail("quality and origin must be objects")
        gate = top.value["distance"]
        return cls(
            prior=top.label_array("prior"),
            sources=MappingProxyType(
                {k: SourceCalibration.from_json(v, f"sources.{k}") for k, v in sorted(sources.value.items())}
            ),
            conformal=MappingProxyType(
                {
                    label: LabelScores.from_json(conformal.value[label], f"conformal.{label}")
                    for label in LABELS
                }
            ),
            levels=MappingProxyType({label: levels.number(label, 0, 0.5) for label in LABELS[1:]}),
            margin=decision.number("margin", 0),
            distance=None if gate is None else DistanceGate.from_json(gate, "distance"),
            quality=MappingProxyType(dict(quality)),
            origin=MappingProxyType(dict(origin)),
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values, floats at ten significant digits."""
        record: dict[str, Any] = rounded({
            "schema": SCHEMA,
            "labels": list(LABELS),
            "prior": dict(zip(LABELS, self.prior.tolist(), strict=True)),
            "sources": {name: source.to_json() for name, source in self.sources.items()},
            "conformal": {label: scores.to_json() for label, scores in self.conformal.items()},
            "decision": {"levels": self.levels, "margin": self.margin},
            "distance": None if self.distance is None else self.distance.to_json(),
            "quality": self.quality,
            "origin": self.origin,
        })  # fmt: skip
        return record

    @cached_property
    def canonical(self) -> bytes:
        """The file's bytes as ``save`` writes them: keys sorted, no line breaks but the last."""
        return (
            json.dumps(self.to_json(), sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
        ).encode()

    @cached_property
    def sha256(self) -> str:
        """Lower-case hex digest of ``canonical``."""
        return hashlib.sha256(self.canonical).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the file (replaced in one step, so that no reader sees half of it)."""
        target = Path(path)
        part = target.with_name(target.name + ".part")
        part.write_bytes(self.canonical)
        part.replace(target)

    def guarantee(self, alpha: float) -> Guarantee:
        """What is promised about real pictures at this alpha."""
        real = self.conformal["real"]
        share = f"{alpha:.3g}" if alpha < 0.001 else f"{100 * alpha:.3g} %"
        if alpha * (real.n + 1) < 1 - 1e-9:
            needed = math.ceil(1 / alpha - 1 - 1e-9)
            sentence = (
                f"A bound of {share} needs at least {needed} real calibration pictures; there are {real.n}, "
                "so no picture is called synthetic or tampered."
            )
            return Guarantee(alpha, real.n, real.groups, False, 0.0, sentence)
        upper = real.upper_bound(alpha)
        sentence = (
            f"At most {share} of real pictures like the {real.n} calibration pictures (from "
            f"{real.groups} sources) are "
            f"called synthetic or tampered, on average over calibrations; for this calibration the rate "
            "is below "
            f"{100 * upper:.2g} % with 95 % confidence (Clopper–Pearson)."
        )
        return Guarantee(alpha, real.n, real.groups, True, upper, sentence)


def _keys(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, Mapping) else ()


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key appears twice")
    return record


def zero_sum(values: Floats) -> Floats:
    """Shift three log-odds so that they sum to zero; probabilities do not change."""
    return np.asarray(values - values.mean())
