"""The same request twice is one request."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tasks.messages import Done, Endpoint, Failed, Started
from tests.fakes import FakeDispatcher
from tests.webapp.conftest import chat
from tests.webapp.kept import CHAT, END, EVENTS, POSTS, STREAM, error_code
from webapp.openai.preferences import LASTING_KEEP_S


def keyed(client: FlaskClient, key: str = "k1", body: dict[str, Any] | None = None, **headers: str) -> TestResponse:
    extra = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(CHAT, json=body or chat(), headers={"Idempotency-Key": key} | extra)


def test_a_repeated_request_is_answered_by_the_first(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [Started("r1", 5), Done(body=b'{"id":"x"}')]
    first, again = keyed(client), keyed(client)
    assert first.data == again.data == b'{"id":"x"}'
    assert len(dispatcher.calls) == 1
    assert dispatcher.calls[0].keep_s == LASTING_KEEP_S
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    for name in ("x-request-id", "X-Celerity-Request-Id", "Location"):
        assert first.headers[name] == again.headers[name]


def test_a_repeated_failure_is_the_same_failure(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [Started("r1", 5), Failed("context_length_exceeded", "Too long.")]
    first, again = keyed(client), keyed(client)
    assert first.status_code == again.status_code == 400
    assert again.headers["Idempotent-Replayed"] == "true"
    assert first.headers["x-request-id"] == again.headers["x-request-id"]


def test_a_repeated_stream_begins_at_its_beginning(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [*STREAM]
    body = chat(stream=True)
    first, again = keyed(client, body=body), keyed(client, body=body)
    assert first.data == again.data == b'data: "a"\n\ndata: "b"\n\ndata: "c"\n\ndata: [DONE]\n\n'
    assert again.headers["Idempotent-Replayed"] == "true"
    resumable = keyed(client, body=body, X_Celerity_Resumable="true")
    assert resumable.data == b"".join(EVENTS) + END
    assert len(dispatcher.calls) == 1


def test_another_body_under_the_same_key_is_refused(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    keyed(client)
    answer = keyed(client, body=chat(temperature=0.5))
    assert (answer.status_code, error_code(answer)) == (409, "idempotency_key_reused")
    assert answer.headers["x-should-retry"] == "false"
    other_endpoint = client.post("/v1/embeddings", json=POSTS["/v1/embeddings"], headers={"Idempotency-Key": "k1"})
    assert other_endpoint.status_code == 409
    assert len(dispatcher.calls) == 1


def test_a_key_and_a_later_answer_go_together(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [Started("r1", 5)]
    first = keyed(client, Prefer="respond-async")
    again = keyed(client, Prefer="respond-async")
    assert first.status_code == again.status_code == 202
    assert first.get_json() == again.get_json()
    assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (None, "true")
    dispatcher.script = [Started("r1", 5), Done(body=b'{"id":"x"}')]
    assert keyed(client).data == b'{"id":"x"}'
    assert len(dispatcher.calls) == 1
    assert Endpoint.CHAT is dispatcher.calls[0].endpoint


def test_a_repetition_is_counted_once(
    client: FlaskClient, dispatcher: FakeDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, again = keyed(client), keyed(client)
    assert first.data == again.data
    told = [(vars(record)["event"], vars(record)["request"]) for record in caplog.records]
    request_id = dispatcher.calls[0].id
    assert told == [("request_ended", request_id), ("answer_read", request_id)]
