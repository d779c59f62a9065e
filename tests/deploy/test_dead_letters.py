"""`celerity deadletter`: what is shown of a request that was given up, and how it runs again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from deploy.cli import main
from tasks import keys
from tasks.connections import command_client
from tasks.messages import Call, Endpoint, encode_call
from tests.stack import RedisServer

pytestmark = pytest.mark.integration

CALL = Call(
    id="req_dead" + "0" * 32,
    model="m",
    endpoint=Endpoint.CHAT,
    body=b'{"messages": [{"role": "user", "content": "a secret"}]}',
    stream=True,
    gateway="gone",
    caller="alice",
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "models.yaml").write_text("models:\n  m:\n    engine: sim\n    queue: {max_depth: 1}\n")
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    client = command_client(server.url)
    yield client
    client.close()


@pytest.fixture
def buried(client: redis.Redis) -> Call:
    """As lua/requeue.lua buries it."""
    end = {b"produced": b'data: {"half": 1}\n\n', b"reason": b"It was there.", b"died_ms": b"1700000000250"}
    letter: dict[Any, Any] = {**encode_call(CALL), **end, b"deaths": b"2", b"replica": b""}
    client.hset(keys.dead_letter(CALL.id), mapping=letter)
    client.zadd(keys.DEAD_LETTERS, {CALL.id: 1_700_000_000_250, "lapsed": 1})
    return CALL


def run(server: RedisServer, *args: str) -> Result:
    clean = {"CELERITY_STATE_DIR": None, "CELERITY_REDIS_URL": server.url}
    env = clean | {"CELERITY_MODELS": str(server.folder / "models.yaml")}
    return CliRunner().invoke(main, ["deadletter", *args], env=env)


def test_nothing_to_list_is_said(server: RedisServer) -> None:
    assert run(server, "list").output == "no dead letters\n"
    assert json.loads(run(server, "list", "--json").output) == []


def test_the_list_names_the_request_and_not_what_was_asked(server: RedisServer, buried: Call) -> None:
    (one,) = json.loads(run(server, "list", "--json").output)
    assert one == {
        "id": CALL.id,
        "model": "m",
        "endpoint": "chat",
        "caller": "alice",
        "died_at": "2023-11-14T22:13:20.250+00:00",
        "deaths": 2,
        "reason": "It was there.",
    }
    text = run(server, "list").output
    assert CALL.id in text
    assert "secret" not in text


def test_show_has_the_body_and_what_was_produced(server: RedisServer, buried: Call) -> None:
    found = json.loads(run(server, "show", CALL.id, "--json").output)
    assert json.loads(found["body"])["messages"][0]["content"] == "a secret"
    assert found["produced"] == 'data: {"half": 1}\n\n'
    text = run(server, "show", CALL.id).output
    assert "a secret" in text
    assert '{"half": 1}' in text


@pytest.mark.parametrize("command", ["show", "replay"])
def test_what_is_not_there_is_said_in_one_line(server: RedisServer, command: str) -> None:
    result = run(server, command, "req_none")
    assert result.exit_code == 1
    assert "no dead letter req_none" in result.stderr
    assert "celerity deadletter list" in result.stderr


def test_a_replay_is_a_new_request_that_nobody_waits_for(
    server: RedisServer, client: redis.Redis, buried: Call
) -> None:
    new_id = run(server, "replay", CALL.id).output.strip()
    assert new_id != buried.id
    fields = client.hmget(keys.request(new_id), "body", "gateway", "caller", "deaths", "keep_s")
    assert fields == [buried.body, b"", b"alice", b"0", b"86400"]
    (message,) = client.lrange("model.m", 0, -1)
    assert json.loads(message)["headers"]["id"] == new_id
    assert client.exists(keys.dead_letter(buried.id))


def test_a_full_queue_refuses_a_replay(server: RedisServer, client: redis.Redis, buried: Call) -> None:
    assert run(server, "replay", CALL.id).exit_code == 0
    result = run(server, "replay", CALL.id)
    assert result.exit_code == 1
    assert "too many requests wait" in result.stderr


def test_a_model_that_is_gone_is_named(server: RedisServer, client: redis.Redis, buried: Call) -> None:
    client.hset(keys.dead_letter(buried.id), "model", "old")
    result = run(server, "replay", CALL.id)
    assert result.exit_code == 1
    assert "'old'" in result.stderr
