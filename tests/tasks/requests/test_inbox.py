"""What a gateway makes of the records of a stream: gaps, repetitions, workers that go on, and silence."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.gateway.gateway_watch import Finding, diagnose
from tasks.messages import Delta, Done, Event, Started
from tasks.requests.inbox import LOST, Inbox, follows
from tasks.requests.wait_clock import WaitClock
from tests.waiting import wait_until


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


def filled(*records: tuple[str, Event], read: bool = False) -> Inbox:
    inbox = Inbox("r")
    for record_id, event in records:
        inbox.take([(record_id, event)])
    if read:
        events(inbox)
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


class Waiting:
    """Somebody who waits for the next event of an inbox, and has frames forwarded."""

    def __init__(self, inbox: Inbox, *, takes: bool = True) -> None:
        self.inbox = inbox
        self.forwarded: list[bytes] = []
        self._takes = takes
        self._pool = ThreadPoolExecutor(1)
        self._event = self._pool.submit(inbox.get, 60.0, self._forward)
        wait_until(lambda: inbox._forward is not None, "somebody to wait")

    def _forward(self, frames: bytes) -> bool:
        self.forwarded.append(frames)
        return self._takes

    def event(self) -> Event | None:
        found = self._event.result(20)
        self._pool.shutdown()
        return found


def test_deltas_pass_somebody_who_waits_and_their_end_does_not() -> None:
    waiting = Waiting(filled(("1-0", Started("w", 1)), read=True))
    waiting.inbox.take([("1-1", Delta(b"a"))])
    waiting.inbox.take([("1-2", Delta(b"b")), ("1-3", Delta(b"c"))])
    assert waiting.forwarded == [b"a", b"bc"]
    waiting.inbox.take([("1-4", Delta(b"d")), ("1-5", Done())])
    assert waiting.event() == Delta(b"d")
    assert events(waiting.inbox) == [Done()]
    assert waiting.forwarded == [b"a", b"bc"]


def test_another_worker_goes_on_behind_what_was_forwarded() -> None:
    waiting = Waiting(filled(("1-0", Started("w", 1)), read=True))
    waiting.inbox.take([("1-1", Delta(b"a"))])
    waiting.inbox.take([("5-0", Started("v", 5, "1-1")), ("5-1", Delta(b"b"))])
    assert waiting.event() == Started("v", 5, "1-1")
    assert events(waiting.inbox) == [Delta(b"b")]


def test_a_gap_ends_the_answer_behind_what_was_forwarded() -> None:
    waiting = Waiting(filled(("1-0", Started("w", 1)), read=True))
    waiting.inbox.take([("1-1", Delta(b"a")), ("1-3", Delta(b"c"))])
    assert waiting.event() == LOST
    assert waiting.forwarded == [b"a"]


def test_who_cannot_take_frames_is_woken_and_gets_the_next_ones() -> None:
    waiting = Waiting(filled(("1-0", Started("w", 1)), read=True), takes=False)
    waiting.inbox.take([("1-1", Delta(b"a"))])
    waiting.inbox.take([("1-2", Delta(b"b"))])
    assert waiting.event() == Delta(b"")
    assert events(waiting.inbox) == [Delta(b"b")]
    assert waiting.forwarded == [b"a"]


def test_nothing_is_forwarded_past_what_nobody_has_read_yet() -> None:
    inbox = filled(("1-0", Started("w", 1)), ("1-1", Delta(b"a")))
    assert inbox.get(60.0, lambda frames: pytest.fail("forwarded")) == Started("w", 1)
    inbox.take([("1-2", Delta(b"b"))])
    assert events(inbox) == [Delta(b"a"), Delta(b"b")]


def test_the_clock_ends_a_long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.requests.inbox._SHORT_S", 0.01)
    clock = WaitClock()
    clock.start()
    inbox = Inbox("r")
    clock.add(inbox)
    try:
        assert inbox.get(0.02) is None
        # Its word for a wait that is over does not end a later one.
        inbox._events.put(None)
        inbox.take([("1-0", Started("w", 1))])
        assert inbox.get(60.0) == Started("w", 1)
        clock.discard(inbox)
        wait_until(lambda: not clock._any.is_set(), "the clock to rest")
        clock.add(inbox)
        assert inbox.get(0.02) is None
    finally:
        clock.stop()
    assert not clock._thread.is_alive()


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
