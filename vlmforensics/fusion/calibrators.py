"""Calibrators: one source's raw output → log-posteriors of the three labels under balanced priors.

Four kinds, each a frozen value that is read from and written to JSON:

- ``logistic``: one number; multinomial logistic on the standardised score, optionally with its square;
- ``isotonic``: one number; a monotone curve given by knots;
- ``vector``: several numbers; multinomial logistic on the standardised vector;
- ``table``: a categorical code; log-likelihood ratios given per code.

Scores beyond the range seen in calibration are held at its ends: a calibrator does not extrapolate.

References:
    Platt 1999 (logistic calibration); Zadrozny & Elkan 2002 (isotonic); Morrison 2013 (fusion of likelihood
    ratios).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from vlmforensics.errors import SettingsError
from vlmforensics.fusion.scale import Floats, llr_from_logits
from vlmforensics.fusion.strict import Node
from vlmforensics.types import LABELS, Evidence


class Calibrator(Protocol):
    """What every kind offers."""

    kind: ClassVar[str]

    def llr(self, evidence: Evidence, cap: float) -> Floats | None:
        """Log-likelihood ratios (3,), nats, or None where the evidence lacks what the calibrator reads."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Parameters as JSON values."""
        ...


@dataclass(frozen=True, eq=False)
class Logistic:
    """``bias + slope z + curve z²`` with ``z = (clip(score, low, high) − centre) / scale``.

    Attributes:
        centre, scale: standardisation, in the score's unit; scale > 0.
        low, high: range seen in calibration, in the score's unit.
        bias, slope, curve: (3,) each, order of ``types.LABELS``. ``curve`` is zero for the monotone form,
        whose
            log-odds between any two labels then rise or fall with the score throughout.
    """

    centre: float
    scale: float
    low: float
    high: float
    bias: Floats
    slope: Floats
    curve: Floats
    kind: ClassVar[str] = "logistic"

    def logits(self, scores: Floats) -> Floats:
        """Unnormalised log-posteriors (n, 3) for scores (n,)."""
        z = (np.clip(scores, self.low, self.high) - self.centre) / self.scale
        return self.bias + z[:, None] * self.slope + (z**2)[:, None] * self.curve

    def llr(self, evidence: Evidence, cap: float) -> Floats | None:
        """See ``Calibrator.llr``."""
        if evidence.score is None:
            return None
        return llr_from_logits(self.logits(np.array([evidence.score]))[0], cap)

    def to_json(self) -> dict[str, Any]:
        """See ``Calibrator.to_json``."""
        return {name: getattr(self, name) for name in _LOGISTIC_KEYS}

    @classmethod
    def from_json(cls, value: Any, where: str) -> Logistic:
        """Read and check."""
        node = Node(value, where, _LOGISTIC_KEYS)
        low, high = node.number("low"), node.number("high")
        if low > high:
            node.fail("low is above high")
        return cls(
            node.number("centre"), node.number("scale", 1e-300), low, high,
            node.array("bias", (3,)), node.array("slope", (3,)), node.array("curve", (3,)),
        )  # fmt: skip


_LOGISTIC_KEYS = ("centre", "scale", "low", "high", "bias", "slope", "curve")


@dataclass(frozen=True, eq=False)
class Isotonic:
    """Log-posteriors at knots, interpolated linearly between them and constant outside.

    Attributes:
        knots: (k,) scores, strictly increasing.
        log_posteriors: (k, 3).
    """

    knots: Floats
    log_posteriors: Floats
    kind: ClassVar[str] = "isotonic"

    def logits(self, scores: Floats) -> Floats:
        """Log-posteriors up to a constant, (n, 3), for scores (n,)."""
        return np.stack([np.interp(scores, self.knots, column) for column in self.log_posteriors.T], axis=1)

    def llr(self, evidence: Evidence, cap: float) -> Floats | None:
        """See ``Calibrator.llr``."""
        if evidence.score is None:
            return None
        return llr_from_logits(self.logits(np.array([evidence.score]))[0], cap)

    def to_json(self) -> dict[str, Any]:
        """See ``Calibrator.to_json``."""
        return {"knots": self.knots, "log_posteriors": self.log_posteriors}

    @classmethod
    def from_json(cls, value: Any, where: str) -> Isotonic:
        """Read and check."""
        node = Node(value, where, ("knots", "log_posteriors"))
        knots = node.array("knots", (None,))
        if (np.diff(knots) <= 0).any():
            node.fail("knots must increase strictly")
        return cls(knots, node.array("log_posteriors", (len(knots), 3)))


