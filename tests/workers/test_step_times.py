"""What an engine's step times say of how many requests may share a step."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from workers.engine.step_times import StepTimes


def seen(took_s: Callable[[int], float], *loads: int, steps: int = 50) -> StepTimes:
    times = StepTimes()
    for load in loads:
        for _ in range(steps):
            times.note(load, took_s(load))
    return times


def test_room_is_where_the_line_through_what_was_seen_says() -> None:
    times = seen(lambda n: 0.020 + 0.0005 * n, 4, 60)
    assert times.room(4, 1.25) == 4 + 11  # a quarter of 22 ms, at half a millisecond each


def test_nothing_is_said_where_little_was_seen_or_company_makes_no_difference() -> None:
    assert seen(lambda n: 0.01 * n, 4).room(4, 1.25) is None
    assert seen(lambda n: 0.01 * n, 4, 60, steps=15).room(4, 1.25) is None
    assert seen(lambda n: 0.02, 4, 60).room(4, 1.25) is None
    assert seen(lambda n: 0.03 - 0.0001 * n, 4, 60).room(4, 1.25) is None


def test_a_step_that_took_very_long_changes_little() -> None:
    times = seen(lambda n: 0.020 + 0.0005 * n, 4, 60)
    times.note(4, 0.9)
    room = times.room(4, 1.25)
    assert room is not None
    assert 15 <= room <= 19


def test_what_was_seen_at_one_load_stays_however_long_another_lasts() -> None:
    times = seen(lambda n: 0.020 + 0.0005 * n, 4)
    for _ in range(100_000):
        times.note(60, 0.050)
    assert times.room(4, 1.25) == 15


@given(st.lists(st.tuples(st.integers(0, 300), st.floats(1e-5, 1.0)), max_size=400), st.integers(1, 300))
def test_there_is_always_room_for_those_who_are_there(steps: list[tuple[int, float]], requests: int) -> None:
    times = StepTimes()
    for load, took_s in steps:
        times.note(load, took_s)
    room = times.room(requests, 1.25)
    assert room is None or room >= requests
