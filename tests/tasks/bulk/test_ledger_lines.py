from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.bulk.ledger import Ledger, request_id_of
from tasks.bulk.records import BatchStatus, Counts, Outcome, Taken
from tests.stack import in_threads
from tests.tasks.bulk.ledger_rows import (
    answer,
    batch,
    batch_id,
    counts_of,
    failure,
    forgotten,
    line,
    lines,
    numbers,
    started,
)

_EXPIRED = Outcome(batch="", number=0, request_id="", status_code=504, body=b"", code="batch_expired", message="Late.")


def test_lines_are_counted_by_model(ledger: Ledger) -> None:
    here = started(ledger, [line(1), line(2, "other"), line(3)])
    ledger.add_lines(here, lines(2, "third", first=4))
    assert ledger.pending(here) == {"demo": 2, "other": 1, "third": 2}
    assert counts_of(ledger, here) == Counts(total=5)
    assert ledger.last_line(here) == 5


def test_lines_that_are_added_again_are_passed_over(ledger: Ledger) -> None:
    here = started(ledger, lines(3))
    ledger.take(here, "demo", 1)
    ledger.add_lines(here, lines(5))
    ledger.add_lines(here, [line(6), line(6)])
    ledger.add_lines("batch_nobody", lines(5))
    assert ledger.pending(here) == {"demo": 5}
    assert counts_of(ledger, here).total == 6
    assert (ledger.last_line(here), ledger.last_line("batch_nobody")) == (6, 0)


def test_lines_are_taken_by_prefix_and_number_each_once(ledger: Ledger) -> None:
    here = started(ledger, [line(1, prefix="b"), line(2, prefix="a"), line(3, prefix="b"), line(4, "other")])
    assert numbers(ledger.take(here, "demo", 2)) == [2, 1]
    assert ledger.pending(here) == {"demo": 1, "other": 1}
    assert numbers(ledger.take(here, "demo", 2)) == [3]
    assert ledger.take(here, "demo", 2) == []
    assert ledger.take(here, "nobody", 2) == []
    assert ledger.take("batch_nobody", "demo", 2) == []
    assert ledger.take(here, "other", 0) == []


def test_a_taken_line_is_the_one_that_was_added(ledger: Ledger) -> None:
    added = line(7, prefix="0123456789abcdef", custom_id="Zeile ü", body=b'{"a": "\\u0000"}')
    here = started(ledger, [added])
    taken = Taken(batch=here, line=added, attempt=1, request_id=request_id_of(here, 7, 1))
    assert ledger.take(here, "demo", 5) == [taken]
    assert ledger.running() == [taken]


def test_running_lines_are_those_of_open_batches_or_of_the_ones_asked_for(ledger: Ledger) -> None:
    for index in (1, 2, 3):
        started(ledger, lines(2), index)
        ledger.take(batch_id(index), "demo", 1)
    ledger.move(batch_id(2), BatchStatus.EXPIRED, now=1)
    assert [one.batch for one in ledger.running()] == [batch_id(1), batch_id(3)]
    assert [one.batch for one in ledger.running([batch_id(2)])] == [batch_id(2)]


def test_request_ids_differ_in_all_they_are_made_of() -> None:
    made = {request_id_of(*of) for of in itertools.product(("a", "b"), (1, 11), (1, 11))}
    assert len(made) == 8
    assert all(len(one) == 36 and one.startswith("req_") for one in made)


def test_results_are_recorded_and_counted(ledger: Ledger) -> None:
    here = started(ledger, lines(3))
    first, second, third = ledger.take(here, "demo", 3)
    outcomes = [answer(third), failure(first)]
    assert ledger.record(outcomes) == outcomes
    assert counts_of(ledger, here) == Counts(total=3, completed=1, failed=1, prompt_tokens=6, completion_tokens=5)
    assert list(ledger.results(here, ok=True)) == [("request-3", answer(third))]
    assert list(ledger.results(here, ok=False)) == [("request-1", failure(first))]
    assert ledger.running() == [second]


