"""The simulation of production: nothing is lost, a pool that is large enough keeps up, one that is not does not."""

from dataclasses import replace

import pytest

from vlmforensics.eval.scale import Plan, cost_per_million, servers_for, simulate
from vlmforensics.eval.throughput import Ratio

HOUR = 1 / 24


@pytest.mark.parametrize("per_day", [1e4, 1e6, 1e9])
def test_every_picture_is_done_given_up_or_waiting(per_day):
    plan = Plan(per_day, 1.0, servers_for(per_day, 1.0), failure=0.2, lost_every=3600)
    seen = simulate(plan, days=HOUR, seed=1)
    assert seen.arrived == seen.done + seen.given_up + seen.waiting
    assert seen.attempts >= seen.done + seen.given_up
    assert seen == simulate(plan, days=HOUR, seed=1)
    assert seen != simulate(plan, days=HOUR, seed=2)


def test_a_billion_a_day_is_carried_by_the_servers_that_the_formula_names():
    plan = Plan(1e9, 1.0, servers_for(1e9, 1.0))
    seen = simulate(plan)
    assert seen.arrived == pytest.approx(1e9, rel=1e-3)
    assert seen.wait_99 <= 1
    assert seen.busy == pytest.approx(plan.load, rel=0.01)
    # a picture is given up after three failures in a row
    assert seen.given_up / seen.arrived == pytest.approx(plan.failure**3, rel=2, abs=1e-7)


def test_too_few_servers_for_the_busiest_hour_make_it_wait_and_the_night_catches_up():
    enough = servers_for(1e7, 1.0)
    tight = Plan(1e7, 1.0, round(enough / 1.15 / 1.5 * 1.1))  # ten per cent over the mean: below the peak
    seen = simulate(tight, days=1)
    assert seen.wait_most > 600
    hopeless = simulate(replace(tight, servers=round(tight.servers * 0.8)), days=1)
    assert hopeless.waiting > 0.1 * hopeless.arrived


def test_retries_cost_what_the_load_says():
    plan = Plan(1e8, 0.5, servers_for(1e8, 0.5) * 2, swing=0, failure=0.1, lost_every=0)
    seen = simulate(plan, days=HOUR)
    assert seen.attempts / seen.arrived == pytest.approx(1 + 0.1 + 0.01, rel=0.02)


def test_cost_is_node_hours_times_price():
    assert cost_per_million(3.6, 1.0, 1, load=1.0) == pytest.approx(1000.0)
    assert cost_per_million(3.6, 1.0, 4, load=0.5) == pytest.approx(500.0)


def test_a_ratio_says_whether_it_holds():
    assert Ratio("a", 1.6, 1.5, True, 8, "x").holds
    assert not Ratio("a", 1.6, 1.5, False, 8, "x").holds
    assert "missed" in str(Ratio("a", 1.6, 1.5, False, 8, "x"))
