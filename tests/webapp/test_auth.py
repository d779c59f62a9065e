"""X8: who gets in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from tasks.settings import Settings, SettingsError
from tests.fakes import FakeDispatcher
from tests.webapp.conftest import chat, make_app
from webapp import api_keys
from webapp.api_keys import KeyRing, Role
from webapp.exposure import require_keys_beyond_loopback


@pytest.fixture
def key(tmp_path: Path) -> str:
    return api_keys.add(tmp_path / "keys", "alice")


@pytest.fixture
def closed(tmp_path: Path, dispatcher: FakeDispatcher, key: str) -> FlaskClient:
    dispatcher.well = False  # nothing about a key needs Redis
    return make_app(tmp_path, dispatcher, KeyRing(tmp_path / "keys")).test_client()


def test_a_key_opens_the_door(closed: FlaskClient, key: str) -> None:
    for scheme in ("Bearer", "bearer"):
        answer = closed.post("/v1/chat/completions", json=chat(), headers={"Authorization": f"{scheme} {key}"})
        assert answer.status_code == 200


def test_a_wrong_key_is_answered_like_none(closed: FlaskClient, key: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    headers: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {key}x"},
        {"Authorization": f"Bearer {key},Bearer {key}"},  # how a header given twice arrives
        {"Authorization": f"Bearer  {key}"},
        {"Authorization": f"Basic {key}"},
        {"Authorization": key},
        {"Authorization": "Bearer " + "x" * 5000},
        {"Authorization": f"Bearer {key}\u00e9"},
        {"X-Api-Key": key},
    ]
    answers = [closed.post("/v1/chat/completions", json=chat(), headers=h) for h in headers]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.data for answer in answers}) == 1
    assert answers[0].get_json()["error"]["code"] == "invalid_api_key"
    assert answers[0].headers["WWW-Authenticate"] == "Bearer"
    assert all(answer.headers["x-request-id"] for answer in answers)
    assert key not in caplog.text


def test_a_key_in_the_query_does_not_count(closed: FlaskClient, key: str) -> None:
    assert closed.get(f"/v1/models?api_key={key}").status_code == 401


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/v1/nothing", "/", "/admin", "/live/"])
def test_everything_is_closed(closed: FlaskClient, path: str) -> None:
    assert closed.get(path).status_code == 401


def test_health_is_open(closed: FlaskClient) -> None:
    assert closed.get("/live").status_code == 200
    assert closed.get("/health").status_code == 503


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({"REMOTE_ADDR": "127.0.0.1"}, 200),
        ({"REMOTE_ADDR": "::1"}, 200),
        ({"REMOTE_ADDR": "10.0.0.9"}, 401),
        ({"REMOTE_ADDR": ""}, 401),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "10.0.0.9"}, 401),
    ],
)
def test_metrics_are_open_to_this_machine_only(closed: FlaskClient, environ: dict[str, Any], status: int) -> None:
    assert closed.get("/metrics", environ_base=environ).status_code == status


@pytest.mark.parametrize("path", ["/admin", "/admin/", "/admin/status", "/admin/models/demo/load", "/admin/nothing"])
def test_admin_is_for_operators(closed: FlaskClient, tmp_path: Path, key: str, path: str) -> None:
    assert closed.get(path).status_code == 401
    refused = closed.get(path, headers={"Authorization": f"Bearer {key}"})
    assert refused.status_code == 403
    assert refused.get_json()["error"]["code"] == "operator_key_required"
    assert "--role operator" in refused.get_json()["error"]["message"]
    operator = api_keys.add(tmp_path / "more", "root", Role.OPERATOR)
    app = make_app(tmp_path, FakeDispatcher(), KeyRing(tmp_path / "more"))
    assert app.test_client().get(path, headers={"Authorization": f"Bearer {operator}"}).status_code in (404, 405, 503)


def test_an_operator_may_do_what_a_user_may(tmp_path: Path, dispatcher: FakeDispatcher) -> None:
    operator = api_keys.add(tmp_path / "keys", "root", Role.OPERATOR)
    client = make_app(tmp_path, dispatcher, KeyRing(tmp_path / "keys")).test_client()
    answer = client.post("/v1/chat/completions", json=chat(), headers={"Authorization": f"Bearer {operator}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, False),
        ({"Host": "127.0.0.1:8000"}, False),
        ({"Host": "[::1]:8000"}, False),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Origin": "https://example.org"}, True),
        ({"Origin": "null"}, True),
        ({"Host": "rebound.example.org"}, True),
        ({"Host": "127.0.0.1.example.org:80"}, True),
    ],
)
def test_without_keys_admin_answers_to_this_machines_programs_and_to_no_foreign_page(
    tmp_path: Path, dispatcher: FakeDispatcher, headers: dict[str, str], refused: bool
) -> None:
    client = make_app(tmp_path, dispatcher).test_client()
    answer = client.get("/admin/nothing", headers=headers)
    assert answer.status_code == (403 if refused else 404)
    if refused:
        assert answer.get_json()["error"]["code"] == "forbidden_origin"
    assert client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org", ""])
def test_the_network_is_not_let_in_without_keys(tmp_path: Path, host: str) -> None:
    open_to_all = Settings(state_dir=tmp_path, redis_url="unix:///x", host=host)
    with pytest.raises(SettingsError, match="API keys"):
        require_keys_beyond_loopback(open_to_all)
    require_keys_beyond_loopback(
        Settings(state_dir=tmp_path, redis_url="unix:///x", host=host, api_keys_file=tmp_path / "keys")
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_keys(tmp_path: Path, host: str) -> None:
    require_keys_beyond_loopback(Settings(state_dir=tmp_path, redis_url="unix:///x", host=host))