def test_a_result_that_comes_twice_is_recorded_once(ledger: Ledger) -> None:
    here = started(ledger, lines(1))
    (taken,) = ledger.take(here, "demo", 1)
    first, second = answer(taken, b"1"), answer(taken, b"2")
    assert ledger.record([first, second]) == [first]
    assert ledger.record([second]) == []
    assert counts_of(ledger, here).completed == 1
    assert list(ledger.results(here, ok=True)) == [("request-1", first)]


def test_the_result_of_an_earlier_attempt_is_not_recorded(ledger: Ledger) -> None:
    here = started(ledger, lines(1))
    (first,) = ledger.take(here, "demo", 1)
    assert ledger.give_back([first]) == 1
    assert ledger.record([answer(first)]) == []
    (second,) = ledger.take(here, "demo", 1)
    assert second.attempt == 2
    assert ledger.record([answer(first)]) == []
    assert ledger.give_back([first]) == 0
    news = [answer(second)]
    assert ledger.record([answer(first), *news]) == news


def test_a_line_given_back_waits_again_and_its_attempt_counts_or_not(ledger: Ledger) -> None:
    here = started(ledger, lines(2))
    taken = ledger.take(here, "demo", 2)
    assert ledger.give_back(taken[:1], counted=True) == 1
    assert ledger.give_back(taken[1:], counted=False) == 1
    assert ledger.give_back(taken) == 0
    assert ledger.pending(here) == {"demo": 2}
    again = ledger.take(here, "demo", 2)
    assert [one.attempt for one in again] == [2, 1]
    assert again[1].request_id == taken[1].request_id


def test_outcomes_of_several_batches_are_recorded_together(ledger: Ledger) -> None:
    taken = []
    for index in (1, 2, 3):
        here = started(ledger, lines(4), index)
        taken += ledger.take(here, "demo", index)
    stranger = dataclasses.replace(taken[0], batch="batch_nobody")
    assert len(ledger.record([answer(one) for one in [*taken, stranger]])) == 6
    counts = {batch_id(index): counts_of(ledger, batch_id(index)) for index in (1, 2, 3)}
    assert [counts[batch_id(index)].completed for index in (1, 2, 3)] == [1, 2, 3]


def test_pending_lines_are_ended_a_part_at_a_time(ledger: Ledger) -> None:
    here = started(ledger, [*lines(5), line(6, "other")])
    (running,) = ledger.take(here, "demo", 1)
    ended = [ledger.end_pending(here, _EXPIRED, limit=2) for _ in range(4)]
    assert ended == [2, 2, 1, 0]
    assert ledger.end_pending("batch_nobody", _EXPIRED) == 0
    assert ledger.pending(here) == {}
    assert counts_of(ledger, here) == Counts(total=6, failed=5)
    assert [name for name, _ in ledger.results(here, ok=False)] == [f"request-{number}" for number in range(2, 7)]
    _, outcome = next(ledger.results(here, ok=False))
    assert outcome == dataclasses.replace(_EXPIRED, batch=here, number=2)
    assert ledger.record([answer(running)]) == [answer(running)]


def test_results_are_read_page_by_page(ledger: Ledger) -> None:
    here = started(ledger, lines(333))
    taken = ledger.take(here, "demo", 333)
    ledger.record([answer(one) if one.line.number % 3 else failure(one) for one in reversed(taken)])
    for ok in (True, False):
        wanted = [number for number in range(1, 334) if (number % 3 != 0) is ok]
        assert [outcome.number for _, outcome in ledger.results(here, ok=ok)] == wanted


def test_what_was_written_to_files_is_forgotten_but_not_its_counts(ledger: Ledger) -> None:
    here, other = started(ledger, lines(12_000)), started(ledger, lines(2), index=2)
    ledger.record([answer(one) for one in ledger.take(here, "demo", 500)])
    assert forgotten(ledger, here) == 3
    assert forgotten(ledger, here) == forgotten(ledger, "batch_nobody") == 0
    assert list(ledger.results(here, ok=True)) == []
    assert (ledger.pending(here), ledger.last_line(here)) == ({}, 0)
    assert counts_of(ledger, here).completed == 500
    assert ledger.pending(other) == {"demo": 2}


