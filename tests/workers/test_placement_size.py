"""What a plan costs, in calls instead of seconds: those are the same on every machine, however busy it is."""

from __future__ import annotations

import sys
from types import FrameType

import pytest

from tests.site.large import NOW, large_site
from workers.placement.facts import Facts
from workers.placement.plan import plan


def calls(facts: Facts) -> int:
    """Count the calls, of Python's own functions too, that planning takes."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        plan(facts, NOW)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("waiting", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("busy", [0.0, 0.7, 1.0])
def test_a_thousand_replicas_on_two_hundred_nodes_are_planned_in_few_calls(waiting: float, busy: float) -> None:
    """50 ms are about 300,000 such calls on a slow machine."""
    assert calls(large_site(waiting=waiting, busy=busy)) < 200_000


def test_twice_the_site_takes_hardly_more_than_twice_the_calls() -> None:
    small = calls(large_site(nodes=100, replicas=500, models=50))
    large = calls(large_site(nodes=200, replicas=1000, models=100))
    assert large < 3 * small


def test_a_thousand_models_that_all_wait_do_not_make_it_quadratic() -> None:
    assert calls(large_site(models=1000, waiting=1.0, busy=1.0)) < 1_500_000
