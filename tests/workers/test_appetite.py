"""Which list a worker pops next, for every state it may be in."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeryconfig import broker_transport_options
from tasks.queues import PRIORITY_STEPS, Priority
from workers.host.appetite import ALL_STEPS, BULK, INTERACTIVE, Peak, Shares, excess, is_bulk, pull, spare

PARTS = st.floats(min_value=0, max_value=1)
SEATS = st.integers(min_value=0, max_value=600)
USUAL = Shares(share=0.05, headroom=0.05)


def test_the_steps_are_those_of_the_queues() -> None:
    assert ALL_STEPS == PRIORITY_STEPS
    assert broker_transport_options["priority_steps"] == [*ALL_STEPS]
    assert (Priority.INTERACTIVE.value, Priority.BULK.value) == (INTERACTIVE, BULK)


@pytest.mark.parametrize(
    ("priority", "bulk"), [(None, False), (0, False), (8, False), (9, True), (10, True), ("9", False), ({}, False)]
)
def test_a_priority_belongs_to_the_list_that_kombu_puts_it_in(priority: object, bulk: bool) -> None:
    assert is_bulk(priority) is bulk


@given(
    st.builds(Shares, share=PARTS, headroom=PARTS),
    SEATS,
    st.integers(min_value=0, max_value=600),
    st.integers(min_value=0, max_value=600),
)
def test_interactive_work_is_always_popped_and_first_unless_bulk_work_has_less_than_its_share(
    shares: Shares, seats: int, interactive: int, bulk: int
) -> None:
    order = pull(shares, seats=seats, interactive=interactive, bulk=bulk).order
    assert INTERACTIVE in order
    assert len(set(order)) == len(order)
    room = interactive + bulk < seats
    starves = bulk < shares.guaranteed(seats)
    assert (order[0] == BULK) == (starves and room)
    welcome = interactive + bulk < shares.fillable(seats)
    assert (BULK in order) == (room and (starves or welcome))


def fill(shares: Shares, seats: int, interactive: int) -> int:
    """Return how much a worker that holds so much interactive work takes of endless bulk work."""
    bulk = 0
    while BULK in pull(shares, seats=seats, interactive=interactive, bulk=bulk).order:
        bulk += 1
    return bulk


@given(st.builds(Shares, share=PARTS, headroom=PARTS), SEATS)
def test_bulk_work_leaves_the_headroom_free_but_never_less_than_its_share(shares: Shares, seats: int) -> None:
    kept = seats - math.floor(shares.headroom * seats)
    assert fill(shares, seats, interactive=0) == max(shares.guaranteed(seats), kept)


@given(st.builds(Shares, share=PARTS, headroom=PARTS), SEATS, st.integers(min_value=0, max_value=600))
def test_no_more_is_held_than_there_are_seats(shares: Shares, seats: int, interactive: int) -> None:
    assert interactive + fill(shares, seats, interactive) <= max(seats, interactive)


@given(st.integers(min_value=0, max_value=600))
def test_the_usual_shares_keep_nineteen_seats_of_twenty_in_use_and_one_for_bulk(seats: int) -> None:
    assert fill(USUAL, seats, interactive=0) >= 0.95 * seats
    assert USUAL.guaranteed(seats) >= (seats > 1)


def test_of_32_seats_one_stays_free_and_two_are_bulk_works_own() -> None:
    assert fill(USUAL, 32, interactive=0) == 31
    assert USUAL.guaranteed(32) == 2
    assert pull(USUAL, seats=32, interactive=30, bulk=1).order == (BULK, INTERACTIVE)
    assert pull(USUAL, seats=32, interactive=29, bulk=2).order == (INTERACTIVE,)
    assert pull(USUAL, seats=32, interactive=28, bulk=2).order == (INTERACTIVE, BULK)


def test_where_the_cache_is_nearly_full_bulk_work_takes_no_more_than_its_share() -> None:
    assert pull(USUAL, seats=32, interactive=0, bulk=2, crowded=True).order == (INTERACTIVE,)
    assert pull(USUAL, seats=32, interactive=0, bulk=1, crowded=True).order == (BULK, INTERACTIVE)


def test_a_single_seat_is_nobodys_own() -> None:
    assert USUAL.guaranteed(1) == 0
    assert pull(USUAL, seats=1, interactive=0, bulk=0).order == (INTERACTIVE, BULK)


def test_without_a_share_bulk_work_may_starve() -> None:
    assert Shares(share=0.0, headroom=0.05).guaranteed(500) == 0


@given(
    st.builds(Shares, share=PARTS, headroom=PARTS), SEATS, st.integers(0, 600), st.integers(0, 600), st.integers(0, 600)
)
def test_bulk_work_is_put_back_only_where_there_is_no_room_and_never_below_its_share(
    shares: Shares, seats: int, limit: int, interactive: int, bulk: int
) -> None:
    count = spare(shares, seats=seats, limit=limit, interactive=interactive, bulk=bulk)
    assert 0 <= count <= bulk
    if interactive + bulk < limit:
        assert count == 0
    else:
        assert bulk - count == min(bulk, shares.guaranteed(seats))


@given(st.builds(Shares, share=PARTS, headroom=PARTS), st.integers(2, 600), st.integers(0, 600))
def test_a_seat_that_was_given_up_goes_to_interactive_work_first(shares: Shares, seats: int, interactive: int) -> None:
    bulk = max(0, seats - interactive)
    count = spare(shares, seats=seats, limit=seats, interactive=interactive, bulk=bulk)
    if count:
        order = pull(shares, seats=seats, interactive=interactive, bulk=bulk - count).order
        assert order[0] == INTERACTIVE


def test_seats_that_interactive_work_has_just_left_are_kept_for_it() -> None:
    peak = Peak()
    assert peak.note(4, now=10.0) == 4
    assert peak.note(0, now=10.2) == 4
    assert pull(USUAL, seats=32, interactive=0, bulk=27, expected=4).order == (INTERACTIVE,)
    assert pull(USUAL, seats=32, interactive=0, bulk=26, expected=4).order == (INTERACTIVE, BULK)
    assert peak.note(0, now=11.1) == 4
    assert peak.note(1, now=12.2) == 1
    assert peak.note(0, now=99.0) == 0


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 9)), max_size=30))
def test_a_peak_is_remembered_for_one_window_at_least_and_three_at_most(steps: list[tuple[float, int]]) -> None:
    peak, now, noted = Peak(1.0), 100.0, list[tuple[float, int]]()
    for wait_s, value in steps:
        now += wait_s
        noted.append((now, value))
        most = peak.note(value, now)
        assert most >= max(seen for at, seen in noted if now - at < 1.0)
        assert most <= max(seen for at, seen in noted if now - at <= 3 * 1.0)


def test_bulk_work_takes_no_seat_where_it_would_slow_interactive_work_down() -> None:
    assert pull(USUAL, seats=64, interactive=4, bulk=15, expected=4, room=20).order == (INTERACTIVE, BULK)
    assert pull(USUAL, seats=64, interactive=4, bulk=16, expected=4, room=20).order == (INTERACTIVE,)
    assert pull(USUAL, seats=64, interactive=4, bulk=2, expected=4, room=1).order == (BULK, INTERACTIVE)


def test_what_slows_interactive_work_down_is_put_back_but_for_bulk_works_own_part() -> None:
    assert excess(USUAL, seats=64, interactive=4, bulk=56, room=20) == 40
    assert excess(USUAL, seats=64, interactive=4, bulk=20, room=20) == 0, "it wavers"
    assert excess(USUAL, seats=64, interactive=20, bulk=40, room=1) == 37
    assert excess(USUAL, seats=64, interactive=0, bulk=60, room=20) == 0
    assert excess(USUAL, seats=64, interactive=4, bulk=60, room=None) == 0


@given(st.builds(Shares, share=PARTS, headroom=PARTS), SEATS, st.data())
def test_until_so_many_are_taken_the_order_stays_whatever_they_are(
    shares: Shares, seats: int, data: st.DataObject
) -> None:
    interactive, bulk, expected = (data.draw(st.integers(min_value=0, max_value=600)) for _ in range(3))
    first = pull(shares, seats=seats, interactive=interactive, bulk=bulk, expected=expected)
    if not first.most:
        return
    taken = data.draw(st.integers(min_value=0, max_value=first.most - 1))
    of_bulk = data.draw(st.integers(min_value=0, max_value=taken)) if BULK in first.order else 0
    later = pull(shares, seats=seats, interactive=interactive + taken - of_bulk, bulk=bulk + of_bulk, expected=expected)
    assert BULK not in first.order or BULK in later.order
    assert interactive + bulk + taken < seats