def test_takers_never_take_the_same_line(ledger: Ledger) -> None:
    here = started(ledger, lines(600))
    taken: list[list[int]] = [[] for _ in range(6)]

    def take(index: int) -> None:
        while some := ledger.take(here, "demo", 7):
            taken[index] += numbers(some)
            ledger.record([answer(one) for one in some])

    in_threads(6, take)
    assert sorted(itertools.chain(*taken)) == list(range(1, 601))
    assert counts_of(ledger, here).completed == 600
    assert ledger.pending(here) == {}


def test_of_those_who_record_and_give_back_the_same_lines_one_has_each(ledger: Ledger) -> None:
    here = started(ledger, lines(200))
    taken = ledger.take(here, "demo", 200)
    had: list[int] = []

    def end(index: int) -> None:
        for begin in range(0, 200, 20):
            some = taken[begin : begin + 20]
            if index % 2:
                had.append(len(ledger.record([answer(one) for one in reversed(some)])))
            else:
                had.append(ledger.give_back(some))

    in_threads(4, end)
    assert sum(had) == 200
    assert counts_of(ledger, here).completed + ledger.pending(here).get("demo", 0) == 200


_STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "record", "back", "uncounted", "end", "stale"]), st.integers(1, 6)), max_size=30
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_STEPS)
def test_whatever_happens_every_line_is_in_one_place_and_the_counts_are_true(
    ledger: Ledger, steps: list[tuple[str, int]]
) -> None:
    index = next(_INDICES)
    here = started(ledger, lines(20), index)
    running: dict[int, Taken] = {}
    old: list[Taken] = []
    waiting, ended = 20, 0
    for step, count in steps:
        some = list(running.values())[:count]
        match step:
            case "take":
                taken = ledger.take(here, "demo", count)
                assert len(taken) == min(count, waiting)
                running |= {one.line.number: one for one in taken}
                waiting -= len(taken)
            case "record":
                assert len(ledger.record([answer(one) for one in some])) == len(some)
                ended += len(some)
            case "back" | "uncounted":
                assert ledger.give_back(some, counted=step == "back") == len(some)
                waiting += len(some)
                old += some if step == "back" else []
            case "end":
                gone = ledger.end_pending(here, _EXPIRED, limit=count)
                assert gone == min(count, waiting)
                waiting -= gone
                ended += gone
            case _:
                assert ledger.record([answer(one) for one in old]) == []
        if step in {"record", "back", "uncounted"}:
            for one in some:
                del running[one.line.number]
        counts = counts_of(ledger, here)
        assert counts.completed + counts.failed == ended
        assert ledger.pending(here).get("demo", 0) == waiting
        assert sorted(numbers(ledger.running([here]))) == sorted(running)


_INDICES = itertools.count(1000)


def test_a_batch_without_lines_has_none_that_wait(ledger: Ledger) -> None:
    ledger.add_batch(batch(1))
    assert ledger.pending(batch_id(1)) == {}
    assert ledger.record([]) == []
    assert ledger.give_back([]) == 0


@pytest.mark.parametrize("count", [1, 1000])
def test_lines_are_added_by_the_thousand(ledger: Ledger, count: int) -> None:
    here = started(ledger, [])
    for first in range(1, 3 * count + 1, count):
        ledger.add_lines(here, lines(count, first=first))
    assert counts_of(ledger, here).total == 3 * count


@pytest.mark.parametrize("status", [BatchStatus.CANCELLING, BatchStatus.EXPIRED])
def test_no_line_of_a_batch_that_ends_is_taken(ledger: Ledger, status: BatchStatus) -> None:
    here = started(ledger, lines(3))
    assert len(ledger.take(here, "demo", 1)) == 1
    ledger.move(here, status, now=1)
    assert ledger.take(here, "demo", 2) == []
