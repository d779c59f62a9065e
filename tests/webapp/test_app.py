"""Whole requests through the application: answers, ids, errors, models, health."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from tasks.errors import ServerOverloadedError, ServiceUnavailableError
from tasks.messages import Delta, Done, Endpoint, Failed, Started
from tests.fakes import FakeDispatcher
from tests.webapp.conftest import REGISTRY, chat, make_app
from webapp import api_keys
from webapp.api_keys import KeyRing
from webapp.gateway import Gateway

URL = "/v1/chat/completions"
OWN_ID = re.compile(r"req_[0-9a-f]{32}")


@pytest.fixture
def gateway(client: FlaskClient) -> Gateway:
    found: Gateway = client.application.extensions["celerity"]
    return found


def test_a_whole_answer_is_the_workers_json(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [Started("r1", 1), Done(finish_reason="stop", body=b'{"id": "x"}')]
    answer = client.post(URL, json=chat())
    assert (answer.status_code, answer.data, answer.content_type) == (200, b'{"id": "x"}', "application/json")
    assert answer.headers["openai-processing-ms"].isdigit()
    call = dispatcher.calls[0]
    assert (call.endpoint, call.stream, call.id) == (Endpoint.CHAT, False, answer.headers["x-request-id"])


def test_a_stream_is_the_workers_frames(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [Started("r1", 1), Delta(b'data: {"a":1}\n\n'), Done()]
    answer = client.post(URL, json=chat(stream=True))
    assert answer.data == b'data: {"a":1}\n\ndata: [DONE]\n\n'
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.headers["Cache-Control"] == "no-cache, no-transform"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert OWN_ID.fullmatch(answer.headers["x-request-id"])


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_has_its_status(client: FlaskClient, dispatcher: FakeDispatcher, stream: bool) -> None:
    dispatcher.script = [Started("r1", 1), Failed("context_length_exceeded", "Too long.", "messages")]
    answer = client.post(URL, json=chat(stream=stream))
    assert answer.status_code == 400
    assert answer.get_json()["error"] == {
        "message": "Too long.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
    assert dispatcher.answers[0].closed


@pytest.mark.parametrize(
    ("refusal", "code"),
    [(ServerOverloadedError("full"), "server_overloaded"), (ServiceUnavailableError("lost"), "service_unavailable")],
)
def test_a_queue_that_refuses_says_when_to_come_back(
    client: FlaskClient, dispatcher: FakeDispatcher, refusal: ServerOverloadedError, code: str
) -> None:
    dispatcher.refusal = refusal
    answer = client.post(URL, json=chat())
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, code)
    assert int(answer.headers["Retry-After"]) >= 1
    assert len({client.post(URL, json=chat()).headers["retry-after-ms"] for _ in range(10)}) > 1


def test_each_endpoint_is_named_to_the_worker(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    client.post("/v1/completions", json={"model": "demo", "prompt": "x"})
    client.post("/v1/embeddings", json={"model": "demo", "input": "x"})
    assert [call.endpoint for call in dispatcher.calls] == [Endpoint.COMPLETION, Endpoint.EMBEDDING]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("POST", "/v1/unknown", 404, "not_found"),
        ("GET", "/v1//models", 404, "not_found"),
        ("GET", URL, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("TRACE", URL, 405, "method_not_allowed"),
        ("GET", "/v1/models/nobody", 404, "model_not_found"),
        ("GET", "/v1/models/../../etc/passwd", 404, "model_not_found"),
        ("GET", "/v1/models/%2e%2e%2f", 404, "model_not_found"),
    ],
)
def test_every_wrong_address_is_json_with_an_id(
    client: FlaskClient, method: str, path: str, status: int, code: str
) -> None:
    answer = client.open(path, method=method)
    assert answer.status_code == status
    assert answer.get_json()["error"]["code"] == code
    assert OWN_ID.fullmatch(answer.headers["x-request-id"])


def test_a_wrong_method_names_the_right_one(client: FlaskClient) -> None:
    assert "POST" in client.get(URL).headers["Allow"]


def test_our_own_mistake_is_json_and_tells_nothing(
    client: FlaskClient, dispatcher: FakeDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher.play = lambda call: (_ for _ in ()).throw(RuntimeError("the secret text"))
    answer = client.post(URL, json=chat())
    assert answer.status_code == 500
    assert answer.get_json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.get_data(as_text=True)
    assert [record.event for record in caplog.records if record.levelno == logging.ERROR] == ["handler_failed"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("label", ["abc-1.2_3", "x" * 128])
def test_a_clients_own_id_is_repeated_beside_ours(
    client: FlaskClient, label: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answer = client.post(URL, json=chat(), headers={"X-Request-Id": label})
    assert answer.headers["x-client-request-id"] == label
    assert OWN_ID.fullmatch(answer.headers["x-request-id"])
    assert caplog.records[-1].client_request_id == label  # type: ignore[attr-defined]


@pytest.mark.parametrize("label", ["", "a b", "x" * 129, "a\u00e9", "a;b", "a/b"])
def test_an_id_that_is_not_plain_is_ignored(client: FlaskClient, label: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    answer = client.post(URL, json=chat(), headers={"X-Request-Id": label.encode("utf-8").decode("latin-1")})
    assert "x-client-request-id" not in answer.headers
    assert OWN_ID.fullmatch(answer.headers["x-request-id"])
    assert not hasattr(caplog.records[-1], "client_request_id")


def test_a_prompt_is_never_logged(
    client: FlaskClient, dispatcher: FakeDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "the-secret-prompt"
    messages = [{"role": "user", "content": secret}]
    client.post(URL, json=chat(messages=messages))
    client.post(URL, json=chat(messages=messages, temperature=secret))
    client.post(URL, json={secret: 1})
    client.get(f"/{secret}")
    assert secret not in repr([vars(record) for record in caplog.records])
    assert len(caplog.records) >= 3


def test_models_and_aliases_are_listed(client: FlaskClient) -> None:
    listed = client.get("/v1/models").get_json()
    assert listed["object"] == "list"
    assert {entry["id"]: entry["root"] for entry in listed["data"]} == {
        "demo": "demo",
        "org/small": "org/small",
        "light": "demo",
    }
    assert all(entry["object"] == "model" and isinstance(entry["created"], int) for entry in listed["data"])


@pytest.mark.parametrize("name", ["demo", "light", "org/small"])
def test_one_model_is_found_by_any_name(client: FlaskClient, name: str) -> None:
    entry = client.get(f"/v1/models/{name}").get_json()
    assert entry["id"] == name
    assert entry["root"] == REGISTRY.aliases.get(name, name)


def test_models_answer_while_redis_is_lost(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.well = False
    assert client.get("/v1/models").status_code == 200
    assert client.get("/live").status_code == 200
    assert client.get("/health").status_code == 503


class NoDispatcher(FakeDispatcher):
    """A queue that must not be touched."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the queue was asked for {name}")


