"""Batches in the ledger: each function is part of one transaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, Row, and_, bindparam, delete, func, select, update

from tasks.bulk.ledger_database import insert_new
from tasks.bulk.ledger_files import following, in_order
from tasks.bulk.ledger_tables import OPEN, backlog, batches, files, lines, results
from tasks.bulk.records import ADVANCES, ENDED, BatchRecord, BatchStatus, Counts, Flaw, Kind
from tasks.errors import FileNotFoundHereError
from tasks.messages import Endpoint

_COUNTS = tuple(field.name for field in dataclasses.fields(Counts))
_PLAIN = tuple(field.name for field in dataclasses.fields(BatchRecord) if field.name in batches.c)
_COLUMNS = tuple(batches.c[name] for name in (*_PLAIN, *_COUNTS))
_SETTABLE = frozenset({"output_file_id", "error_file_id", "flaws"})
_FROM = {to: [status.value for status, onward in ADVANCES.items() if to in onward] for to in BatchStatus}


def add(connection: Connection, batch: BatchRecord, *, reads_file: bool) -> int | None:
    """Return the key of the new batch; None when its id is there already."""
    if reads_file:
        mine = and_(files.c.id == batch.input_file_id, files.c.owner == batch.owner)
        if connection.execute(select(files.c.id).where(mine).with_for_update()).first() is None:
            raise FileNotFoundHereError("There is no file of this id.", param="input_file_id")
    row = {name: getattr(batch, name) for name in _PLAIN} | dataclasses.asdict(batch.counts)
    # As plain text: not every driver takes an enum by its value.
    row |= {"kind": batch.kind.value, "status": batch.status.value, "endpoint": batch.endpoint and batch.endpoint.value}
    row |= {"metadata": _json(batch.metadata), "flaws": _flaws(batch.flaws)}
    if batch.status in ENDED:
        row["ended_at"] = getattr(batch, f"{batch.status}_at") or batch.created_at
    added = connection.execute(insert_new(connection, batches).returning(batches.c.key), row)
    return added.scalar()


def keys_of(connection: Connection, batch_ids: Iterable[str]) -> dict[str, int]:
    """Return the keys of those batches that there are, by id."""
    query = select(batches.c.id, batches.c.key).where(batches.c.id.in_(list(batch_ids)))
    return {row.id: row.key for row in connection.execute(query)}


def lock(connection: Connection, batch_id: str) -> int | None:
    """Return the key of a batch whose row nobody else changes until the transaction ends."""
    query = select(batches.c.key).where(batches.c.id == batch_id).with_for_update()
    return connection.execute(query).scalar()


def find(connection: Connection, batch_id: str, owners: Sequence[str]) -> BatchRecord | None:
    """Return a batch, of anybody's when `owners` is empty."""
    query = select(*_COLUMNS).where(batches.c.id == batch_id)
    if owners:
        query = query.where(batches.c.owner.in_(owners))
    row = connection.execute(query).first()
    return None if row is None else _record(row)


def page(connection: Connection, owners: Sequence[str], *, after: str | None, limit: int) -> list[BatchRecord]:
    query = select(*_COLUMNS).where(batches.c.owner.in_(owners), batches.c.kind == Kind.FILE.value)
    if after is not None:
        last = find(connection, after, owners)
        if last is None:
            return []
        query = query.where(following(batches.c.created_at, batches.c.id, last.created_at, last.id, down=True))
    query = in_order(query, batches.c.created_at, batches.c.id, down=True).limit(limit)
    return [_record(row) for row in connection.execute(query)]


def open_ones(connection: Connection) -> list[BatchRecord]:
    query = select(*_COLUMNS).where(OPEN).order_by(batches.c.created_at, batches.c.key)
    return [_record(row) for row in connection.execute(query)]


def count_open(connection: Connection, owner: str) -> int:
    mine = and_(batches.c.owner == owner, batches.c.kind == Kind.FILE.value)
    return connection.scalar(select(func.count()).select_from(batches).where(OPEN, mine)) or 0


