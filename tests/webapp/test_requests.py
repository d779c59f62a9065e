"""Kept requests over HTTP: their state and result, and whose they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from tasks.errors import ServiceUnavailableError
from tasks.messages import Done, Failed, Started
from tasks.requests.dispatch import RequestStatus
from tests.fakes import FakeDispatcher
from tests.webapp.conftest import chat, make_app
from tests.webapp.kept import ASYNC, CHAT, POSTS, STREAM, accept, error_code
from webapp import api_keys
from webapp.api_keys import KeyRing
from webapp.gateway import Gateway
from webapp.openai.preferences import LASTING_KEEP_S


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
        "position": None,
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


def test_a_later_answer_is_counted_when_it_is_accepted(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    def count(series: str) -> float:
        lines = client.get("/metrics").get_data(as_text=True).splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series))

    accepted = 'celerity_requests_total{code="detached",endpoint="chat",model="demo"}'
    ended = "celerity_e2e_request_latency_seconds_count"
    before = count(accepted), count(ended)
    here = accept(client)
    assert client.get(f"{here}/result").status_code == 200
    assert (count(accepted) - before[0], count(ended) - before[1]) == (1, 0)
    assert count('celerity_requests_in_flight{model="demo"}') == 0


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


def test_a_cancelled_result_is_gone(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [Started("r1", 5), Failed("request_cancelled", "It was cancelled.")]
    answer = client.get(f"{accept(client)}/result")
    assert (answer.status_code, error_code(answer)) == (410, "request_cancelled")


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
