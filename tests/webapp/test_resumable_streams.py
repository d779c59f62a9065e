"""Streams with event ids, and readers that come back to one on any connection."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from tasks.errors import RequestCancelledError, ServiceUnavailableError
from tasks.messages import Done, Failed, Started
from tests.fakes import FakeClock, FakeDispatcher, Silence
from tests.webapp.conftest import chat, make_app
from tests.webapp.kept import CHAT, END, EVENTS, RESUMABLE, STREAM, accept, error_code
from webapp.openai.preferences import RESUMABLE_KEEP_S


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
    assert "Content-Type" not in again.headers


def test_an_error_that_ends_the_connection_only_is_no_event_of_the_answer(
    client: FlaskClient, dispatcher: FakeDispatcher
) -> None:
    dispatcher.script = [*STREAM[:2], ServiceUnavailableError("Redis is lost.")]
    answer = client.post(CHAT, json=chat(stream=True), headers=RESUMABLE)
    assert b'\n\ndata: {"error"' in answer.data
    assert b"id: end" not in answer.data


@pytest.fixture
def timed_client(tmp_path: Path, dispatcher: FakeDispatcher) -> FlaskClient:
    """A client of a gateway that shares its clock with the queue."""
    app = make_app(tmp_path, dispatcher)
    dispatcher.clock = FakeClock()
    object.__setattr__(app.extensions["celerity"], "clock", dispatcher.clock)
    return app.test_client()


def test_a_silent_resumable_stream_is_kept_alive(timed_client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [*STREAM[:2], Silence(15.0), *STREAM[2:]]
    answer = timed_client.post(CHAT, json=chat(stream=True), headers=RESUMABLE)
    assert answer.data == b"".join(EVENTS[:2]) + b": ping\n" + EVENTS[2] + END


def test_a_client_learns_early_where_to_come_back_to(timed_client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [Silence(3.0), *STREAM]
    answer = timed_client.post(CHAT, json=chat(stream=True), headers=RESUMABLE)
    assert answer.data == b": ping\n" + b"".join(EVENTS) + END
    assert timed_client.post(CHAT, json=chat(stream=True)).data.startswith(b"data:")


def test_an_early_failure_of_a_resumable_stream_keeps_its_status(
    timed_client: FlaskClient, dispatcher: FakeDispatcher
) -> None:
    dispatcher.script = [Silence(0.5), Started("r1", 5), Failed("context_length_exceeded", "Too long.")]
    assert timed_client.post(CHAT, json=chat(stream=True), headers=RESUMABLE).status_code == 400


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
