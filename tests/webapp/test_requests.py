"""Kept requests over HTTP: their state, events and result, and whose they are."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tasks.dispatch import RequestStatus
from tasks.errors import RequestCancelledError, ServiceUnavailableError
from tasks.messages import Delta, Done, Endpoint, Event, Failed, Started
from tests.fakes import FakeClock, FakeDispatcher, Silence
from tests.webapp.conftest import chat, make_app
from webapp import api_keys
from webapp.api_keys import KeyRing
from webapp.gateway import Gateway
from webapp.openai.preferences import LASTING_KEEP_S, RESUMABLE_KEEP_S

CHAT = "/v1/chat/completions"
RESUMABLE = {"X-Celerity-Resumable": "true"}
ASYNC = {"Prefer": "respond-async"}
POSTS: dict[str, dict[str, Any]] = {
    CHAT: chat(),
    "/v1/completions": {"model": "demo", "prompt": "x"},
    "/v1/embeddings": {"model": "demo", "input": "x"},
}

STREAM: list[Event] = [Started("r1", 5), Delta(b'data: "a"\n\ndata: "b"\n\n'), Delta(b'data: "c"\n\n'), Done()]
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


# --- resumable streams


def test_a_resumable_stream_has_an_id_with_every_event(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [*STREAM]
    answer = client.post(CHAT, json=chat(stream=True), headers=RESUMABLE)
    assert answer.data == b"".join(EVENTS) + END
    request_id = answer.headers["x-request-id"]
    assert answer.headers["X-Celerity-Request-Id"] == request_id
    assert answer.headers["Location"] == f"{CHAT}/{request_id}"
    assert dispatcher.calls[0].keep_s == RESUMABLE_KEEP_S
    assert dispatcher.calls[0].gateway == ""


def test_a_stream_has_no_ids_unless_they_are_asked_for(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [*STREAM]
    answer = client.post(CHAT, json=chat(stream=True), headers={"X-Celerity-Resumable": "false"})
    assert b"id:" not in answer.data
    assert "Location" not in answer.headers
    assert dispatcher.calls[0].keep_s == 0


def test_a_wrong_word_for_resumable_is_refused_before_the_queue(
    client: FlaskClient, dispatcher: FakeDispatcher
) -> None:
    answer = client.post(CHAT, json=chat(stream=True), headers={"X-Celerity-Resumable": "maybe"})
    assert (answer.status_code, error_code(answer)) == (400, "invalid_request")
    assert dispatcher.calls == []


def test_an_answer_in_one_piece_is_not_resumable(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    assert client.post(CHAT, json=chat(), headers=RESUMABLE).data == b"{}"
    assert dispatcher.calls[0].keep_s == 0


def test_a_client_that_leaves_a_resumable_stream_does_not_cancel_it(
    client: FlaskClient, dispatcher: FakeDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    dispatcher.script = [*STREAM[:2], RequestCancelledError("left")]
    assert client.post(CHAT, json=chat(stream=True), headers=RESUMABLE).data
    (line,) = [vars(record) for record in caplog.records if getattr(record, "event", "") == "request_ended"]
    assert line["code"] == "detached"
    assert dispatcher.answers[0].closed
    assert not dispatcher.answers[0].cancelled


def test_a_failure_that_ends_a_resumable_stream_is_its_last_event(
    client: FlaskClient, dispatcher: FakeDispatcher
) -> None:
    dispatcher.script = [*STREAM[:2], Failed("engine_failed", "It broke.")]
    answer = client.post(CHAT, json=chat(stream=True), headers=RESUMABLE)
    assert answer.data.startswith(b"".join(EVENTS[:2]) + b'id: end\ndata: {"error"')
    again = client.get(f"{answer.headers['Location']}/events", headers={"Last-Event-ID": "end"})
    assert (again.status_code, again.data) == (204, b"")


def test_an_error_that_ends_the_connection_only_is_no_event_of_the_answer(
    client: FlaskClient, dispatcher: FakeDispatcher
) -> None:
    dispatcher.script = [*STREAM[:2], ServiceUnavailableError("Redis is lost.")]
    answer = client.post(CHAT, json=chat(stream=True), headers=RESUMABLE)
    assert b'\n\ndata: {"error"' in answer.data
    assert b"id: end" not in answer.data


def test_a_silent_resumable_stream_is_kept_alive(tmp_path: Path, dispatcher: FakeDispatcher) -> None:
    app = make_app(tmp_path, dispatcher)
    clock = FakeClock()
    dispatcher.clock = clock
    object.__setattr__(app.extensions["celerity"], "clock", clock)
    dispatcher.script = [*STREAM[:2], Silence(15.0), *STREAM[2:]]
    answer = app.test_client().post(CHAT, json=chat(stream=True), headers=RESUMABLE)
    assert answer.data == b"".join(EVENTS[:2]) + b": ping\n" + EVENTS[2] + END


# --- events


@pytest.mark.parametrize("seen", range(4))
@pytest.mark.parametrize("by", ["header", "query", "both"])
def test_a_reader_comes_back_behind_what_it_saw(
    client: FlaskClient, dispatcher: FakeDispatcher, seen: int, by: str
) -> None:
    dispatcher.script = [*STREAM]
    events = f"{accept(client, stream=True)}/events"
    last = EVENTS[seen - 1].split(b"\n")[0].removeprefix(b"id: ").decode() if seen else ""
    # An EventSource repeats its first address whatever it has read since.
    query = {"query": last, "both": "5-1-0" if seen else "", "header": ""}[by]
    answer = client.get(events, query_string={"after": query}, headers={} if by == "query" else {"Last-Event-ID": last})
    assert answer.data == b"".join(EVENTS[seen:]) + END
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.headers["Cache-Control"] == "no-cache, no-transform"
    assert dispatcher.readers[-1].closed


@pytest.mark.parametrize("event_id", ["5-1", "secret", "5-1-2", "6-1-0", "4-1-0", "end-1-0"])
def test_an_id_of_no_event_is_refused(client: FlaskClient, dispatcher: FakeDispatcher, event_id: str) -> None:
    dispatcher.script = [*STREAM]
    answer = client.get(f"{accept(client, stream=True)}/events", headers={"Last-Event-ID": event_id})
    assert (answer.status_code, error_code(answer)) == (400, "invalid_request")
    assert all(reader.closed for reader in dispatcher.readers)


def test_what_has_not_ended_cannot_have_been_read_to_its_end(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [*STREAM[:2]]
    answer = client.get(f"{accept(client, stream=True)}/events?after=end")
    assert (answer.status_code, error_code(answer)) == (400, "invalid_request")


def test_the_events_of_an_answer_in_one_piece(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [Started("r1", 5), Done(body=b'{"id":"x"}')]
    events = f"{accept(client)}/events"
    assert client.get(events).data == b'id: end\ndata: {"id":"x"}\n\n' + END
    assert client.get(events, headers={"Last-Event-ID": "end"}).status_code == 204


def test_the_events_of_a_request_that_failed_at_once_are_its_error(
    client: FlaskClient, dispatcher: FakeDispatcher
) -> None:
    dispatcher.script = [Started("r1", 5), Failed("context_length_exceeded", "Too long.", "messages")]
    answer = client.get(f"{accept(client, stream=True)}/events")
    assert (answer.status_code, error_code(answer)) == (400, "context_length_exceeded")


# --- state, result, cancellation


@pytest.mark.parametrize("path", POSTS)
def test_a_later_answer_is_promised_with_its_address(
    client: FlaskClient, dispatcher: FakeDispatcher, path: str
) -> None:
    dispatcher.script = [Started("r1", 5)]
    answer = client.post(path, json=POSTS[path], headers={"Prefer": "wait=5, respond-async"})
    request_id = answer.headers["x-request-id"]
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"{path}/{request_id}"
    assert answer.headers["Preference-Applied"] == "respond-async"
    state = {
        "id": request_id,
        "object": "celerity.request",
        "endpoint": path,
        "model": "demo",
        "stream": False,
        "status": "in_progress",
        "created_at": 1_800_000_000,
        "ended_at": None,
        "attempts": 1,
        "links": {
            "self": f"{path}/{request_id}",
            "events": f"{path}/{request_id}/events",
            "result": f"{path}/{request_id}/result",
        },
    }
    assert answer.get_json() == client.get(answer.headers["Location"]).get_json() == state
    assert dispatcher.calls[0].keep_s == LASTING_KEEP_S
    assert dispatcher.answers[0].closed
    assert not dispatcher.answers[0].cancelled


def test_a_result_is_there_once_it_is_made(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = []
    here = accept(client)
    waiting = client.get(f"{here}/result")
    assert (waiting.status_code, waiting.get_json()["status"]) == (202, "queued")
    assert int(waiting.headers["Retry-After"]) >= 1
    dispatcher.script = [Started("r1", 5), Done(body=b'{"id":"x"}')]
    made = client.get(f"{here}/result")
    assert (made.status_code, made.data, made.content_type) == (200, b'{"id":"x"}', "application/json")
    state = client.get(here).get_json()
    assert (state["status"], state["ended_at"]) == ("completed", 1_800_000_002)


def test_a_failed_result_has_its_errors_status(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [Started("r1", 5), Failed("engine_failed", "It broke twice.", final=True)]
    here = accept(client)
    answer = client.get(f"{here}/result")
    assert (answer.status_code, error_code(answer)) == (500, "engine_failed")
    assert answer.headers["x-should-retry"] == "false"
    assert client.get(here).get_json()["status"] == "failed"


def test_a_streams_result_is_its_events(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [*STREAM]
    here = accept(client, stream=True)
    assert client.get(here).get_json()["links"]["result"] is None
    answer = client.get(f"{here}/result")
    assert (answer.status_code, error_code(answer)) == (400, "invalid_request")
    assert "events" in answer.get_json()["error"]["message"]


def test_a_request_is_cancelled_by_whoever_made_it(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [Started("r1", 5)]
    here = accept(client)
    answer = client.delete(here)
    assert (answer.status_code, answer.get_json()["status"]) == (200, RequestStatus.CANCELLED)
    assert client.get(here).get_json()["status"] == "cancelled"
    assert dispatcher.cancelled == {dispatcher.calls[0].id}


def test_what_has_ended_cannot_be_cancelled_any_more(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    here = accept(client)
    assert client.delete(here).get_json()["status"] == "completed"


# --- whose it is

WAYS = [("GET", ""), ("GET", "/events"), ("GET", "/result"), ("DELETE", "")]


@pytest.mark.parametrize(("method", "below"), WAYS)
@pytest.mark.parametrize("request_id", ["req_" + "0" * 32, "x", "req_*", "req_" + "0" * 31 + "%0a", "..%2f.."])
def test_an_unknown_request_is_not_found(client: FlaskClient, method: str, below: str, request_id: str) -> None:
    answer = client.open(f"{CHAT}/{request_id}{below}", method=method)
    assert answer.status_code == 404
    assert error_code(answer) in ("request_not_found", "not_found")


@pytest.mark.parametrize(("method", "below"), WAYS)
def test_a_request_is_found_below_its_own_endpoint_only(
    client: FlaskClient, dispatcher: FakeDispatcher, method: str, below: str
) -> None:
    dispatcher.script = [Started("r1", 5)]
    here = accept(client).replace(CHAT, "/v1/completions")
    answer = client.open(here + below, method=method)
    assert (answer.status_code, error_code(answer)) == (404, "request_not_found")
    assert not dispatcher.cancelled


@pytest.mark.parametrize(("method", "below"), WAYS)
def test_a_request_that_nobody_keeps_is_not_found(client: FlaskClient, method: str, below: str) -> None:
    request_id = client.post(CHAT, json=chat()).headers["x-request-id"]
    answer = client.open(f"{CHAT}/{request_id}{below}", method=method)
    assert (answer.status_code, error_code(answer)) == (404, "request_not_found")


def test_somebody_elses_request_is_not_found(tmp_path: Path, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [Started("r1", 5)]
    keys = {name: api_keys.add(tmp_path / "keys", name) for name in ("alice", "bob")}
    client = make_app(tmp_path, dispatcher, KeyRing(tmp_path / "keys")).test_client()
    alice, bob = ({"Authorization": f"Bearer {keys[name]}"} for name in ("alice", "bob"))
    here = client.post(CHAT, json=chat(), headers=ASYNC | alice).headers["Location"]
    assert dispatcher.calls[0].caller == "alice"
    for method, below in WAYS:
        foreign = client.open(here + below, method=method, headers=bob)
        unknown = client.open(f"{CHAT}/req_{'0' * 32}{below}", method=method, headers=bob)
        assert (foreign.status_code, foreign.data) == (unknown.status_code, unknown.data) == (404, foreign.data)
        assert client.open(here + below, method=method).status_code == 401
    assert not dispatcher.cancelled
    assert client.get(here, headers=alice).status_code == 200


# --- idempotency


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


# --- when the queue is lost, or the process ends


@pytest.mark.parametrize(("method", "below"), WAYS)
def test_a_lost_queue_is_said(client: FlaskClient, dispatcher: FakeDispatcher, method: str, below: str) -> None:
    here = accept(client)
    dispatcher.refusal = ServiceUnavailableError("lost")
    answer = client.open(here + below, method=method)
    assert (answer.status_code, error_code(answer)) == (503, "service_unavailable")


def test_a_process_that_drains_sends_readers_elsewhere(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [*STREAM]
    here = accept(client, stream=True)
    gateway: Gateway = client.application.extensions["celerity"]
    gateway.drain.begin()
    answer = client.get(f"{here}/events")
    assert (answer.status_code, error_code(answer)) == (503, "service_unavailable")
    assert client.get(here).status_code == 200
