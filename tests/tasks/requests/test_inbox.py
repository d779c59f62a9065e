"""What a gateway makes of the records of a stream: gaps, repetitions, workers that go on, and silence."""

from __future__ import annotations

import pytest

from tasks.gateway.gateway_watch import Finding, diagnose
from tasks.messages import Delta, Done, Event, Started
from tasks.requests.inbox import LOST, Inbox, follows


@pytest.mark.parametrize(
    ("last", "place", "whole"),
    [
        (None, (1, 0), True),
        ((1, 0), (1, 1), True),
        ((1, 9), (1, 10), True),
        ((1, 4), (2, 0), True),
        ((1, 4), (1, 6), False),
        (None, (1, 1), False),
        ((1, 4), (2, 1), False),
    ],
)
def test_a_missing_record_is_noticed(last: tuple[int, int] | None, place: tuple[int, int], whole: bool) -> None:
    assert follows(last, place) is whole


def filled(*records: tuple[str, Event]) -> Inbox:
    inbox = Inbox("r")
    for record_id, event in records:
        inbox.take([(record_id, event)])
    return inbox


def events(inbox: Inbox) -> list[Event]:
    return list(iter(lambda: inbox.get(0), None))


def test_records_that_are_known_are_passed_over() -> None:
    one, two = Started("w", 1), Delta(b"data: a\n\n", id="1-1")
    assert events(filled(("1-0", one), ("1-1", two), ("1-0", one), ("1-1", two))) == [one, two]


def test_another_worker_goes_on_where_the_first_stopped() -> None:
    inbox = filled(("1-0", Started("w", 1)), ("1-1", Delta(b"a")), ("5-0", Started("v", 5, "1-1")), ("5-1", Done()))
    assert events(inbox)[-1] == Done()


@pytest.mark.parametrize("after", ["", "1-1"])
def test_a_worker_that_goes_on_from_elsewhere_ends_the_answer(after: str) -> None:
    inbox = filled(
        ("1-0", Started("w", 1)),
        ("1-1", Delta(b"a")),
        ("1-2", Delta(b"b")),
        ("5-0", Started("v", 5, after)),
        ("5-1", Delta(b"c")),
    )
    assert events(inbox)[-1] == LOST
    assert inbox.cut


def test_nothing_follows_the_end() -> None:
    inbox = filled(("1-0", Started("w", 1)), ("1-1", Done()), ("1-2", Delta(b"a")))
    assert events(inbox)[-1] == Done()
    inbox.lose()
    assert not inbox.cut
    assert events(inbox) == []


@pytest.mark.parametrize(
    ("last", "newest", "recorded", "claimed", "finding"),
    [
        (None, None, True, False, Finding.UNCLAIMED),
        (None, None, False, False, Finding.FORGOTTEN),
        ((1, 0), (1, 0), True, True, Finding.WELL),
        ((1, 0), (1, 0), True, False, Finding.UNCLAIMED),
        ((1, 4), (1, 3), True, True, Finding.FORGOTTEN),
        ((1, 4), None, True, True, Finding.FORGOTTEN),
        ((1, 4), (1, 4), False, False, Finding.FORGOTTEN),
        ((1, 4), (1, 5), False, False, Finding.WELL),
        (None, (1, 0), True, True, Finding.WELL),
    ],
)
def test_what_is_the_matter_with_a_silent_answer(
    last: tuple[int, int] | None, newest: tuple[int, int] | None, recorded: bool, claimed: bool, finding: Finding
) -> None:
    assert diagnose(last, newest, recorded=recorded, claimed=claimed) is finding