@dataclass(frozen=True, eq=False)
class Vector:
    """Multinomial logistic on a standardised vector.

    Attributes:
        centre, scale, low, high: (d,) each, as in ``Logistic``.
        bias: (3,).
        weights: (3, d).
    """

    centre: Floats
    scale: Floats
    low: Floats
    high: Floats
    bias: Floats
    weights: Floats
    kind: ClassVar[str] = "vector"

    def logits(self, vectors: Floats) -> Floats:
        """Unnormalised log-posteriors (n, 3) for vectors (n, d)."""
        z = (np.clip(vectors, self.low, self.high) - self.centre) / self.scale
        return np.asarray(self.bias + z @ self.weights.T)

    def llr(self, evidence: Evidence, cap: float) -> Floats | None:
        """See ``Calibrator.llr``.

        Raises:
            SettingsError: the vector's length is not the calibration's; they belong to different versions.
        """
        if not evidence.vector:
            return None
        if len(evidence.vector) != len(self.centre):
            raise SettingsError(
                f"source {evidence.source} gives {len(evidence.vector)} numbers, its calibration expects "
                f"{len(self.centre)}: calibration and source belong to different versions",
                code="settings.calibration",
            )
        return llr_from_logits(self.logits(np.array([evidence.vector]))[0], cap)

    def to_json(self) -> dict[str, Any]:
        """See ``Calibrator.to_json``."""
        return {name: getattr(self, name) for name in _VECTOR_KEYS}

    @classmethod
    def from_json(cls, value: Any, where: str) -> Vector:
        """Read and check."""
        node = Node(value, where, _VECTOR_KEYS)
        centre = node.array("centre", (None,))
        d = len(centre)
        scale, low, high = node.array("scale", (d,)), node.array("low", (d,)), node.array("high", (d,))
        if (scale <= 0).any() or (low > high).any():
            node.fail("scales must be positive and low not above high")
        return cls(centre, scale, low, high, node.array("bias", (3,)), node.array("weights", (3, d)))


_VECTOR_KEYS = ("centre", "scale", "low", "high", "bias", "weights")


@dataclass(frozen=True, eq=False)
class Table:
    """Log-likelihood ratios per categorical outcome.

    Attributes:
        rows: code → (3,) llr, nats.
        counts: code → (3,) numbers of pictures behind the row; empty where the row was set from domain
            knowledge.
        basis: where the ratios come from, one sentence.
    """

    rows: Mapping[str, Floats]
    counts: Mapping[str, Floats]
    basis: str
    kind: ClassVar[str] = "table"

    def llr(self, evidence: Evidence, cap: float) -> Floats | None:
        """See ``Calibrator.llr``; an unknown code is not calibrated."""
        row = self.rows.get(evidence.code)
        return None if row is None else np.clip(row, -cap, cap)

    def to_json(self) -> dict[str, Any]:
        """See ``Calibrator.to_json``."""
        record: dict[str, Any] = {"basis": self.basis, "rows": {}}
        for code, row in self.rows.items():
            record["rows"][code] = {"llr": dict(zip(LABELS, row.tolist(), strict=True))}
            if code in self.counts:
                counts = (int(count) for count in self.counts[code])
                record["rows"][code]["counts"] = dict(zip(LABELS, counts, strict=True))
        return record

    @classmethod
    def from_json(cls, value: Any, where: str) -> Table:
        """Read and check."""
        node = Node(value, where, ("basis", "rows"))
        rows, counts = {}, {}
        table = node.value["rows"]
        if not isinstance(table, Mapping) or not table:
            node.fail("rows must be an object with at least one code")
        for code, entry in table.items():
            row = Node(entry, f"{where}.rows.{code}", ("llr",), ("counts",))
            rows[str(code)] = row.label_array("llr")
            if "counts" in row.value:
                inner = row.by_label("counts")
                counts[str(code)] = np.array([float(inner.count(label)) for label in LABELS])
        return cls(rows, counts, node.text("basis"))


KINDS: Mapping[str, type[Logistic] | type[Isotonic] | type[Vector] | type[Table]] = {
    cls.kind: cls for cls in (Logistic, Isotonic, Vector, Table)
}
