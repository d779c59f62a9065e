"""/v1/batches: files of requests that are answered within a day.

    POST   /v1/batches            make one of a file
    GET    /v1/batches            list them
    GET    /v1/batches/ID         how one stands
    POST   /v1/batches/ID/cancel  cancel it

A batch belongs to the key that made it. Somebody else's looks like one that never was. Those
of no key, which `tasks.batch` makes, are for operators' keys.
"""

from __future__ import annotations

import logging
import re
from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response, g, request

from tasks import metrics
from tasks.bulk.records import BatchRecord
from tasks.errors import BatchNotFoundError
from tasks.openai import strict_json
from webapp import auth, request_body
from webapp.gateway import Gateway
from webapp.openai import listing
from webapp.openai.batch_schema import BATCH, endpoint_of
from webapp.openai.files import check_id as check_file_id
from webapp.openai.priorities import require_bulk
from webapp.openai.request_state import PATHS

log = logging.getLogger(__name__)

_ID = re.compile(r"batch_[0-9a-f]{24}")
# Metadata at its longest, every character of it escaped, has room in it.
_MAX_BODY_BYTES = 256 * 1024
_TIMES = (
    "created_at",
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


def blueprint(gateway: Gateway) -> Blueprint:
    routes = Blueprint("batches", __name__, url_prefix="/v1/batches")
    desk = gateway.desk

    routes.before_request(gateway.drain.refuse_new)

    @routes.post("")
    def create() -> Response:
        body = strict_json.parse(request_body.read(request.environ, _MAX_BODY_BYTES))
        BATCH.check(body)
        require_bulk(auth.priorities(), "ask for the answers one by one")
        record = _create(gateway, body)
        metrics.BATCHES.labels(endpoint_of(body["endpoint"]).value).inc()
        _log("batch_created", record, file=record.input_file_id)
        return listing.json(batch_object(record))

    @routes.get("")
    def several() -> Response:
        listing.known("limit", "after")
        limit = listing.limit(usual=20, most=100)
        after = request.args.get("after")
        if after is not None:
            _check_id(after, param="after")
        owners = auth.owners()
        records, more = desk.ask(lambda desk: desk.batches(*owners, after=after, limit=limit))
        return listing.page(map(batch_object, records), more=more)

    @routes.get("/<path:batch_id>")
    def one(batch_id: str) -> Response:
        _check_id(batch_id)
        owners = auth.owners()
        return listing.json(batch_object(desk.ask(lambda desk: desk.batch(batch_id, *owners))))

    @routes.post("/<path:batch_id>/cancel")
    def cancel(batch_id: str) -> Response:
        _check_id(batch_id)
        owners = auth.owners()
        record = desk.ask(lambda desk: desk.cancel(batch_id, *owners))
        _log("batch_cancelled", record)
        return listing.json(batch_object(record))

    return routes


def _create(gateway: Gateway, body: dict[str, Any]) -> BatchRecord:
    check_file_id(body["input_file_id"], param="input_file_id")
    owner = auth.caller()
    expires_after = body.get("output_expires_after") or {}
    return gateway.desk.ask(
        lambda desk: desk.create(
            owner=owner,
            input_file_id=body["input_file_id"],
            endpoint=endpoint_of(body["endpoint"]),
            window=body["completion_window"],
            metadata=body.get("metadata"),
            output_expires_after_s=expires_after.get("seconds"),
            max_lines=gateway.settings.batch_max_lines,
            max_open=gateway.settings.batch_max_open,
        )
    )


def batch_object(record: BatchRecord) -> dict[str, Any]:
    """Return the record as OpenAI's clients know it."""
    counts = record.counts
    return {
        "id": record.id,
        "object": "batch",
        "endpoint": None if record.endpoint is None else PATHS[record.endpoint],
        "errors": _errors(record),
        "input_file_id": record.input_file_id,
        "completion_window": record.window,
        "status": record.status.value,
        "output_file_id": record.output_file_id,
        "error_file_id": record.error_file_id,
        **{name: getattr(record, name) for name in _TIMES},
        "request_counts": {"total": counts.total, "completed": counts.completed, "failed": counts.failed},
        # Nobody counts the details here, but clients expect them.
        "usage": {
            "input_tokens": counts.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": counts.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        },
        "metadata": record.metadata or None,
    }


def _errors(record: BatchRecord) -> dict[str, Any] | None:
    if not record.flaws:
        return None
    return {"object": "list", "data": [asdict(flaw) for flaw in record.flaws]}


def _check_id(batch_id: str, *, param: str = "batch_id") -> None:
    if not _ID.fullmatch(batch_id):
        raise BatchNotFoundError("There is no batch of this id.", param=param)


def _log(event: str, record: BatchRecord, **fields: Any) -> None:
    named = {"event": event, "request": g.request_id, "batch": record.id}
    log.info(event.replace("_", " "), extra=named | fields)
