"""Rows for tests of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.bulk.ledger import Ledger
from tasks.bulk.records import BatchRecord, BatchStatus, Counts, FileRecord, Kind, Line, Outcome, Taken
from tasks.messages import Endpoint

A_DAY_S = 86_400


def file_id(index: int) -> str:
    return f"file-{index:024x}"


def batch_id(index: int) -> str:
    return f"batch_{index:024x}"


def file(index: int = 1, **other: Any) -> FileRecord:
    facts = {"owner": "ann", "name": "in.jsonl", "purpose": "batch", "size": 10, "created_at": 1000}
    return FileRecord(**{"id": file_id(index), **facts, **other})


def batch(index: int = 1, **other: Any) -> BatchRecord:
    facts: dict[str, Any] = {
        "id": batch_id(index),
        "kind": Kind.FILE,
        "owner": "ann",
        "endpoint": Endpoint.CHAT,
        "input_file_id": file_id(index),
        "status": BatchStatus.IN_PROGRESS,
        "created_at": 1000,
        "expires_at": 1000 + A_DAY_S,
    }
    return BatchRecord(**{**facts, **other})


def line(number: int, model: str = "demo", prefix: str = "", **other: Any) -> Line:
    facts = {"custom_id": f"request-{number}", "endpoint": Endpoint.CHAT, "offset": 100 * number, "length": 99}
    return Line(**{"number": number, "model": model, "prefix": prefix, **facts, **other})


def lines(count: int, model: str = "demo", first: int = 1) -> list[Line]:
    return [line(number, model) for number in range(first, first + count)]


def answer(taken: Taken, body: bytes = b'{"answer": 1}', **other: Any) -> Outcome:
    facts: dict[str, Any] = {"status_code": 200, "prompt_tokens": 3, "completion_tokens": 5}
    here = {"batch": taken.batch, "number": taken.line.number, "request_id": taken.request_id}
    return Outcome(**{**here, "body": body, **facts, **other})


def failure(taken: Taken) -> Outcome:
    return answer(
        taken, b'{"error": {}}', code="engine_failed", message="It broke.", status_code=500, completion_tokens=0
    )


def started(ledger: Ledger, new: Sequence[Line], index: int = 1) -> str:
    """Add a batch in progress, and return its id."""
    ledger.add_batch(batch(index), new)
    return batch_id(index)


def numbers(taken: Sequence[Taken]) -> list[int]:
    return [one.line.number for one in taken]


def counts_of(ledger: Ledger, batch_id: str) -> Counts:
    found = ledger.batch(batch_id)
    assert found is not None
    return found.counts


def forgotten(ledger: Ledger, batch_id: str, at_once: int = 5000) -> int:
    """Forget the lines of a batch, and return in how many slices that was done."""
    slices = 0
    while ledger.forget_some(batch_id, at_once):
        slices += 1
    return slices
