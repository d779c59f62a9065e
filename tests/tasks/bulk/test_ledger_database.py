"""What the ledger makes of its database's address, of what it finds there, and of others who write."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text

from tasks.bulk.ledger import Ledger, LedgerError
from tasks.bulk.records import BatchStatus
from tests.stack import free_port, in_threads
from tests.tasks.bulk.ledger_rows import answer, batch, batch_id, counts_of, failure, file, file_id, lines, started
from tests.waiting import wait_until


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "not a URL"),
        ("postgresql+psycopg://me:s3cret@host:port/db", "not a URL"),
        ("mysql://me:s3cret@host/db", "of mysql, which is not supported"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_an_address_of_no_use_is_refused_with_what_is_expected(url: str, said: str) -> None:
    with pytest.raises(LedgerError, match=said) as caught:
        Ledger(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_a_server_that_is_not_there_is_named_without_the_password(scheme: str) -> None:
    port = free_port()
    with contextlib.closing(Ledger(f"{scheme}://me:s3cret@127.0.0.1:{port}/bulk")) as ledger:
        with pytest.raises(LedgerError, match=f"database bulk of 127.0.0.1:{port}, failed") as caught:
            ledger.open_batches()
        assert "s3cret" not in str(caught.value)


def test_the_file_and_its_folder_are_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "bulk" / "ledger.db"
    with contextlib.closing(Ledger(f"sqlite:///{path}")) as ledger:
        ledger.add_file(file())
        modes = {one.name: one.stat().st_mode & 0o777 for one in path.parent.iterdir()}
        assert modes == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}
        assert [one.stat().st_mode & 0o777 for one in (path.parent, path.parent.parent)] == [0o700, 0o700]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "bulk").write_text("a file")
    with (
        contextlib.closing(Ledger(f"sqlite:///{tmp_path / 'bulk' / 'ledger.db'}")) as ledger,
        pytest.raises(LedgerError, match="cannot be written"),
    ):
        ledger.open_batches()


def test_a_file_that_is_no_database_is_said_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"my thesis " * 1000)
    with (
        contextlib.closing(Ledger(f"sqlite:///{path}")) as ledger,
        pytest.raises(LedgerError, match="not a database"),
    ):
        ledger.open_batches()
    assert path.read_bytes() == b"my thesis " * 1000


def test_an_error_tells_no_prompt(ledger_url: str) -> None:
    with contextlib.closing(Ledger(ledger_url)) as ledger:
        ledger.open_batches()
        change(ledger_url, "DROP TABLE bulk_lines")
        with pytest.raises(LedgerError) as caught:
            ledger.add_batch(batch(), lines(1, "a secret prompt"))
    assert "secret" not in str(caught.value)
    assert "secret" not in str(caught.value.__cause__)


def test_a_missing_table_is_made_when_a_process_begins(ledger_url: str) -> None:
    with contextlib.closing(Ledger(ledger_url)) as ledger:
        ledger.add_file(file())
        change(ledger_url, "DROP TABLE bulk_lines")
    with contextlib.closing(Ledger(ledger_url)) as ledger:
        assert ledger.file(file_id(1), "ann") == file()
        started(ledger, lines(2))
        assert ledger.pending(batch_id(1)) == {"demo": 2}


def test_tables_of_a_newer_release_are_left_alone(ledger_url: str) -> None:
    with contextlib.closing(Ledger(ledger_url)) as ledger:
        ledger.add_file(file())
    change(ledger_url, "UPDATE bulk_version SET version = 7")
    with contextlib.closing(Ledger(ledger_url)) as ledger:
        for _ in range(2):
            with pytest.raises(LedgerError, match=r"version 7 .* knows version 1: use the release"):
                ledger.file(file_id(1), "ann")


def test_a_ledger_works_once_its_database_is_back(tmp_path: Path) -> None:
    blocked = tmp_path / "bulk"
    blocked.write_text("in the way")
    with contextlib.closing(Ledger(f"sqlite:///{blocked / 'ledger.db'}")) as ledger:
        with pytest.raises(LedgerError):
            ledger.add_file(file())
        blocked.unlink()
        ledger.add_file(file())
        assert ledger.file(file_id(1), "ann") == file()


def test_a_file_that_was_taken_away_is_left_by_everyone_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bulk' / 'ledger.db'}"
    with contextlib.closing(Ledger(url)) as one, contextlib.closing(Ledger(url)) as other:
        one.add_batch(batch(1))
        assert other.batch(batch_id(1)) is not None
        for path in (tmp_path / "bulk").iterdir():
            path.unlink()
        # Neither must accept what the other would never see.
        one.add_batch(batch(2))
        assert other.batch(batch_id(2)) is not None
        assert [one.batch(batch_id(1)), other.batch(batch_id(1))] == [None, None]


def test_ledgers_that_begin_at_once_make_one_database(ledger_url: str) -> None:
    ledgers = [Ledger(ledger_url) for _ in range(8)]
    in_threads(8, lambda index: ledgers[index].add_file(file(index)))
    assert len(ledgers[0].files("ann")) == 8
    for ledger in ledgers:
        ledger.close()


def test_a_writer_waits_for_another_process_and_then_writes(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with contextlib.closing(Ledger(f"sqlite:///{path}")) as ledger:
        here = started(ledger, lines(1))
        (taken,) = ledger.take(here, "demo", 1)
        with _locked(path) as let_go:
            # Whoever reads does not wait.
            assert counts_of(ledger, here).total == 1
            done = threading.Event()

            def record() -> None:
                ledger.record([answer(taken)])
                done.set()

            waiting = threading.Thread(target=record)
            waiting.start()
            assert not done.wait(0.05)
            let_go()
            wait_until(done.is_set, "the result to be recorded")
            waiting.join()
        assert counts_of(ledger, here).completed == 1


def test_what_somebody_was_told_is_synced_and_what_can_be_tried_again_is_not(tmp_path: Path) -> None:
    with contextlib.closing(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger, _statements() as said:
        here = started(ledger, lines(2))
        said.clear()
        taken = ledger.take(here, "demo", 2)
        ledger.give_back(taken[:1])
        assert [one for one, _ in said if "synchronous" in one] == ["PRAGMA synchronous=NORMAL"] * 2
        said.clear()
        ledger.record([answer(one) for one in taken])
        ledger.add_file(file(2))
        ledger.add_batch(batch(2))
        ledger.move(batch_id(2), BatchStatus.CANCELLING, now=1)
        assert [one for one, _ in said if "synchronous" in one] == ["PRAGMA synchronous=FULL"] * 4


def test_every_query_has_its_index(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with contextlib.closing(Ledger(f"sqlite:///{path}")) as ledger:
        ledger.open_batches()
        with _statements() as said:
            _everything(ledger)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement, parameters in said:
            if statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
                plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
                scans = [step for step in plan if step.startswith("SCAN bulk_") and " USING " not in step]
                assert not scans, statement
                for state in ("pending", "running"):
                    if f"state = '{state}'" in statement:
                        assert any(f"INDEX bulk_lines_{state}" in step for step in plan), statement


def _everything(ledger: Ledger) -> None:
    ledger.add_file(file())
    ledger.file(file_id(1), "ann")
    ledger.files("ann", after=file_id(1))
    ledger.files("ann", purpose="batch", newest_first=False)
    ledger.expired_files(1)
    here = started(ledger, lines(5))
    ledger.add_lines(here, lines(9))
    first, second, third = ledger.take(here, "demo", 3)
    ledger.give_back([first])
    ledger.record([answer(second), failure(third)])
    ledger.end_pending(here, failure(third), limit=1)
    for ok in (True, False):
        list(ledger.results(here, ok=ok))
    ledger.running()
    ledger.running([here])
    ledger.batch(here, "ann")
    ledger.batches("ann", after=here)
    ledger.open_batches()
    ledger.count_open("ann")
    ledger.pending(here)
    ledger.last_line(here)
    ledger.move(here, BatchStatus.EXPIRED, now=1)
    ledger.forget_some(here, 100)
    ledger.forget_calls(1)
    ledger.remove_file(file_id(1), "ann")


@contextlib.contextmanager
def _statements() -> Iterator[list[tuple[str, Any]]]:
    """Yield what the database is told from here on, with the (first) parameters of each."""
    said: list[tuple[str, Any]] = []

    def note(
        _connection: object, _cursor: object, statement: str, parameters: Any, _context: object, many: bool
    ) -> None:
        said.append((statement, parameters[0] if many else parameters))

    event.listen(Engine, "before_cursor_execute", note)
    yield said
    event.remove(Engine, "before_cursor_execute", note)


def change(url: str, statement: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Callable[[], object]]:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield lambda: other.execute("ROLLBACK")
    finally:
        other.close()