def test_keys_and_models_need_no_queue(tmp_path: Path) -> None:
    key = api_keys.add(tmp_path / "keys", "alice")
    client = make_app(tmp_path, NoDispatcher(), KeyRing(tmp_path / "keys")).test_client()
    mine = {"Authorization": f"Bearer {key}"}
    for path in ("/v1/models", "/v1/models/demo", "/live", "/metrics"):
        assert client.get(path, headers=mine).status_code == 200
    for method, path in (("GET", "/v1/models"), ("POST", URL), ("GET", f"{URL}/req_{'0' * 32}/events")):
        assert client.open(path, method=method, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.post(URL, json=chat(model="nobody"), headers=mine).status_code == 404


def test_a_process_that_drains_is_alive_but_not_healthy(
    client: FlaskClient, gateway: Gateway, dispatcher: FakeDispatcher
) -> None:
    assert client.get("/health").status_code == 200
    gateway.drain.begin()
    assert client.get("/live").status_code == 200
    assert client.get("/health").status_code == 503
    refused = client.post(URL, json=chat())
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (503, "service_unavailable")
    assert dispatcher.calls == []


def test_metrics_count_what_happened(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    def count(name: str) -> float:
        text = client.get("/metrics").get_data(as_text=True)
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    ok = 'celerity_requests_total{code="ok",endpoint="chat",model="demo"}'
    refused = 'celerity_requests_refused_total{code="model_not_found"}'
    tokens = 'celerity_generation_tokens_total{model="demo"}'
    before = count(ok), count(refused), count(tokens)
    dispatcher.script = [Started("r", 1), Done(prompt_tokens=1, completion_tokens=5, body=b"{}")]
    client.post(URL, json=chat(model="light"))
    client.post(URL, json=chat(model="nobody"))
    after = count(ok), count(refused), count(tokens)
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 5]
    assert count('celerity_requests_in_flight{model="demo"}') == 0


def test_a_code_of_a_newer_release_makes_no_label(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    dispatcher.script = [Failed("brand_new_code", "?")]
    assert client.post(URL, json=chat()).status_code == 500
    page = client.get("/metrics").get_data(as_text=True)
    assert "brand_new_code" not in page
    assert 'code="other"' in page


def test_the_log_line_of_a_request_has_its_numbers(
    tmp_path: Path, dispatcher: FakeDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    dispatcher.script = [Started("r", 1), Delta(b"data: {}\n\n"), Done(finish_reason="stop", completion_tokens=5)]
    answer = make_app(tmp_path, dispatcher).test_client().post(URL, json=chat(stream=True))
    assert answer.data
    (line,) = [vars(record) for record in caplog.records if getattr(record, "event", "") == "request_ended"]
    assert (line["code"], line["model"], line["endpoint"], line["completion_tokens"]) == ("ok", "demo", "chat", 5)
    assert line["ttft_s"] >= line["queued_s"] >= 0
    assert json.dumps(line["request"])
