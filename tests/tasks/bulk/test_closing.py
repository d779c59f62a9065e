"""Batches begin and end slice by slice, and a crash between two slices shows nowhere."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import redis

from tasks.bulk import housekeeping
from tasks.bulk.closing import Closing
from tasks.bulk.files import FileStore
from tasks.bulk.intake import intake
from tasks.bulk.ledger import Ledger
from tasks.bulk.ledger_desk import LedgerDesk
from tasks.bulk.records import BatchRecord, BatchStatus, Counts, Kind, Outcome
from tasks.errors import FileNotFoundHereError
from tasks.settings import Settings
from tests.bulk_stack import NoResults, chat_line
from tests.tasks.bulk.ledger_rows import answer, batch, batch_id, failure, file_id, line, lines

NOW = 5000.0
OWNER = "ann"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "files")


@pytest.fixture
def desk(ledger: Ledger, files: FileStore, client: redis.Redis) -> LedgerDesk:
    return LedgerDesk(ledger, files, client, now=lambda: NOW)


@pytest.fixture
def results() -> NoResults:
    return NoResults()


@pytest.fixture
def closing(ledger: Ledger, desk: LedgerDesk, results: NoResults) -> Closing:
    return Closing(ledger, desk, results, lambda: NOW)


def run(steps: Iterator[bool]) -> int:
    return sum(1 for _ in steps)


def break_off(steps: Iterator[bool]) -> None:
    assert isinstance(steps, Generator)
    steps.close()


def found(ledger: Ledger, index: int = 1) -> BatchRecord:
    record = ledger.batch(batch_id(index))
    assert record is not None
    return record


def answered(ledger: Ledger, count: int, failures: int = 0, **of: object) -> BatchRecord:
    """Return a batch all of whose lines have their results."""
    ledger.add_batch(batch(1, **of), lines(count))
    taken = ledger.take(batch_id(1), "demo", count)
    ledger.record([failure(it) if i < failures else answer(it) for i, it in enumerate(taken)])
    return found(ledger)


def text_of(desk: LedgerDesk, file: str | None) -> list[str]:
    assert file is not None
    with desk.open(file, OWNER) as content:
        return content.read().decode().splitlines()


def test_a_batch_ends_with_both_files(ledger: Ledger, desk: LedgerDesk, closing: Closing) -> None:
    assert run(closing.complete(answered(ledger, 1000, failures=2), None)) > 4
    ended = found(ledger)
    assert (ended.status, ended.finalizing_at, ended.completed_at) == (BatchStatus.COMPLETED, 5000, 5000)
    assert [json.loads(it)["custom_id"] for it in text_of(desk, ended.error_file_id)] == ["request-1", "request-2"]
    assert len(text_of(desk, ended.output_file_id)) == 998
    assert list(ledger.results(batch_id(1), ok=True)) == []
    assert ended.counts.completed == 998


def test_two_who_end_a_batch_at_once_write_one_file(ledger: Ledger, desk: LedgerDesk, closing: Closing) -> None:
    first, second = closing.complete(answered(ledger, 500), None), closing.complete(found(ledger), None)
    while found(ledger).status is not BatchStatus.COMPLETED:
        next(first, None)
        next(second, None)
    kept, _ = desk.files(OWNER, purpose="batch_output")
    assert [file.id for file in kept] == [found(ledger).output_file_id]
    assert len(text_of(desk, kept[0].id)) == 500


def test_there_is_no_file_of_no_lines_and_each_expires_as_wished(
    ledger: Ledger, desk: LedgerDesk, closing: Closing
) -> None:
    run(closing.complete(answered(ledger, 2, output_expires_after_s=3600), None))
    ended = found(ledger)
    assert ended.error_file_id is None
    assert ended.output_file_id is not None
    file = desk.file(ended.output_file_id, OWNER)
    assert (file.name, file.purpose, file.expires_at) == (f"{batch_id(1)}_output.jsonl", "batch_output", 8600)


def test_a_crash_anywhere_leaves_one_whole_file(ledger: Ledger, desk: LedgerDesk, closing: Closing) -> None:
    record = answered(ledger, 900, failures=300)
    slices = 0
    while found(ledger).status is not BatchStatus.COMPLETED:
        # Each time it comes one slice further, and is killed there.
        steps = closing.complete(found(ledger), None)
        for _ in range(slices):
            next(steps, None)
        break_off(steps)
        slices += 1
    ended = found(ledger)
    kept, _ = desk.files(OWNER, purpose="batch_output")
    assert {file.id for file in kept} == {ended.output_file_id, ended.error_file_id}
    assert len(text_of(desk, ended.output_file_id)) == 600
    assert len(text_of(desk, ended.error_file_id)) == 300
    assert record.counts.total == 900


def test_what_the_killed_left_of_an_ended_batch_is_swept(ledger: Ledger, files: FileStore, closing: Closing) -> None:
    steps = closing.complete(answered(ledger, 5), None)
    while found(ledger).status is not BatchStatus.COMPLETED:
        next(steps)
    assert ledger.leftovers() == [batch_id(1)]
    run(housekeeping.sweep(ledger, files, calls_s=3600, now=NOW))
    assert ledger.leftovers() == []
    assert ledger.last_line(batch_id(1)) == 0


def test_lines_that_never_ran_are_in_the_error_file(ledger: Ledger, desk: LedgerDesk, closing: Closing) -> None:
    ledger.add_batch(batch(1), lines(2500))
    run(closing.expire(found(ledger)))
    ended = found(ledger)
    assert (ended.status, ended.counts) == (BatchStatus.EXPIRED, Counts(total=2500, failed=2500))
    assert json.loads(text_of(desk, ended.error_file_id)[-1])["error"]["code"] == "batch_expired"


def test_a_cancelled_batch_has_the_results_that_there_are_and_no_others(
    ledger: Ledger, desk: LedgerDesk, closing: Closing
) -> None:
    ledger.add_batch(batch(1), lines(50_000))
    done, failed, _ = ledger.take(batch_id(1), "demo", 3)
    ledger.record([answer(done), failure(failed)])
    ledger.move(batch_id(1), BatchStatus.CANCELLING, now=int(NOW))
    steps, slices = closing.cancel(found(ledger)), 0
    while found(ledger).status is not BatchStatus.CANCELLED:
        next(steps)
        slices += 1
    assert slices < 5
    run(steps)
    ended = found(ledger)
    assert (ended.counts.total, ended.counts.completed, ended.counts.failed) == (50_000, 1, 1)
    assert len(text_of(desk, ended.output_file_id)) == len(text_of(desk, ended.error_file_id)) == 1
    assert ledger.last_line(batch_id(1)) == 0
    assert ledger.leftovers() == []


def test_who_ends_a_batch_that_ends_otherwise_leaves_its_lines_alone(ledger: Ledger, closing: Closing) -> None:
    ledger.add_batch(batch(1), lines(2))
    late = found(ledger)
    ledger.move(batch_id(1), BatchStatus.CANCELLING, now=int(NOW))
    run(closing.complete(late, None))
    assert ledger.last_line(batch_id(1)) == 2


def test_an_intake_that_comes_late_and_sees_no_file_leaves_a_running_batch_alone(
    ledger: Ledger, files: FileStore
) -> None:
    ledger.add_batch(batch(1, status=BatchStatus.VALIDATING), lines(2))
    late = found(ledger)
    ledger.move(batch_id(1), BatchStatus.IN_PROGRESS, now=int(NOW))
    run(intake(ledger, files, late, Settings.from_env({}), lambda: NOW))
    assert (found(ledger).status, ledger.last_line(batch_id(1))) == (BatchStatus.IN_PROGRESS, 2)


def test_the_result_of_a_call_goes_to_who_called_and_is_forgotten_in_time(
    ledger: Ledger, files: FileStore, closing: Closing, results: NoResults
) -> None:
    ledger.add_batch(batch(1, kind=Kind.CALL, owner="", input_file_id=""), [line(1, body=b"{}")])
    (taken,) = ledger.take(batch_id(1), "demo", 1)
    ledger.record([answer(taken)])
    run(closing.complete(found(ledger), 0.5))
    ((task_id, outcome),) = results.stored
    assert (task_id, outcome.body) == (batch_id(1), b'{"answer": 1}')
    run(housekeeping.sweep(ledger, files, calls_s=3600, now=NOW + 3600))
    assert ledger.batch(batch_id(1)) is not None
    run(housekeeping.sweep(ledger, files, calls_s=3600, now=NOW + 3601))
    assert ledger.batch(batch_id(1)) is None


def test_a_call_whose_result_cannot_be_stored_has_not_ended(ledger: Ledger, desk: LedgerDesk) -> None:
    class Away(NoResults):
        def store(self, task_id: str, outcome: Outcome, took_s: float | None) -> None:
            raise redis.ConnectionError("away")

    record = answered(ledger, 1, kind=Kind.CALL)
    with pytest.raises(redis.ConnectionError):
        run(Closing(ledger, desk, Away(), lambda: NOW).complete(record, None))
    assert found(ledger).status is BatchStatus.FINALIZING


def test_an_intake_goes_on_where_a_killed_one_stopped(ledger: Ledger, files: FileStore, desk: LedgerDesk) -> None:
    settings = Settings.from_env({})
    upload = desk.new_upload()
    upload.write_text("".join(json.dumps(chat_line(i)) + "\n" for i in range(5000)))
    files.keep(upload, file_id(1))
    ledger.add_batch(batch(1, status=BatchStatus.VALIDATING))
    steps = intake(ledger, files, found(ledger), settings, lambda: NOW)
    next(steps)
    break_off(steps)
    assert 0 < found(ledger).counts.total < 5000
    run(intake(ledger, files, found(ledger), settings, lambda: NOW))
    taken_in = found(ledger)
    assert (taken_in.status, taken_in.counts.total) == (BatchStatus.IN_PROGRESS, 5000)
    assert ledger.pending(batch_id(1)) == {"sim": 5000}


def test_a_file_with_a_flaw_leaves_no_lines(ledger: Ledger, files: FileStore, desk: LedgerDesk) -> None:
    upload = desk.new_upload()
    upload.write_text("".join(json.dumps(chat_line(i % 2999)) + "\n" for i in range(3000)))
    files.keep(upload, file_id(1))
    ledger.add_batch(batch(1, status=BatchStatus.VALIDATING))
    run(intake(ledger, files, found(ledger), Settings.from_env({}), lambda: NOW))
    failed = found(ledger)
    assert (failed.status, [(flaw.line, flaw.code) for flaw in failed.flaws]) == (
        BatchStatus.FAILED,
        [(3000, "duplicate_custom_id")],
    )
    assert ledger.last_line(batch_id(1)) == 0


def test_files_whose_time_is_over_and_abandoned_uploads_are_swept(
    ledger: Ledger, files: FileStore, desk: LedgerDesk
) -> None:
    upload = desk.new_upload()
    upload.write_text("x")
    kept = desk.keep(upload, owner=OWNER, name="x", purpose="batch", expires_after_s=10)
    abandoned = desk.new_upload()
    run(housekeeping.sweep(ledger, files, calls_s=3600, now=NOW + 9))
    assert desk.file(kept.id, OWNER) == kept
    run(housekeeping.sweep(ledger, files, calls_s=3600, now=NOW + 10))
    with pytest.raises(FileNotFoundHereError):
        desk.file(kept.id, OWNER)
    assert abandoned.exists()
    run(housekeeping.sweep(ledger, files, calls_s=3600, now=abandoned.stat().st_mtime + 86_401))
    assert not abandoned.exists()
