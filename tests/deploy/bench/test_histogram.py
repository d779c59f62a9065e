"""Percentiles from buckets, against those of the values themselves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.bench.histogram import Histogram

times = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=200)


def filled(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@settings(deadline=None)
@given(times, st.floats(0.1, 100))
def test_a_percentile_is_as_near_as_promised(values: list[float], percent: float) -> None:
    exact = sorted(values)[math.ceil(len(values) * percent / 100) - 1]
    assert filled(values).percentile(percent) == pytest.approx(exact, rel=0.004, abs=1e-6)


@settings(deadline=None)
@given(times)
def test_mean_and_longest_are_exact(values: list[float]) -> None:
    histogram = filled(values)
    assert histogram.mean() == pytest.approx(sum(values) / len(values))
    assert histogram.longest == max(values)
    assert histogram.percentile(100) <= max(values)


def test_zeros_count() -> None:
    histogram = filled([0.004, 0.004])
    histogram.add_zeros(6)
    assert histogram.count == 8
    assert histogram.percentile(75) == 0
    assert histogram.percentile(99) == pytest.approx(0.004, rel=0.004)
    assert histogram.mean() == 0.001


def test_an_empty_one_has_no_percentiles() -> None:
    with pytest.raises(ValueError, match="empty"):
        Histogram().percentile(50)


def test_nothing_is_too_long() -> None:
    assert filled([1e12]).percentile(50) > 1e6
