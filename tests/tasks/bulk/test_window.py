"""How much is queued, whatever the engines say of their seats."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.bulk.window import LEAST, MOST_BYTES, MOST_PER_SEAT, NO_SEATS, Seats, fitting, missing, shares, target

WINDOW = 3.0
counts = st.integers(0, 10_000)
seats = st.tuples(counts, counts).map(lambda two: Seats(min(two), max(two)))
pending = st.lists(st.tuples(st.integers(), st.integers(0, 50)), max_size=12)


def test_a_model_that_is_not_loaded_gets_a_few() -> None:
    assert target(NO_SEATS, 0, WINDOW) == LEAST


def test_free_seats_are_filled_several_times_over() -> None:
    assert target(Seats(20, 64), 0, WINDOW) == 60


def test_what_runs_may_all_end_at_once() -> None:
    assert target(Seats(0, 64), 20, WINDOW) == 40


@given(st.integers(1, 5000), st.sampled_from([0.0, 0.05, 0.3]))
def test_while_bulk_work_has_the_seats_as_many_lines_as_seats_wait(all_: int, headroom: float) -> None:
    """The loader starts another replica for a queue as deep as the seats of one."""
    left_free = int(all_ * headroom)
    full = Seats(left_free, all_)
    running = all_ - left_free
    assert missing(full, queued=all_ - 1, running=running, window=WINDOW) > 0
    wanted = target(full, running, WINDOW)
    assert wanted <= max(LEAST, MOST_PER_SEAT * all_)


def test_interactive_requests_that_have_the_seats_make_it_few() -> None:
    assert target(Seats(0, 64), 3, WINDOW) == LEAST


def test_little_is_queued_for_a_small_engine_but_never_nothing() -> None:
    assert target(Seats(2, 2), 0, WINDOW) == target(Seats(0, 1), 1, WINDOW) == LEAST


def test_a_window_is_refilled_in_pieces() -> None:
    full = Seats(0, 64)
    assert missing(full, queued=120, running=64, window=WINDOW) == 0
    assert missing(full, queued=96, running=64, window=WINDOW) == 32
    assert missing(full, queued=130, running=64, window=WINDOW) == 0


@given(seats, counts, st.floats(0.1, 100))
def test_the_target_has_bounds(of: Seats, running: int, window: float) -> None:
    assert LEAST <= target(of, running, window) <= max(LEAST, MOST_PER_SEAT * of.all)


@given(seats, counts, counts)
def test_what_is_missing_is_never_more_than_the_target(of: Seats, queued: int, running: int) -> None:
    lacking = missing(of, queued=queued, running=running, window=WINDOW)
    assert lacking >= 0
    assert not lacking or queued + lacking == target(of, running, WINDOW)


@given(st.integers(0, 200), pending)
def test_room_is_given_out_to_the_last_as_long_as_somebody_wants_it(room: int, waiting: list[tuple[int, int]]) -> None:
    given_out = shares(room, waiting)
    assert sum(count for _, count in given_out) == min(room, sum(count for _, count in waiting))
    assert all(count > 0 for _, count in given_out)


@given(st.integers(0, 200), st.lists(st.integers(0, 50), max_size=12))
def test_nobody_gets_more_than_one_above_another_who_wants_more(room: int, wanted: list[int]) -> None:
    given_out = dict(shares(room, list(enumerate(wanted))))
    hungry = [given_out.get(i, 0) for i, count in enumerate(wanted) if given_out.get(i, 0) < count]
    assert not hungry or max(given_out.values(), default=0) - min(hungry) <= 1


def test_the_odd_ones_go_to_the_first() -> None:
    assert shares(4, [("a", 9), ("b", 9), ("c", 9)]) == [("a", 2), ("b", 1), ("c", 1)]
    assert shares(2, [("a", 9), ("b", 0), ("c", 9), ("d", 9)]) == [("a", 1), ("c", 1)]


def test_large_lines_go_to_redis_a_few_at_a_time() -> None:
    assert fitting([100] * 50, 0) == 50
    assert fitting([7 << 20] * 50, 0) == MOST_BYTES // (7 << 20)
    assert fitting([7 << 20], MOST_BYTES - 1) == 0
    assert fitting([MOST_BYTES + 1, 1], 0) == 1
