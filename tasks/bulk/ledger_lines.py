"""Lines and results in the ledger: each function is part of one transaction.

Locks are taken in one order everywhere (lines by number, batches by key, backlog), so
that PostgreSQL's transactions wait for each other in one direction only. SQLite's have
the database to themselves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from tasks.bulk import ledger_batches
from tasks.bulk.ledger_tables import OPEN, PENDING, RUNNING, backlog, batches, lines, results
from tasks.bulk.records import BatchStatus, Counts, Line, LineState, Outcome, Taken
from tasks.messages import Endpoint

_LINE = (
    lines.c.number,
    lines.c.custom_id,
    lines.c.model,
    lines.c.endpoint,
    lines.c.offset,
    lines.c.length,
    lines.c.prefix,
    lines.c.body,
    lines.c.attempt,
)


def request_id_of(batch_id: str, number: int, attempt: int) -> str:
    """Return the id of a line's request: always the same, so that admitting it twice is admitting it once."""
    return f"req_{blake2b(f'{batch_id}/{number}/{attempt}'.encode(), digest_size=16).hexdigest()}"


def add(connection: Connection, batch: int, new: Sequence[Line]) -> None:
    """Add lines to a batch whose row is locked."""
    if not new:
        return
    numbers = [line.number for line in new]
    query = select(lines.c.number).where(lines.c.batch == batch, lines.c.number.between(min(numbers), max(numbers)))
    seen = set(connection.scalars(query))
    rows = []
    waiting: Counter[tuple[int, str]] = Counter()
    for line in new:
        if line.number not in seen:
            seen.add(line.number)
            rows.append(_row(batch, line))
            waiting[batch, line.model] += 1
    if not rows:
        return
    connection.execute(insert(lines), rows)
    ledger_batches.count(connection, {batch: Counts(total=len(rows))})
    ledger_batches.open_backlog(connection, batch, (model for _, model in waiting))
    ledger_batches.shift_backlog(connection, waiting)


def last(connection: Connection, batch_id: str) -> int:
    key = ledger_batches.keys_of(connection, [batch_id]).get(batch_id)
    return connection.execute(select(func.max(lines.c.number)).where(lines.c.batch == key)).scalar() or 0


