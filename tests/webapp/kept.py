"""What the tests of kept requests have in common."""

from __future__ import annotations

from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tasks.messages import Delta, Done, Event, Started
from tests.webapp.conftest import chat

CHAT = "/v1/chat/completions"
RESUMABLE = {"X-Celerity-Resumable": "true"}
ASYNC = {"Prefer": "respond-async"}
POSTS: dict[str, dict[str, Any]] = {
    CHAT: chat(),
    "/v1/completions": {"model": "demo", "prompt": "x"},
    "/v1/embeddings": {"model": "demo", "input": "x"},
}

STREAM: list[Event] = [
    Started("r1", 5),
    Delta(b'data: "a"\n\ndata: "b"\n\n'),
    Delta(b'data: "c"\n\n'),
    Done(),
]
EVENTS = [b'id: 5-1-0\ndata: "a"\n\n', b'id: 5-1-1\ndata: "b"\n\n', b'id: 5-2-0\ndata: "c"\n\n']
END = b"id: end\ndata: [DONE]\n\n"


def accept(client: FlaskClient, path: str = CHAT, **fields: Any) -> str:
    """Post a request whose answer comes later, and return where it is found."""
    answer = client.post(path, json=POSTS[path] | fields, headers=ASYNC)
    assert answer.status_code == 202
    return answer.headers["Location"]


def error_code(answer: TestResponse) -> str:
    error = answer.get_json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["code"])
