"""Class-conditional (Mondrian) split conformal prediction: which labels a fused score does not exclude.

The nonconformity of label y for log-probabilities p is its margin to the best other label,
``max_{l≠y} log p_l − log p_y``: high where y fits badly. Against the n scores of calibration pictures whose
true label is y, the p-value of a new score s is ``(1 + #{scores ≥ s}) / (n + 1)``; a label is excluded
where its p-value is at most its level. If the new picture is exchangeable with those of its label, its true
label is excluded with probability at most that level, whatever the classifier.

Conditional on the calibration pictures drawn, the exclusion rate follows Beta(k, n + 1 − k), k = ⌊level (n
+ 1)⌋; its 95 % quantile is the Clopper–Pearson upper bound for k − 1 exceedances among n.

References:
    Vovk, Gammerman & Shafer 2005, Algorithmic Learning in a Random World, sections 4.5 and 4.6 (Mondrian).
    Vovk 2012, Conditional validity of inductive conformal predictors.
    Angelopoulos & Bates 2021, A gentle introduction to conformal prediction, sections 3.2 and 4.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmforensics.fusion.scale import Floats
from vlmforensics.fusion.strict import Node

MAX_POINTS = 512


def nonconformity(log_probs: Floats) -> Floats:
    """(..., 3) log-probabilities → (..., 3) margins of the best other label over each label."""
    columns = [
        np.delete(log_probs, label, axis=-1).max(axis=-1) - log_probs[..., label] for label in range(3)
    ]
    return np.stack(columns, axis=-1)


@dataclass(frozen=True, eq=False)
class LabelScores:
    """Calibration scores of one label, thinned without ever making exclusion easier.

    Attributes:
        n: number of calibration pictures of the label.
        groups: number of groups (sources of pictures) that they come from.
        points: (k ≤ 512,) increasing scores.
        above: (k,) how many of the n scores are > each point.
    """

    n: int
    groups: int
    points: Floats
    above: Floats

    @classmethod
    def of(cls, scores: Floats, groups: int) -> LabelScores:
        """Thin scores: the upper half of the points is exact (small levels live there), the rest by rank."""
        # Rounded up to what a file keeps: a larger stored score can only make a p-value larger.
        ordered = np.sort([_round_up(float(score)) for score in scores])
        n = len(ordered)
        tail = min(n, MAX_POINTS // 2)
        body = np.linspace(0, n - tail, MAX_POINTS - tail, endpoint=False).astype(int)
        points = np.unique(ordered[np.concatenate([body[: n - tail], np.arange(n - tail, n)])])
        above = n - np.searchsorted(ordered, points, side="right")
        return cls(n, groups, points, above.astype(np.float64))

    def p_value(self, score: float) -> float:
        """Conformal p-value in [1/(n+1), 1].

        For t_i < score ≤ t_{i+1} the number of scores ≥ ``score`` is at most the number > t_i, and exactly
        that where none was dropped between the two points.
        """
        index = int(np.searchsorted(self.points, score, side="left")) - 1
        at_least = float(self.n) if index < 0 else float(self.above[index])
        return (1.0 + at_least) / (self.n + 1.0)

    def largest_kept(self, level: float) -> float:
        """Largest score that ``level`` does not exclude; infinite where no score would be."""
        excluded = np.flatnonzero((1.0 + self.above) / (self.n + 1.0) <= level + 1e-12)
        return float(self.points[excluded[0]]) if len(excluded) else math.inf

    def upper_bound(self, level: float, confidence: float = 0.95) -> float:
        """Bound on the share of this label's pictures that is excluded at ``level``, at this confidence."""
        from scipy.special import betaincinv

        k = math.floor(level * (self.n + 1) + 1e-9)
        return 0.0 if k < 1 else float(betaincinv(k, self.n + 1 - k, confidence))

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        above = [int(count) for count in self.above]
        return {"n": self.n, "groups": self.groups, "points": self.points, "above": above}

    @classmethod
    def from_json(cls, value: Any, where: str) -> LabelScores:
        """Read and check."""
        node = Node(value, where, ("n", "groups", "points", "above"))
        points = node.array("points", (None,))
        above = node.array("above", (len(points),))
        n = node.count("n")
        if (np.diff(points) <= 0).any() or (np.diff(above) >= 0).any():
            node.fail("points must increase and above decrease, both strictly")
        if len(points) > MAX_POINTS or above[0] >= n or above[-1] != 0 or (above % 1 != 0).any():
            node.fail(f"at most {MAX_POINTS} points; counts whole, below n, the last one 0")
        return cls(n, node.count("groups"), points, above)


def _round_up(score: float) -> float:
    """The smallest ten-digit decimal that is not below ``score``."""
    kept = float(f"{score:.10g}")
    if kept >= score:
        return kept
    step = 10.0 ** (math.floor(math.log10(abs(score))) - 9)
    return float(f"{score + step:.10g}")
