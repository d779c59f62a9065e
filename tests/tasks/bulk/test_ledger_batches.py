from __future__ import annotations

import itertools

import pytest

from tasks.bulk.ledger import Ledger
from tasks.bulk.records import ADVANCES, ENDED, BatchStatus, Counts, Flaw, Kind
from tests.tasks.bulk.ledger_rows import batch, batch_id, counts_of, failure, line, lines


def test_a_batch_comes_back_as_it_was_added(ledger: Ledger) -> None:
    whole = batch(
        1,
        endpoint=None,
        status=BatchStatus.VALIDATING,
        metadata={"what": "Spätschicht \0"},
        flaws=(Flaw("empty_file", "The file has no lines."), Flaw("x", "y", 3, "custom_id")),
        output_expires_after_s=3600,
        max_lines=50_000,
    )
    assert ledger.add_batch(whole)
    assert ledger.batch(batch_id(1)) == whole
    assert ledger.batch(batch_id(1), "ann") == whole
    assert ledger.batch(batch_id(1), "bob") is None
    assert ledger.batch(batch_id(2)) is None


def test_a_batch_that_is_added_again_gets_no_further_lines(ledger: Ledger) -> None:
    assert ledger.add_batch(batch(1, kind=Kind.CALL), [line(1, body=b"{}")])
    assert not ledger.add_batch(batch(1, kind=Kind.CALL), [line(1, body=b"{}"), line(2)])
    assert counts_of(ledger, batch_id(1)) == Counts(total=1)


def test_a_batch_advances_as_the_table_says_and_not_otherwise(ledger: Ledger) -> None:
    for index, (came, to) in enumerate(itertools.product(BatchStatus, BatchStatus)):
        ledger.add_batch(batch(index, status=came))
        before = ledger.batch(batch_id(index))
        assert ledger.move(batch_id(index), to, now=1234) is (to in ADVANCES[came])
        after = ledger.batch(batch_id(index))
        assert after is not None
        if to in ADVANCES[came]:
            assert after.status is to
            assert getattr(after, f"{to.value}_at") == 1234
        else:
            assert after == before


def test_fields_move_with_a_batch_and_no_others(ledger: Ledger) -> None:
    ledger.add_batch(batch(1, status=BatchStatus.FINALIZING))
    assert ledger.move(batch_id(1), BatchStatus.COMPLETED, now=5, output_file_id="file-1", error_file_id="file-2")
    found = ledger.batch(batch_id(1))
    assert found is not None
    assert (found.output_file_id, found.error_file_id, found.completed_at) == ("file-1", "file-2", 5)
    ledger.add_batch(batch(2, status=BatchStatus.VALIDATING))
    flaws = (Flaw("invalid_json_line", "No JSON.", 2),)
    assert ledger.move(batch_id(2), BatchStatus.FAILED, now=5, flaws=flaws)
    failed = ledger.batch(batch_id(2))
    assert failed is not None
    assert failed.flaws == flaws
    with pytest.raises(TypeError):
        ledger.move(batch_id(1), BatchStatus.COMPLETED, now=5, owner="bob")


def test_open_batches_are_those_that_have_not_ended_the_oldest_first(ledger: Ledger) -> None:
    for index, status in enumerate(BatchStatus, start=1):
        ledger.add_batch(batch(index, status=status, created_at=1000 - index))
    ledger.add_batch(batch(99, kind=Kind.CALL, created_at=1))
    opened = [index for index, status in enumerate(BatchStatus, start=1) if status not in ENDED]
    assert [one.id for one in ledger.open_batches()] == [batch_id(index) for index in (99, *reversed(opened))]


def test_batches_are_listed_by_owner_without_calls_the_newest_first(ledger: Ledger) -> None:
    for index in range(1, 6):
        ledger.add_batch(batch(index, created_at=1000 + index // 2))
    ledger.add_batch(batch(6, owner="bob"))
    ledger.add_batch(batch(7, kind=Kind.CALL))
    seen: list[str] = []
    while page := ledger.batches("ann", after=seen[-1] if seen else None, limit=2):
        seen += [one.id for one in page]
    assert seen == [batch_id(index) for index in (5, 4, 3, 2, 1)]
    assert ledger.batches("ann", after=batch_id(6)) == []


def test_calls_are_forgotten_some_time_after_their_end_with_all_they_had(ledger: Ledger) -> None:
    for index, end in ((1, 100), (2, 200), (3, 300)):
        ledger.add_batch(batch(index, kind=Kind.CALL), [line(1, body=b"{}")])
        ledger.record([failure(taken) for taken in ledger.take(batch_id(index), "demo", 1)])
        ledger.move(batch_id(index), BatchStatus.FINALIZING, now=end)
        ledger.move(batch_id(index), BatchStatus.COMPLETED, now=end)
    ledger.add_batch(batch(4, kind=Kind.CALL), [line(1)])
    ledger.add_batch(batch(5, status=BatchStatus.FAILED, failed_at=1))
    assert ledger.forget_calls(before=300, limit=1) == 1
    assert ledger.forget_calls(before=300) == 1
    assert ledger.forget_calls(before=300) == 0
    assert [ledger.batch(batch_id(index)) is not None for index in range(1, 6)] == [False, False, True, True, True]
    assert list(ledger.results(batch_id(1), ok=False)) == []
    assert ledger.add_batch(batch(1, kind=Kind.CALL), lines(1))
    assert counts_of(ledger, batch_id(1)) == Counts(total=1)
