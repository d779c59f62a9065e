"""Files in the ledger: each function is part of one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, delete, or_, select

from tasks.bulk.ledger_database import insert_new
from tasks.bulk.ledger_tables import batches, files
from tasks.bulk.records import FileRecord
from tasks.errors import FileInUseError

_COLUMNS = (
    files.c.id,
    files.c.owner,
    files.c.name,
    files.c.purpose,
    files.c.size,
    files.c.created_at,
    files.c.expires_at,
)
_READ = select(batches.c.key).where(batches.c.ended_at.is_(None), batches.c.input_file_id == files.c.id)


def add(connection: Connection, file: FileRecord) -> None:
    row = {column.name: getattr(file, column.name) for column in _COLUMNS}
    connection.execute(insert_new(connection, files), row)


def find(connection: Connection, file_id: str, owners: Sequence[str]) -> FileRecord | None:
    row = connection.execute(select(*_COLUMNS).where(files.c.id == file_id, files.c.owner.in_(owners))).first()
    return None if row is None else _record(row)


def page(
    connection: Connection,
    owners: Sequence[str],
    *,
    purpose: str | None,
    after: str | None,
    limit: int,
    newest_first: bool,
) -> list[FileRecord]:
    query = select(*_COLUMNS).where(files.c.owner.in_(owners))
    if purpose is not None:
        query = query.where(files.c.purpose == purpose)
    if after is not None:
        last = find(connection, after, owners)
        if last is None:
            return []
        query = query.where(following(files.c.created_at, files.c.id, last.created_at, last.id, down=newest_first))
    query = in_order(query, files.c.created_at, files.c.id, down=newest_first).limit(limit)
    return [_record(row) for row in connection.execute(query)]


def remove(connection: Connection, file_id: str, owners: Sequence[str]) -> bool:
    mine = and_(files.c.id == file_id, files.c.owner.in_(owners))
    # Locked, so that a batch which is added at this moment finds it gone, or is found here.
    if connection.execute(select(files.c.id).where(mine).with_for_update()).first() is None:
        return False
    if connection.execute(select(_READ.where(files.c.id == file_id).exists())).scalar():
        raise FileInUseError("A batch that has not ended reads this file; cancel the batch, or wait for its end.")
    connection.execute(delete(files).where(mine))
    return True


def expired(connection: Connection, now: int, limit: int) -> list[FileRecord]:
    query = select(*_COLUMNS).where(files.c.expires_at <= now, ~_READ.correlate(files).exists())
    return [_record(row) for row in connection.execute(query.order_by(files.c.expires_at).limit(limit))]


def following(
    time: ColumnElement[Any], name: ColumnElement[Any], last_time: int, last_name: str, *, down: bool
) -> ColumnElement[bool]:
    """Return the condition that a row comes after the last one of a page."""
    if down:
        return or_(time < last_time, and_(time == last_time, name < last_name))
    return or_(time > last_time, and_(time == last_time, name > last_name))


def in_order(query: Select[Any], time: ColumnElement[Any], name: ColumnElement[Any], *, down: bool) -> Select[Any]:
    return query.order_by(time.desc(), name.desc()) if down else query.order_by(time, name)


def _record(row: Row[*tuple[Any, ...]]) -> FileRecord:
    return FileRecord(**row._mapping)
