"""The mask as it is shown: places that exact signals name join it, other findings' regions don't."""

import numpy as np
import pytest

from vlmforensics.assistant.marking import PLACES, named_places
from vlmforensics.signals import load_sources
from vlmforensics.types import Box, Evidence, Region


@pytest.fixture
def data(fakes):
    return fakes.encode(fakes.scene())


class Names:
    """A signal that names the lower right corner, with the pixels or with a box alone."""

    version, cost = "1", "nothing"

    def __init__(self, name, exact=True):
        self.name, self.exact = name, exact

    def examine(self, case):
        return [
            Evidence(self.name, "This corner.", score=1.0, region=corner(case.upright.shape[:2], self.exact))
        ]


def corner(shape, exact=True):
    height, width = shape
    place = np.zeros((height, width), bool)
    place[-height // 4 :, -width // 4 :] = True
    return Region(Box(width - width // 4, height - height // 4, width, height), place if exact else None)


@pytest.mark.parametrize("name", PLACES)
def test_a_place_that_a_signal_names_is_marked_and_told_of(fakes, data, name):
    plain = fakes.make().examine(data)
    report = fakes.make(sources=[Names(name)]).examine(data)
    assert report.failures == ()
    place = corner(report.mask.binary.shape).mask
    assert not plain.mask.binary[place].any()
    np.testing.assert_array_equal(report.mask.binary, plain.mask.binary | place)
    assert len(report.mask.boxes) == len(report.mask.confidences) == 2
    told = next(item for item in report.evidence if item.source == "mask")
    own = next(item for item in plain.evidence if item.source == "mask").statement
    assert told.statement.startswith(own)  # the head is credited with what it marks itself
    assert f"signals name, {100 * report.mask.area_fraction:.1f} %" in told.statement
    assert report.mask.joined == pytest.approx(report.mask.area_fraction - plain.mask.area_fraction)
    assert plain.mask.joined == 0.0
    np.testing.assert_array_equal(told.region.mask, plain.mask.binary)  # the signal tells of its place itself


@pytest.mark.parametrize("signal", [Names("noise"), Names(PLACES[0], exact=False)])
def test_other_regions_stay_out_of_the_mask(fakes, data, signal):
    plain, report = fakes.make().examine(data), fakes.make(sources=[signal]).examine(data)
    np.testing.assert_array_equal(report.mask.binary, plain.mask.binary)
    assert not any("signals name" in item.statement for item in report.evidence)


def test_places_come_from_signals_that_there_are():
    assert set(PLACES) <= {source.name for source in load_sources()}
    assert named_places([Evidence(PLACES[0], "Nothing repeats here.", score=0.0)]) == []
