"""/v1/files: what batches are made of, and what comes of them.

    POST   /v1/files             upload one
    GET    /v1/files             list them
    GET    /v1/files/ID          one of them
    GET    /v1/files/ID/content  what is in it
    DELETE /v1/files/ID          delete it

A file belongs to the key that it came with. Somebody else's looks like one that never was; those
of no key are for operators' keys.
"""

from __future__ import annotations

import logging
import re
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, g, request

from tasks import metrics
from tasks.bulk.records import FileRecord
from tasks.errors import FileNotFoundHereError, RequestTooLargeError
from webapp import auth, off_loop, request_body
from webapp.connection import ClientConnection
from webapp.gateway import Gateway
from webapp.openai import listing, uploads
from webapp.openai.spool import Content, Spool
from webapp.openai.uploads import Upload

log = logging.getLogger(__name__)

PURPOSES = (
    "batch",
    "batch_output",
    "assistants",
    "assistants_output",
    "fine-tune",
    "fine-tune-results",
    "vision",
    "user_data",
    "evals",
)
_ID = re.compile(r"file-[0-9a-f]{24}")
_MOST_ON_A_PAGE = 10_000


def blueprint(gateway: Gateway) -> Blueprint:
    routes = Blueprint("files", __name__, url_prefix="/v1/files")
    desk = gateway.desk

    routes.before_request(gateway.drain.refuse_new)

    @routes.post("")
    def create() -> Response:
        began = gateway.clock()
        record = _take_in(gateway)
        metrics.UPLOADED_BYTES.inc(record.size)
        _log("file_stored", record.id, bytes=record.size, took_s=round(gateway.clock() - began, 4))
        return listing.json(file_object(record))

    @routes.get("")
    def several() -> Response:
        return _page(gateway)

    @routes.get("/<path:file_id>")
    def one(file_id: str) -> Response:
        check_id(file_id)
        owners = auth.owners()
        return listing.json(file_object(desk.ask(lambda desk: desk.file(file_id, *owners))))

    @routes.get("/<path:file_id>/content")
    def content(file_id: str) -> Response:
        return _content(gateway, file_id)

    @routes.delete("/<path:file_id>")
    def delete(file_id: str) -> Response:
        check_id(file_id)
        owners = auth.owners()
        desk.ask(lambda desk: desk.delete_file(file_id, *owners))
        _log("file_deleted", file_id)
        return listing.json({"id": file_id, "object": "file", "deleted": True})

    return routes


def check_id(file_id: str, *, param: str = "file_id") -> None:
    """Refuse what cannot be the id of a file, a path above all, like the id of none."""
    if not _ID.fullmatch(file_id):
        raise FileNotFoundHereError("There is no file of this id.", param=param)


def file_object(record: FileRecord) -> dict[str, Any]:
    """Return the record as OpenAI's clients know it."""
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.size,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "filename": record.name,
        "purpose": record.purpose,
        # Both are of no use any more, but clients that check types want them.
        "status": "processed",
        "status_details": None,
    }


def _page(gateway: Gateway) -> Response:
    listing.known("purpose", "limit", "after", "order")
    purpose = listing.choice("purpose", PURPOSES)
    order = listing.choice("order", ("asc", "desc"))
    limit = listing.limit(usual=_MOST_ON_A_PAGE, most=_MOST_ON_A_PAGE)
    after = request.args.get("after")
    if after is not None:
        check_id(after, param="after")
    owners = auth.owners()
    records, more = gateway.desk.ask(
        lambda desk: desk.files(*owners, purpose=purpose, after=after, limit=limit, newest_first=order != "asc")
    )
    return listing.page(map(file_object, records), more=more)


def _content(gateway: Gateway, file_id: str) -> Response:
    check_id(file_id)
    owners = auth.owners()
    record, file = gateway.desk.ask(lambda desk: (desk.file(file_id, *owners), desk.open(file_id, *owners)))
    return Response(
        Content(file, record.size),
        content_type="application/octet-stream",
        headers={
            "Content-Length": str(record.size),
            "Content-Disposition": _disposition(record.name),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        },
        direct_passthrough=True,
    )


def _take_in(gateway: Gateway) -> FileRecord:
    """Read an upload, and keep its file. Whatever ends it early leaves nothing behind."""
    connection = request.environ.get("gunicorn.socket")
    if isinstance(connection, ClientConnection):
        connection.allow_body(gateway.settings.upload_timeout_s)
    owner = auth.caller()
    path = gateway.desk.ask(lambda desk: desk.new_upload())
    try:
        with Spool(path) as spool:
            upload = _receive(spool, gateway.settings.max_file_bytes)
        return gateway.desk.ask(
            lambda desk: desk.keep(
                path,
                owner=owner,
                name=upload.name,
                purpose=upload.purpose,
                expires_after_s=upload.expires_after_s,
            )
        )
    finally:
        off_loop.run(lambda: path.unlink(missing_ok=True))


def _receive(spool: Spool, max_bytes: int) -> Upload:
    body = request_body.pieces(request.environ, max_bytes + uploads.OVERHEAD_BYTES)
    try:
        upload = uploads.receive(body, request.headers.get("Content-Type", ""), spool.write, max_bytes)
    except RequestTooLargeError:
        raise RequestTooLargeError(f"A file may have at most {max_bytes} bytes.", param="file") from None
    spool.flush()
    return upload


def _disposition(name: str) -> str:
    """Return the header by which a client saves the content under the name that it came with (RFC 6266)."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _log(event: str, file_id: str, **fields: Any) -> None:
    """Neither the name nor what is in it: both are the client's text."""
    named = {"event": event, "request": g.request_id, "file": file_id}
    log.info(event.replace("_", " "), extra=named | fields)
