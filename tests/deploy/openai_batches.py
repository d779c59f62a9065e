"""OpenAI's Files and Batches API for tests of a client: its shapes, its errors, and a batch that goes as it is told."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

ENDED = {"failed", "completed", "expired", "cancelled"}
_NO_TIMES = dict.fromkeys(
    f"{name}_at"
    for name in (
        "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled",
    )
)  # fmt: skip


@dataclass
class Batches:
    """What the server has. `plan` holds what changes of a batch from one look at it to the next."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    plan: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """`METHOD /path` of every request."""
    keys: list[str | None] = field(default_factory=list)
    away: list[int] = field(default_factory=list)
    """How the next requests are answered instead: with this status, or 0: not at all."""
    cut: bool = False
    """Break off the content of files half-way."""
    refusal: tuple[int, Any] | None = None
    """What whoever makes a batch gets, told not to try again."""
    limit: int | None = None
    """Bytes; a larger file is refused before it has come."""

    def file(self, content: bytes, name: str = "x.jsonl") -> str:
        file_id = f"file-{len(self.files):024x}"
        self.files[file_id], self.names[file_id] = content, name
        return file_id

    def batch(self, **more: Any) -> dict[str, Any]:
        made: dict[str, Any] = {
            "id": f"batch_{len(self.batches):024x}",
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "errors": None,
            "input_file_id": "file-0",
            "completion_window": "24h",
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": 1_700_000_000,
            "expires_at": 1_700_086_400,
            **_NO_TIMES,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": None,
        }
        made |= more
        self.batches[made["id"]] = made
        return made

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return status and document, or the bytes of a file."""
        self.asked.append(f"{method} {path}")
        parts = urlsplit(path)
        match parts.path.removeprefix("/v1/").split("/"):
            case ["batches"]:
                return self._create(body) if method == "POST" else self._list(parse_qs(parts.query))
            case ["batches", batch_id, *action] if batch_id in self.batches:
                return self._cancel(self.batches[batch_id]) if action else self._look(self.batches[batch_id])
            case ["files", file_id, "content"] if file_id in self.files:
                return 200, self.files[file_id]
            case ["files", file_id] if method == "DELETE" and file_id in self.files:
                del self.files[file_id]
                return 200, {"id": file_id, "object": "file", "deleted": True}
            case ["batches", batch_id, *_]:
                return error(404, f"No batch found with id '{batch_id}'.", "batch_not_found")
        return error(404, "No such File object", "file_not_found")

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.refusal is not None:
            return self.refusal
        if body["input_file_id"] not in self.files:
            return error(404, f"No such File object: {body['input_file_id']}", "file_not_found")
        return 200, self.batch(**body)

    def _list(self, query: dict[str, list[str]]) -> tuple[int, Any]:
        newest = list(reversed(self.batches.values()))[: int(query["limit"][0])]
        return 200, {"object": "list", "data": newest, "has_more": False}

    def _look(self, batch: dict[str, Any]) -> tuple[int, Any]:
        if self.plan and batch["status"] not in ENDED:
            batch |= self.plan.pop(0)
        return 200, batch

    def _cancel(self, batch: dict[str, Any]) -> tuple[int, Any]:
        if batch["status"] in ENDED:
            return error(409, f"Cannot cancel a batch with status '{batch['status']}'.", "batch_ended")
        batch |= {"status": "cancelling", "cancelling_at": 1_700_000_100}
        return 200, batch

    def upload(self, form: bytes, boundary: bytes) -> dict[str, Any]:
        parts = {}
        for part in form.split(b"--" + boundary)[1:-1]:
            head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
            found = re.search(r'name="(\w+)"(?:; filename="([^"]*)")?', head.decode())
            assert found, head
            parts[found[1]] = (found[2], content.removesuffix(b"\r\n"))
        assert parts["purpose"] == (None, b"batch")
        name, content = parts["file"]
        file_id = self.file(content, name or "")
        return {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": 1_700_000_000,
            "filename": name,
            "purpose": "batch",
            "status": "processed",
        }


def error(status: int, message: str, code: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


class _Handler(BaseHTTPRequestHandler):
    api: Batches

    def do_GET(self) -> None:
        if not self._is_away():
            self._send(*self.api.answer("GET", self.path, {}))

    def do_DELETE(self) -> None:
        self._send(*self.api.answer("DELETE", self.path, {}))

    def do_POST(self) -> None:
        if self._is_away():
            return
        length = int(self.headers["Content-Length"])
        if self.path == "/v1/files":
            self.api.asked.append("POST /v1/files")
            if self.api.limit is not None and length > self.api.limit:
                self._send(*error(413, "The file is too large.", "request_too_large"))
                return
            boundary = self.headers["Content-Type"].partition("boundary=")[2].encode()
            self._send(200, self.api.upload(self.rfile.read(length), boundary))
            return
        self._send(*self.api.answer("POST", self.path, json.loads(self.rfile.read(length) or b"{}")))

    def _is_away(self) -> bool:
        self.api.keys.append(self.headers["Authorization"])
        if not self.api.away:
            return False
        if status := self.api.away.pop(0):
            self._send(*error(status, "Not now.", "service_unavailable"))
        self.close_connection = True
        return True

    def _send(self, status: int, document: Any) -> None:
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if (status, document) == self.api.refusal:
            self.send_header("x-should-retry", "false")
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.api.cut and isinstance(document, bytes) else content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has in the library
        pass


@contextmanager
def serving() -> Iterator[Batches]:
    api = Batches()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api}))
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
