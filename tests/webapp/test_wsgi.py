"""What gunicorn loads, from the environment alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.settings import SettingsError
from tests.waiting import wait_until
from tests.webapp.fake_server import request, serve
from webapp import api_keys, wsgi


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "models.yaml").write_text("models:\n  sim-a:\n    engine: sim\n    aliases: [light]\n")
    monkeypatch.setenv("CELERITY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("CELERITY_MODELS", str(tmp_path / "models.yaml"))
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level


def test_the_gateway_is_built_from_the_environment() -> None:
    client = wsgi.create().test_client()
    assert {entry["id"] for entry in client.get("/v1/models").get_json()["data"]} == {"sim-a", "light"}
    # There is no Redis in the state directory.
    assert client.get("/health").status_code == 503


def test_keys_are_asked_for_when_there_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = api_keys.add(tmp_path / "keys", "alice")
    monkeypatch.setenv("CELERITY_API_KEYS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("CELERITY_HOST", "0.0.0.0")
    client = wsgi.create().test_client()
    assert client.get("/v1/models").status_code == 401
    assert client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_a_file_of_keys_that_is_not_there_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERITY_API_KEYS_FILE", str(tmp_path / "keys"))
    with pytest.raises(SettingsError, match="does not exist"):
        wsgi.create()


def test_an_open_address_without_keys_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERITY_HOST", "0.0.0.0")
    with pytest.raises(SettingsError, match="without API keys"):
        wsgi.create()


def test_several_processes_add_up_their_metrics_and_log_json(tmp_path: Path) -> None:
    with serve(tmp_path, GATEWAY_WORKERS="2") as server:
        for _ in range(8):
            assert b"[DONE]" in server.exchange(request("say 1"))
        total = b'celerity_requests_total{code="ok",endpoint="chat",model="demo"} 8.0'
        wait_until(lambda: total in server.get("/metrics"), "both processes' counts")
        assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert sum(line.get("event") == "request_ended" for line in lines) == 8
    assert not any((tmp_path / "metrics").iterdir())
