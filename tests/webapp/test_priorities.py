"""Which priority a request has, and whose key may ask for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from tasks.queues import Priority
from tests.fake_desk import FakeDesk
from tests.fakes import FakeDispatcher
from tests.webapp.conftest import chat, make_app
from webapp import api_keys
from webapp.api_keys import KeyRing, Priorities

INTERACTIVE_TIERS = ("default", "priority", "scale")


def client_with(folder: Path, dispatcher: FakeDispatcher, priorities: Priorities) -> FlaskClient:
    """Return a client whose key may ask for `priorities`."""
    key = api_keys.add(folder / "keys", "alice", priorities=priorities)
    client = make_app(folder, dispatcher, KeyRing(folder / "keys"), desk=FakeDesk(folder)).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
    return client


@pytest.mark.parametrize(
    ("tier", "priority"),
    [(None, Priority.INTERACTIVE), ("auto", Priority.INTERACTIVE), ("flex", Priority.BULK)]
    + [(tier, Priority.INTERACTIVE) for tier in INTERACTIVE_TIERS],
)
def test_a_request_says_by_its_tier_whether_it_can_wait(
    client: FlaskClient, dispatcher: FakeDispatcher, tier: str | None, priority: Priority
) -> None:
    for body in (chat(service_tier=tier), chat(service_tier=tier) | {"stream": True}):
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert [call.priority for call in dispatcher.calls] == [priority] * 2


@pytest.mark.parametrize("path", ["completions", "embeddings"])
def test_every_endpoint_knows_the_tiers(client: FlaskClient, dispatcher: FakeDispatcher, path: str) -> None:
    body = {"model": "demo", "prompt" if path == "completions" else "input": "x", "service_tier": "flex"}
    assert client.post(f"/v1/{path}", json=body).status_code == 200
    assert dispatcher.calls[-1].priority is Priority.BULK


def test_a_tier_that_is_none_is_refused(client: FlaskClient) -> None:
    answer = client.post("/v1/chat/completions", json=chat(service_tier="first"))
    assert answer.status_code == 400
    assert answer.get_json()["error"]["param"] == "service_tier"


@pytest.mark.parametrize("tier", [None, "auto", *INTERACTIVE_TIERS])
def test_a_key_for_interactive_requests_asks_for_no_bulk_work(
    tmp_path: Path, dispatcher: FakeDispatcher, tier: str | None
) -> None:
    client = client_with(tmp_path, dispatcher, Priorities.INTERACTIVE)
    assert client.post("/v1/chat/completions", json=chat(service_tier=tier)).status_code == 200
    assert dispatcher.calls[-1].priority is Priority.INTERACTIVE
    refused = client.post("/v1/chat/completions", json=chat(service_tier="flex"))
    assert refused.status_code == 403
    error = refused.get_json()["error"]
    assert (error["code"], error["param"]) == ("priority_not_allowed", "service_tier")
    assert "'celerity keys add NAME --priority any'" in error["message"]
    assert len(dispatcher.calls) == 1


def test_a_key_for_interactive_requests_makes_no_batch(tmp_path: Path, dispatcher: FakeDispatcher) -> None:
    client = client_with(tmp_path, dispatcher, Priorities.INTERACTIVE)
    body = {"input_file_id": f"file-{'0' * 24}", "endpoint": "/v1/embeddings", "completion_window": "24h"}
    refused = client.post("/v1/batches", json=body)
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (403, "priority_not_allowed")
    assert client.get("/v1/batches").status_code == 200


@pytest.mark.parametrize("tier", [None, "auto", "flex"])
def test_what_a_key_for_bulk_work_asks_for_is_bulk_work(
    tmp_path: Path, dispatcher: FakeDispatcher, tier: str | None
) -> None:
    client = client_with(tmp_path, dispatcher, Priorities.BULK)
    assert client.post("/v1/chat/completions", json=chat(service_tier=tier)).status_code == 200
    assert dispatcher.calls[-1].priority is Priority.BULK


@pytest.mark.parametrize("tier", INTERACTIVE_TIERS)
def test_a_key_for_bulk_work_asks_for_nothing_sooner(tmp_path: Path, dispatcher: FakeDispatcher, tier: str) -> None:
    client = client_with(tmp_path, dispatcher, Priorities.BULK)
    refused = client.post("/v1/chat/completions", json=chat(service_tier=tier))
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (403, "priority_not_allowed")
    assert "bulk work only" in refused.get_json()["error"]["message"]
    assert not dispatcher.calls