def move(connection: Connection, batch_id: str, to: BatchStatus, now: int, fields: dict[str, Any]) -> bool:
    if unknown := fields.keys() - _SETTABLE:
        raise TypeError(f"not a field that moves with a batch: {sorted(unknown)}")
    if not _FROM[to]:
        return False
    values: dict[str, Any] = {"status": to.value, f"{to.value}_at": now, **fields}
    if to in ENDED:
        values["ended_at"] = now
    if "flaws" in fields:
        values["flaws"] = _flaws(fields["flaws"])
    moved = connection.execute(
        update(batches).where(batches.c.id == batch_id, batches.c.status.in_(_FROM[to])).values(values)
    )
    return moved.rowcount > 0


def count(connection: Connection, added: dict[int, Counts]) -> None:
    """Add to the counts of batches, by their keys."""
    # Always in the same order, so that no two transactions wait for each other.
    rows = [{"_key": key, **{f"_{n}": getattr(added[key], n) for n in _COUNTS}} for key in sorted(added)]
    if rows:
        connection.execute(_COUNT, rows)


_COUNT = (
    update(batches)
    .where(batches.c.key == bindparam("_key"))
    .values({name: batches.c[name] + bindparam(f"_{name}") for name in _COUNTS})
)


def pending(connection: Connection, batch_id: str) -> dict[str, int]:
    query = select(backlog.c.model, backlog.c.pending).join(batches, batches.c.key == backlog.c.batch)
    found = connection.execute(query.where(batches.c.id == batch_id, backlog.c.pending > 0))
    return {row.model: row.pending for row in found}


def shift_backlog(connection: Connection, added: dict[tuple[int, str], int]) -> None:
    """Add to the numbers of lines that wait, by batch and model."""
    rows = [{"_batch": batch, "_model": model, "_by": added[batch, model]} for batch, model in sorted(added)]
    rows = [row for row in rows if row["_by"]]
    if rows:
        connection.execute(_SHIFT, rows)


def open_backlog(connection: Connection, batch: int, models: Iterable[str]) -> None:
    """Have a row for each model, so that `shift_backlog` finds it."""
    rows = [{"batch": batch, "model": model, "pending": 0} for model in sorted(set(models))]
    if rows:
        connection.execute(insert_new(connection, backlog), rows)


_SHIFT = (
    update(backlog)
    .where(backlog.c.batch == bindparam("_batch"), backlog.c.model == bindparam("_model"))
    .values(pending=backlog.c.pending + bindparam("_by"))
)


def leftovers(connection: Connection, limit: int) -> list[str]:
    # What was forgotten has no backlog, not even an empty one.
    query = select(batches.c.id).distinct().join(backlog, backlog.c.batch == batches.c.key)
    return list(connection.scalars(query.where(batches.c.ended_at.is_not(None)).limit(limit)))


def forget_calls(connection: Connection, before: int, limit: int) -> int:
    query = select(batches.c.key).where(batches.c.kind == Kind.CALL.value, batches.c.ended_at < before)
    keys = list(connection.scalars(query.order_by(batches.c.ended_at).limit(limit).with_for_update(skip_locked=True)))
    for table in (results, lines, backlog):
        connection.execute(delete(table).where(table.c.batch.in_(keys)))
    connection.execute(delete(batches).where(batches.c.key.in_(keys)))
    return len(keys)


def _record(row: Row[*tuple[Any, ...]]) -> BatchRecord:
    values = dict(row._mapping)
    counts = Counts(**{name: values.pop(name) for name in _COUNTS})
    values["kind"] = Kind(values["kind"])
    values["status"] = BatchStatus(values["status"])
    values["endpoint"] = values["endpoint"] and Endpoint(values["endpoint"])
    values["metadata"] = orjson.loads(values["metadata"])
    values["flaws"] = tuple(Flaw(**flaw) for flaw in orjson.loads(values["flaws"]))
    return BatchRecord(**values, counts=counts)


def _flaws(flaws: Sequence[Flaw]) -> str:
    return _json([dataclasses.asdict(flaw) for flaw in flaws])


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
