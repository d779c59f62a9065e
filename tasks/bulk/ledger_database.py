"""The connection between the ledger and its database: where it is, who may write now, and what to do when it fails.

SQLite has one writer at a time. Whoever must wait does so here, not in SQLite's own busy
handler, which sleeps without giving other greenlets their turn.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Insert, Table, create_engine, event, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from tasks.bulk import ledger_tables as tables
from tasks.bulk.folders import make_private, sync_folder

log = logging.getLogger(__name__)

_T = TypeVar("_T")

# How long a transaction is tried again while others write.
_PATIENCE_S = 20.0
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.016
_CONNECT_TIMEOUT_S = 5
_POOL_TIMEOUT_S = 10.0
# Any number that is nobody else's: processes that make the tables take turns by it.
_ADVISORY_LOCK = 0x43454C4552495459
# RETURNING came with it.
_OLDEST_SQLITE = (3, 35)
# Serialization failure and deadlock: the transaction did nothing.
_TRANSIENT_STATES = frozenset({"40001", "40P01"})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class LedgerError(Exception):
    """The database cannot be reached, or is not one of ours. The text says which and what to do; no password."""


class Database:
    """Transactions, each on a connection of its own. Usable from any thread or greenlet of the process it is made in.

    What is given to `read` and `write` may be run several times, each in a transaction of
    its own of which at most the last is committed.
    """

    def __init__(self, url: str) -> None:
        """Raises LedgerError for a URL we cannot use. Connects with the first transaction."""
        self._url = _parse(url)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        self._name = _name(self._url)
        self._engine = self._build()
        self._preparing = threading.Lock()
        self._prepared = False
        self._file: tuple[int, int] | None = None
        self._writing = threading.Lock()

    def close(self) -> None:
        self._engine.dispose()

    def read(self, work: Callable[[Connection], _T]) -> _T:
        self._prepare()
        return self._run(work, "BEGIN")

    def write(self, work: Callable[[Connection], _T], *, durable: bool = True) -> _T:
        """Commit `work`. What is not `durable` survives the end of every process, but perhaps not a power failure."""
        # In WAL mode a commit is in the file as far as the kernel is concerned, so no end
        # of a process undoes it. Power loss does, unless the log was synced: FULL does that
        # with each commit, NORMAL only now and then; neither leaves the file damaged. We
        # sync what somebody was told: an accepted file, batch or call, its end, a result.
        # That a line was taken or given back may be forgotten: it is then tried again,
        # under the same request id. PostgreSQL always syncs.
        self._prepare()
        if not self._sqlite:
            return self._run(work, "")
        # Those of this process take turns by a lock, so that none has to guess when it may.
        if not self._writing.acquire(timeout=_PATIENCE_S):
            raise LedgerError(f"{self._name} is busy: another thread writes for more than {_PATIENCE_S:.0f} s")
        try:
            return self._run(work, "BEGIN IMMEDIATE", synchronous="FULL" if durable else "NORMAL")
        finally:
            self._writing.release()

    def _run(self, work: Callable[[Connection], _T], begin: str, synchronous: str = "") -> _T:
        give_up = time.monotonic() + _PATIENCE_S
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                with self._engine.connect() as connection:
                    if self._sqlite:
                        connection.info["begin"], connection.info["synchronous"] = begin, synchronous
                    with connection.begin():
                        return work(connection)
            except SQLAlchemyError as error:
                if not _transient(error) or time.monotonic() > give_up:
                    raise self._failure(error) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _prepare(self) -> None:
        if self._prepared and self._in_place():
            return
        with self._preparing:
            if self._prepared and self._in_place():
                return
            if self._prepared:
                # What is open is nobody else's file any more: a batch that we accept there would never be run.
                log.error("the ledger's file is another now", extra={"event": "ledger_replaced"})
                self._prepared = False
                self._engine.dispose()
            if self._sqlite:
                self._prepare_file()
            self._run(self._prepare_tables, "BEGIN IMMEDIATE", synchronous="FULL")
            self._prepared = True

    def _prepare_file(self) -> None:
        path = Path(self._url.database or "")
        try:
            make_private(path.parent)
            # The log and the index beside it get the mode of the file.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._file = _identity(os.fstat(descriptor))
            os.close(descriptor)
            # SQLite does this for a file that it makes itself.
            sync_folder(path.parent)
        except OSError as error:
            raise LedgerError(f"{self._name} cannot be written: {error.strerror}") from error

    def _in_place(self) -> bool:
        """Say whether the file that we opened is still the one of that name."""
        if not self._sqlite:
            return True
        try:
            return _identity(Path(self._url.database or "").stat()) == self._file
        except OSError:
            return False

    def _prepare_tables(self, connection: Connection) -> None:
        if not self._sqlite:
            connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        tables.metadata.create_all(connection)
        found = connection.execute(select(tables.versions.c.version)).scalars().all()
        if not found:
            connection.execute(insert(tables.versions).values(version=tables.VERSION))
        elif list(found) != [tables.VERSION]:
            raise LedgerError(
                f"{self._name} has version {max(found)} of the ledger's tables, and this release knows version "
                f"{tables.VERSION}: use the release that made it, or another CELERITY_DATABASE_URL"
            )

    def _build(self) -> Engine:
        # Parameters are people's prompts, and belong in no error text.
        if not self._sqlite:
            arguments = {"connect_timeout": _CONNECT_TIMEOUT_S, "client_encoding": "utf8"}
            engine = create_engine(
                self._url,
                hide_parameters=True,
                pool_pre_ping=True,
                pool_timeout=_POOL_TIMEOUT_S,
                connect_args=arguments,
            )
            event.listen(engine, "connect", _set_up_postgresql)
            return engine
        engine = create_engine(
            self._url,
            hide_parameters=True,
            pool_timeout=_POOL_TIMEOUT_S,
            connect_args={"timeout": _FIRST_PAUSE_S, "isolation_level": None},
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin)
        return engine

    def _failure(self, error: SQLAlchemyError) -> LedgerError:
        if _transient(error):
            return LedgerError(f"{self._name} is busy: others have been writing for more than {_PATIENCE_S:.0f} s")
        reason = str(error.orig) if isinstance(error, DBAPIError) else str(error)
        reason = reason.strip().partition("\n")[0] or type(error).__name__
        if self._url.password:
            reason = reason.replace(str(self._url.password), "***")
        return LedgerError(f"{self._name} failed: {reason}")


def insert_new(connection: Connection, table: Table) -> Insert:
    """Return an INSERT that passes over rows which are there already."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


