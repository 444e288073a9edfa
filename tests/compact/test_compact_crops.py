"""Weights of the crop expert that can't be right are refused, not used."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the model extra is not installed")

from vlmforensics.compact.crops import CropExpert
from vlmforensics.errors import WeightsCorrupt


def weights(**changes):
    good = {"mean": np.zeros(6), "scale": np.ones(6), "weight": np.ones(6), "bias": np.zeros(1)}
    return {key: value for key, value in (good | changes).items() if value is not None}


def test_weights_that_fit_together_are_taken():
    assert CropExpert(None, weights()).score(np.full(6, 2.0)) == pytest.approx(12.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"bias": None}, {"extra": np.zeros(1)}, {"mean": np.zeros(5)}, {"weight": np.ones((6, 1))},
        {"bias": np.zeros(2)},
        {"scale": np.zeros(6)}, {"scale": -np.ones(6)}, {"weight": np.full(6, np.nan)}, {"bias": np.array([np.inf])},
    ],
)  # fmt: skip
def test_weights_that_cannot_be_right_are_refused(changes):
    with pytest.raises(WeightsCorrupt):
        CropExpert(None, weights(**changes))
