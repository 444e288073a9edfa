"""Reading JSON without goodwill: every key known, every number finite and of the right kind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from vlmforensics.errors import SettingsError
from vlmforensics.fusion.scale import Floats
from vlmforensics.types import LABELS


class Node:
    """One JSON object and where it stands, so that errors can name the place.

    Args:
        value: the parsed JSON value; anything but an object is an error.
        where: dotted path for messages.
        required, optional: the keys it must and may have; any other key is an error.

    Raises:
        SettingsError: not an object, a key missing or unknown. So do all readers for a value of the wrong
            kind.
    """

    def __init__(self, value: Any, where: str, required: Iterable[str], optional: Iterable[str] = ()) -> None:
        self.where = where
        if not isinstance(value, Mapping):
            self.fail(f"must be an object, not {type(value).__name__}")
        self.value: Mapping[str, Any] = value
        required = set(required)
        missing, unknown = sorted(required - set(value)), sorted(set(value) - required - set(optional))
        if missing or unknown:
            self.fail(f"missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")

    def fail(self, problem: str) -> NoReturn:
        """Raise with the place in the message."""
        raise SettingsError(f"calibration, {self.where}: {problem}", code="settings.calibration")

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number in [low, high]."""
        value = self.value[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.fail(f"{key} must be a finite number, not {value!r}")
        if not low <= value <= high:
            self.fail(f"{key} must lie in [{low}, {high}], not {value}")
        return float(value)

    def count(self, key: str) -> int:
        """A whole number ≥ 0."""
        value = self.value[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self.fail(f"{key} must be a whole number ≥ 0, not {value!r}")
        return int(value)

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.value[key]
        if not isinstance(value, bool):
            self.fail(f"{key} must be true or false, not {value!r}")
        return bool(value)

    def text(self, key: str) -> str:
        """A string."""
        value = self.value[key]
        if not isinstance(value, str):
            self.fail(f"{key} must be a string, not {value!r}")
        return str(value)

    def array(self, key: str, shape: tuple[int | None, ...]) -> Floats:
        """A finite float64 array of this shape; None stands for any length ≥ 1."""
        try:
            array = np.asarray(self.value[key], dtype=np.float64)
        except (TypeError, ValueError):
            self.fail(f"{key} must be a list of numbers of equal lengths")
        fits = array.ndim == len(shape) and all(
            size > 0 and want in (None, size) for size, want in zip(array.shape, shape, strict=True)
        )
        if not fits:
            self.fail(f"{key} has shape {array.shape}, expected {shape}")
        if not np.isfinite(array).all():
            self.fail(f"{key} holds a number that is not finite")
        return array

    def by_label(self, key: str, labels: Iterable[str] = LABELS) -> Node:
        """An object with exactly these labels as keys."""
        return Node(self.value[key], f"{self.where}.{key}", labels)

    def label_array(self, key: str, low: float = -math.inf, high: float = math.inf) -> Floats:
        """One number per label, as (3,) in the order of ``types.LABELS``."""
        node = self.by_label(key)
        return np.array([node.number(label, low, high) for label in LABELS])


def rounded(value: Any) -> Any:
    """The value with floats at ten significant digits and arrays as lists: what goes into a file."""
    if isinstance(value, np.ndarray):
        return rounded(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, np.generic):
        return rounded(value.item())
    return float(f"{value:.10g}") if isinstance(value, float) else value