def take(connection: Connection, batch_id: str, model: str, count: int) -> list[Taken]:
    running = (batches.c.id == batch_id) & (batches.c.status == BatchStatus.IN_PROGRESS.value)
    key = connection.scalar(select(batches.c.key).where(running))
    if key is None or count <= 0:
        return []
    due = (
        select(lines.c.number)
        .where(lines.c.batch == key, lines.c.model == model, PENDING)
        .order_by(lines.c.prefix, lines.c.number)
        .limit(count)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    taken = connection.execute(
        update(lines)
        .where(lines.c.batch == key, lines.c.number.in_(select(due.c.number)))
        .values(state=LineState.RUNNING.value, attempt=lines.c.attempt + 1)
        .returning(*_LINE)
    ).all()
    if taken:
        ledger_batches.shift_backlog(connection, {(key, model): -len(taken)})
    # A changed row is returned when it is changed, in no particular order.
    return [_taken(batch_id, row) for row in sorted(taken, key=lambda row: (row.prefix, row.number))]


def running(connection: Connection, batch_ids: Collection[str] | None) -> list[Taken]:
    query = select(batches.c.id.label("batch_id"), *_LINE).join(batches, batches.c.key == lines.c.batch).where(RUNNING)
    if batch_ids is None:
        query = query.where(OPEN)
    found = connection.execute(query.order_by(lines.c.batch, lines.c.prefix, lines.c.number))
    # Few run, in all batches together. Asked for one, SQLite would read the whole batch to find them.
    return [_taken(row.batch_id, row) for row in found if batch_ids is None or row.batch_id in batch_ids]


def give_back(connection: Connection, given: Sequence[Taken], *, counted: bool) -> int:
    keys = ledger_batches.keys_of(connection, {taken.batch for taken in given})
    attempts = _lock_running(connection, [(keys[t.batch], t.line.number) for t in given if t.batch in keys])
    rows = []
    waiting: Counter[tuple[int, str]] = Counter()
    for taken in given:
        key = keys.get(taken.batch)
        if key is not None and attempts.pop((key, taken.line.number), None) == taken.attempt:
            rows.append({"_batch": key, "_number": taken.line.number, "_attempt": taken.attempt - (not counted)})
            waiting[key, taken.line.model] += 1
    if rows:
        connection.execute(_GIVE_BACK, rows)
        ledger_batches.shift_backlog(connection, waiting)
    return len(rows)


def record(connection: Connection, outcomes: Sequence[Outcome]) -> list[Outcome]:
    keys = ledger_batches.keys_of(connection, {outcome.batch for outcome in outcomes})
    attempts = _lock_running(connection, [(keys[o.batch], o.number) for o in outcomes if o.batch in keys])
    news: list[Outcome] = []
    ends = []
    for outcome in outcomes:
        place = (keys.get(outcome.batch, 0), outcome.number)
        attempt = attempts.get(place)
        if attempt is not None and request_id_of(outcome.batch, outcome.number, attempt) == outcome.request_id:
            del attempts[place]
            news.append(outcome)
            ends.append({"_batch": place[0], "_number": place[1], "_state": _end(outcome)})
    if news:
        connection.execute(_END, ends)
        connection.execute(insert(results), [_result(keys[outcome.batch], outcome) for outcome in news])
        ledger_batches.count(connection, _counted((keys[outcome.batch], outcome) for outcome in news))
    return news


def end_pending(connection: Connection, batch_id: str, outcome: Outcome, limit: int) -> int:
    key = ledger_batches.keys_of(connection, [batch_id]).get(batch_id)
    if key is None:
        return 0
    due = (
        select(lines.c.number)
        .where(lines.c.batch == key, PENDING)
        # The order of the index, or SQLite would take the primary key and read the lines that have ended too.
        .order_by(lines.c.model, lines.c.prefix, lines.c.number)
        .limit(limit)
        .with_for_update()
        .cte("due")
    )
    ended = connection.execute(
        update(lines)
        .where(lines.c.batch == key, lines.c.number.in_(select(due.c.number)))
        .values(state=_end(outcome))
        .returning(lines.c.number, lines.c.model)
    ).all()
    if ended:
        copy = _result(key, outcome) | {"request_id": ""}
        connection.execute(insert(results), [copy | {"number": row.number} for row in ended])
        ledger_batches.count(connection, _counted((key, outcome) for _ in ended))
        models = Counter(row.model for row in ended)
        ledger_batches.shift_backlog(connection, {(key, model): -count for model, count in models.items()})
    return len(ended)


def results_after(
    connection: Connection, batch_id: str, number: int, *, ok: bool, limit: int
) -> list[tuple[str, Outcome]]:
    key = ledger_batches.keys_of(connection, [batch_id]).get(batch_id)
    if key is None:
        return []
    query = (
        select(results)
        .where(results.c.batch == key, results.c.number > number)
        .where(results.c.code.is_(None) if ok else results.c.code.is_not(None))
    )
    found = connection.execute(query.order_by(results.c.number).limit(limit)).all()
    # Not as a join: PostgreSQL's planner would rather read all lines of the batch, each time.
    mine = (lines.c.batch == key) & lines.c.number.in_([row.number for row in found])
    names = {
        row.number: row.custom_id for row in connection.execute(select(lines.c.number, lines.c.custom_id).where(mine))
    }
    return [(names[row.number], _outcome(batch_id, row)) for row in found]


def forget(connection: Connection, batch_id: str, count: int) -> bool:
    """Remove up to `count` lines of a batch that needs them no more, with their results. Returns whether any were."""
    key = ledger_batches.keys_of(connection, [batch_id]).get(batch_id)
    bounds = select(lines.c.number).where(lines.c.batch == key).order_by(lines.c.number).limit(count)
    numbers = list(connection.scalars(bounds))
    if not numbers:
        connection.execute(delete(backlog).where(backlog.c.batch == key))
        return False
    for table in (lines, results):
        connection.execute(delete(table).where(table.c.batch == key, table.c.number <= numbers[-1]))
    return True


def _lock_running(connection: Connection, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Return the attempts of those lines that run, which nobody else changes until the transaction ends."""
    if not places:
        return {}
    # All numbers in all batches: more than asked for, yet found by the primary key, in one query.
    query = (
        select(lines.c.batch, lines.c.number, lines.c.attempt)
        .where(lines.c.batch.in_({batch for batch, _ in places}), lines.c.number.in_({number for _, number in places}))
        .where(lines.c.state == LineState.RUNNING.value)
        .order_by(lines.c.batch, lines.c.number)
        .with_for_update()
    )
    asked = set(places)
    found = connection.execute(query)
    return {(row.batch, row.number): row.attempt for row in found if (row.batch, row.number) in asked}


_HERE = (lines.c.batch == bindparam("_batch")) & (lines.c.number == bindparam("_number"))
_GIVE_BACK = update(lines).where(_HERE).values(state=LineState.PENDING.value, attempt=bindparam("_attempt"))
_END = update(lines).where(_HERE).values(state=bindparam("_state"))


def _row(batch: int, line: Line) -> dict[str, Any]:
    return {
        "batch": batch,
        "number": line.number,
        "state": LineState.PENDING.value,
        "attempt": 0,
        "model": line.model,
        "endpoint": line.endpoint.value,
        "prefix": line.prefix,
        "custom_id": line.custom_id,
        "offset": line.offset,
        "length": line.length,
        "body": line.body or None,
    }


def _taken(batch_id: str, row: Row[*tuple[Any, ...]]) -> Taken:
    line = Line(
        number=row.number,
        custom_id=row.custom_id,
        model=row.model,
        endpoint=Endpoint(row.endpoint),
        offset=row.offset,
        length=row.length,
        prefix=row.prefix,
        body=row.body or b"",
    )
    request_id = request_id_of(batch_id, row.number, row.attempt)
    return Taken(batch=batch_id, line=line, attempt=row.attempt, request_id=request_id)


def _end(outcome: Outcome) -> str:
    return (LineState.DONE if outcome.ok else LineState.FAILED).value


def _result(batch: int, outcome: Outcome) -> dict[str, Any]:
    return {
        "batch": batch,
        "number": outcome.number,
        "request_id": outcome.request_id,
        "status_code": outcome.status_code,
        "code": outcome.code,
        "message": outcome.message,
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "body": outcome.body,
    }


def _outcome(batch_id: str, row: Row[*tuple[Any, ...]]) -> Outcome:
    return Outcome(
        batch=batch_id,
        number=row.number,
        request_id=row.request_id,
        status_code=row.status_code,
        body=row.body,
        code=row.code,
        message=row.message,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
    )


def _counted(ended: Iterable[tuple[int, Outcome]]) -> dict[int, Counts]:
    sums: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for key, outcome in ended:
        total = sums[key]
        total[0] += outcome.ok
        total[1] += not outcome.ok
        total[2] += outcome.prompt_tokens
        total[3] += outcome.completion_tokens
    return {
        key: Counts(completed=done, failed=failed, prompt_tokens=prompt, completion_tokens=completion)
        for key, (done, failed, prompt, completion) in sums.items()
    }
