"""How far a load is, as those who wait for it are told."""

from __future__ import annotations

import pytest

from tests.workers.placement_facts import NOW, asked, explained, model, starting
from workers.placement.actions import Outlook


@pytest.mark.parametrize(("ago_s", "progress"), [(0.0, 0.0), (15.0, 0.5), (29.9, 0.95), (300.0, 0.95)])
def test_a_load_shows_how_far_it_is_and_is_never_quite_done(ago_s: float, progress: float) -> None:
    found = explained("m", [model(load_s=30.0)], asked(), replicas=[starting(started_at=NOW - ago_s)])
    assert found.outlook is Outlook.LOADING
    assert found.progress == pytest.approx(progress)


def test_a_load_that_has_only_been_ordered_stands_at_nothing() -> None:
    assert explained("m", [model()], asked()).progress == 0.0


def test_a_load_that_takes_no_time_divides_by_nothing() -> None:
    found = explained("m", [model(load_s=0.0)], asked(), replicas=[starting()])
    assert (found.progress, found.retry_after_s) == (0.95, 1.0)


def test_what_is_not_being_loaded_has_no_progress() -> None:
    assert explained("m", [model(mib=999_999)], asked()).progress is None