def _parse(text: str) -> URL:
    expected = "expected is sqlite:////path/to/file or postgresql+psycopg://user:password@host/database"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise LedgerError(f"CELERITY_DATABASE_URL is not a URL; {expected}") from None
    if url.drivername in {"postgresql", "postgres"}:
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in {"sqlite", "sqlite+pysqlite", "postgresql+psycopg"}:
        raise LedgerError(f"CELERITY_DATABASE_URL is of {url.drivername}, which is not supported; {expected}")
    if url.get_backend_name() == "sqlite":
        if url.database in {None, "", ":memory:"} or str(url.database).startswith("file:"):
            raise LedgerError(f"CELERITY_DATABASE_URL names no file; {expected}")
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise LedgerError(f"SQLite {sqlite3.sqlite_version} is too old for the ledger; 3.35 is needed")
    return url


def _name(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return f"the ledger {url.database}"
    port = f":{url.port}" if url.port else ""
    return f"the ledger in PostgreSQL, database {url.database} of {url.host or 'this machine'}{port},"


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    # The log of a large intake does not stay that large.
    connection.execute("PRAGMA journal_size_limit=67108864")


def _set_up_postgresql(connection: Any, _record: object) -> None:
    # Each query has its index. Until the first ANALYZE of a new batch PostgreSQL believes
    # its tables to be small, and would read and sort all of it for one page: 50 times as long.
    for plan in ("seqscan", "bitmapscan", "hashjoin", "mergejoin"):
        connection.execute(f"SET enable_{plan} = off")
    connection.commit()


def _begin(connection: Connection) -> None:
    """Begin as the caller wants it: Python's sqlite3 would begin late, and then not be allowed to write."""
    if wanted := connection.info["synchronous"]:
        connection.exec_driver_sql(f"PRAGMA synchronous={wanted}")
    connection.exec_driver_sql(connection.info["begin"])


def _transient(error: SQLAlchemyError) -> bool:
    """Say whether the same transaction may succeed in a moment, having done nothing so far."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(cause, sqlite3.OperationalError):
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF in _BUSY
    return getattr(cause, "sqlstate", None) in _TRANSIENT_STATES
