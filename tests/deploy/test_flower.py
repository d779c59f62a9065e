"""Flower beside everything else: its password, its place among the services, and what its death or Redis' costs."""

from __future__ import annotations

import base64
import contextlib
import http.client
import importlib.metadata
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy import embedded_redis, flower, readiness
from deploy.errors import StartError
from deploy.flower_pages import discreet, flat, rows_of
from tests.deploy.test_up import Up, running
from tests.processes import alive
from tests.stack import free_port
from tests.waiting import wait_until

MODELS = "models: {sim: {engine: sim, pinned: true, sim: {seats: 4}}}"


def test_the_password_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = flower.prepare_password(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    password = flower.read_password(tmp_path)
    assert len(password) >= 32
    assert flower.prepare_password(tmp_path) == path
    assert flower.read_password(tmp_path) == password


def test_a_password_that_others_can_read_is_refused(tmp_path: Path) -> None:
    flower.prepare_password(tmp_path).chmod(0o644)
    with pytest.raises(StartError, match=r"others can read .*flower\.password; run `chmod 600"):
        flower.prepare_password(tmp_path)


def test_no_password_at_all_is_refused(tmp_path: Path) -> None:
    flower.prepare_password(tmp_path).write_text("\n")
    with pytest.raises(StartError, match="is empty"):
        flower.prepare_password(tmp_path)
    with pytest.raises(StartError, match="cannot read"):
        flower.read_password(tmp_path / "nowhere")


@pytest.mark.parametrize(("version", "problem"), [(None, "not installed"), ("2.1.9", "too old"), ("1.2.0", "too old")])
def test_a_flower_that_is_missing_or_unsafe_is_not_run(
    monkeypatch: pytest.MonkeyPatch, version: str | None, problem: str
) -> None:
    def version_of(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", version_of)
    with pytest.raises(StartError, match=problem):
        flower.require_installed()


def test_every_model_has_a_row_for_each_priority_whoever_serves_it() -> None:
    rows = rows_of(["a"], ["model.gone", "loader", "node.n"])
    assert [(row.label, row.lists) for row in rows] == [
        ("model.a (interactive)", ("model.a",)),
        ("model.a (bulk)", ("model.a\x06\x169",)),
        ("model.gone (interactive)", ("model.gone",)),
        ("model.gone (bulk)", ("model.gone\x06\x169",)),
        ("batch", ("batch", "batch\x06\x169")),
        ("loader", ("loader", "loader\x06\x169")),
        ("node.n", ("node.n", "node.n\x06\x169")),
    ]
    shown = rows[4].shown({"batch": 2, "batch\x06\x169": 3}, {"batch": 1})
    assert shown == {"name": "batch", "messages": 5, "messages_ready": 5, "consumers": 1}


def test_the_facts_of_an_engine_stand_beside_those_of_its_pool() -> None:
    pool = {"implementation": "p", "timeouts": [None, None], "processes": [7], "held": {"bulk": 3}}
    assert flat(pool | {"engine": {"model": "a-b", "x": None}}) == {
        "implementation": ["p"],
        "processes": [7],
        "held bulk": [3],
        "engine model": ["a-b"],
    }


def test_what_a_task_was_called_with_and_what_came_of_it_stays_unsaid() -> None:
    event = {"type": "task-received", "uuid": "1", "args": "('a prompt',)", "kwargs": "{}"}
    assert discreet(event) == {"type": "task-received", "uuid": "1", "args": "-", "kwargs": "-"}
    assert discreet({"result": "'an answer'", "runtime": 1.0}) == {"result": "-", "runtime": 1.0}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("up"), "--flower", models=MODELS, CELERITY_FLOWER_PORT="0") as started:
        started.url()
        told_port(started)
        yield started


def told_port(up: Up) -> int:
    told = r"flower +http://127\.0\.0\.1:(\d+) \(user celerity, password in (.+)\)\n"
    wait_until(lambda: re.search(told, up.err), "Flower to answer", timeout_s=60)
    found = re.search(told, up.err)
    assert found is not None
    assert found[2] == str(flower.password_file(up.state_dir))
    return int(found[1])


def processes(up: Up) -> list[psutil.Process]:
    return [it for it in up.family() if "deploy.flower_server" in " ".join(it.cmdline())]


def tasks(up: Up) -> set[str]:
    """Return the ids of the tasks that it knows."""
    connection = http.client.HTTPConnection("127.0.0.1", told_port(up), timeout=10)
    credentials = base64.b64encode(f"{flower.USER}:{flower.read_password(up.state_dir)}".encode()).decode()
    with contextlib.closing(connection):
        connection.request("GET", "/api/tasks", headers={"Authorization": f"Basic {credentials}"})
        return set(json.loads(connection.getresponse().read()))


def log(up: Up) -> list[str]:
    return (up.state_dir / "logs" / "flower.log").read_text().splitlines()


@pytest.mark.integration
def test_the_password_is_nowhere_but_in_its_file(up: Up) -> None:
    password = flower.read_password(up.state_dir)
    (process,) = processes(up)
    assert password not in " ".join(process.cmdline())
    assert password not in str(process.environ())
    assert password not in up.err + up.out + "".join(log(up))


@pytest.mark.integration
def test_it_listens_on_loopback_only(up: Up) -> None:
    (process,) = processes(up)
    listening = [it.laddr for it in process.net_connections("inet") if it.status == psutil.CONN_LISTEN]
    assert listening == [("127.0.0.1", told_port(up))]


@pytest.mark.integration
def test_killed_it_comes_back_where_it_was_and_nobody_minds(up: Up) -> None:
    port, (process,) = told_port(up), processes(up)
    process.kill()
    assert up.command("chat", "sim", given="hello\n").returncode == 0
    wait_until(lambda: "flower     died (signal 9); started again" in up.err, "its death to be told")
    wait_until(lambda: readiness.answers_ok("127.0.0.1", port, "/healthcheck"), "it", timeout_s=60)
    assert [it.pid for it in processes(up)] != [process.pid]


@pytest.mark.integration
def test_the_loss_of_redis_costs_it_no_more_than_two_lines(up: Up) -> None:
    (process,) = processes(up)
    before = len(log(up))
    server = next(it for it in up.family() if it.name().startswith("redis-server"))
    server.kill()
    socket = embedded_redis.socket_path(up.state_dir)
    wait_until(lambda: "redis      died (signal 9)" in up.err, "its death to be noticed")
    wait_until(lambda: embedded_redis.answers(f"unix://{socket}"), "Redis again", timeout_s=60)
    wait_until(lambda: up.command("chat", given="hello\n").returncode == 0, "an answer", timeout_s=60)
    known = tasks(up)

    def sees_another() -> bool:
        assert up.command("chat", given="hello\n").returncode == 0
        return bool(tasks(up) - known)

    wait_until(sees_another, "a request to be seen again", timeout_s=60)
    assert [it.pid for it in processes(up)] == [process.pid]
    said = [json.loads(line)["message"] for line in log(up)[before:]]
    # None, where its reader was connected again before it had noticed.
    assert said in ([], ["redis is lost", "redis is back"])


@pytest.mark.integration
def test_it_ends_with_all_the_rest(tmp_path: Path) -> None:
    with running(tmp_path, "--flower", models=MODELS, CELERITY_FLOWER_PORT=str(free_port())) as up:
        up.url()
        told_port(up)
        family = up.family()
        os.kill(up.process.pid, signal.SIGINT)
        assert up.wait() == 0
        assert alive(family) == []
        assert re.search("flower +stopping", up.err)
        assert [line for line in log(up) if "flower listens" not in line] == []


@pytest.mark.integration
def test_a_taken_port_is_named(up: Up, tmp_path: Path) -> None:
    port = str(told_port(up))
    with running(tmp_path, "--flower", models=MODELS, CELERITY_FLOWER_PORT=port) as second:
        assert second.wait() == 1
        assert re.search(rf"port {port} is taken .*choose another with CELERITY_FLOWER_PORT", second.err)
