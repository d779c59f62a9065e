"""The operators' tasks by Celery's own command line, against a real control worker."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks import keys
from tasks.messages import Done
from tasks.records.nudge import nudge
from tasks.records.wishes import Wish, WishStore
from tests.stack import REPOSITORY, Stack, chat, read, stack
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

# Its file of models is not the default one, so that a task which knows the model has read it.
MODELS = "models: {sim: {engine: sim, aliases: [light]}}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("stack"), MODELS) as started:
        yield started


@pytest.fixture(scope="module")
def control(running: Stack) -> Iterator[Path]:
    """Return the log of a control worker that runs."""
    log = running.folder / "control.log"
    command = [sys.executable, "-m", "celery", "-A", "tasks.app", "worker", "-P", "solo", "-Q", "loader,default"]
    command += ["-n", "control@%h", "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=REPOSITORY, env={**os.environ, **running.env}
        )
    yield log
    process.terminate()
    process.wait(30)


@pytest.fixture
def client(running: Stack) -> Iterator[redis.Redis]:
    client = running.client()
    yield client
    client.close()


def celery(running: Stack, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "celery", "-A", "tasks.app", *args]
    env = {**os.environ, **running.env}
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=env, timeout=60, check=False)


def called(running: Stack, task: str, args: str = "[]") -> tuple[str, subprocess.CompletedProcess[str]]:
    """Return the id that `celery call` printed, and what `celery result` said of it."""
    task_id = celery(running, "call", task, "--args", args).stdout.strip()
    return task_id, celery(running, "result", task_id)


def result_of(running: Stack, task: str, args: str = "[]") -> dict[str, Any]:
    _, result = called(running, task, args)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = ast.literal_eval(result.stdout)
    return found


def test_a_load_is_ordered_and_its_result_fetched(running: Stack, control: Path, client: redis.Redis) -> None:
    task_id, result = called(running, "tasks.loader.load", '["light"]')
    entry = ast.literal_eval(result.stdout)
    assert (entry["id"], entry["note"][:9]) == ("sim", "It is loa")
    assert 0 < client.ttl(f"celery-task-meta-{task_id}") <= 3600
    assert result_of(running, "tasks.loader.unload", '["sim"]')["id"] == "sim"


def test_the_status_and_the_switch_are_tasks_too(running: Stack, control: Path, client: redis.Redis) -> None:
    assert result_of(running, "tasks.loader.switch", "[false]") == {"automatic": False}
    assert WishStore(client).automatic is False
    assert result_of(running, "tasks.loader.status")["loader"]["automatic"] is False
    assert result_of(running, "tasks.loader.switch", "[true]") == {"automatic": True}


def test_a_model_that_is_not_there_fails_the_task_with_its_reason(running: Stack, control: Path) -> None:
    _, result = called(running, "tasks.loader.load", '["nobody"]')
    assert result.returncode != 0
    assert "There is no such model or alias here" in result.stderr
    assert "Traceback" not in control.read_text()


def test_without_a_control_worker_an_order_waits_in_the_loaders_queue(tmp_path: Path) -> None:
    with stack(tmp_path, MODELS) as alone:
        celery(alone, "call", "tasks.loader.load", "--args", '["sim"]')
        client = alone.client()
        assert client.llen("loader") == 1
        assert WishStore(client).of(["sim"]) == dict[str, Wish]()
        client.close()


def test_what_has_no_result_does_not_touch_the_result_backend(
    running: Stack, control: Path, client: redis.Redis
) -> None:
    """Neither for a request nor for a tick of the loader is a result written or subscribed to."""
    running.worker("sim")
    dispatcher = running.dispatcher()
    assert result_of(running, "tasks.loader.switch", "[true]")
    before, ran_before = _result_commands(client), client.get(keys.LOADER_RAN)
    assert all(before.values())
    answer = dispatcher.submit(chat("x", gateway=dispatcher.gateway_id), max_depth=9)
    assert isinstance(read(answer)[-1], Done)
    nudge(client)
    wait_until(lambda: client.get(keys.LOADER_RAN) != ran_before, "the loader to have looked")
    wait_until(lambda: running.taken() == 0, "the messages to be acknowledged")
    assert _result_commands(client) == before


def _result_commands(client: redis.Redis) -> dict[str, int]:
    """Count what a result backend does for each task that has a result, and nothing else of ours does."""
    stats: Any = client.info("commandstats")
    return {name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("subscribe", "setex")}


@pytest.mark.parametrize(
    ("url", "replica", "backend"),
    [
        ("unix:///x/redis.sock", None, "RedisBackend"),
        ("redis://127.0.0.1:1/2", None, "RedisBackend"),
        ("rediss://127.0.0.1:1", None, "RedisBackend"),
        ("unix:///x/redis.sock", "m-1", "DisabledBackend"),
    ],
)
def test_only_who_runs_such_tasks_has_a_result_backend(url: str, replica: str | None, backend: str) -> None:
    code = "from tasks.app import app; app.loader.import_default_modules(); app.finalize(); "
    code += "print(type(app.tasks['tasks.loader.load'].backend).__name__)"
    env = {**os.environ, "CELERITY_REDIS_URL": url}
    env |= {"CELERITY_REPLICA_ID": replica} if replica else {}
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, env=env, check=True
    )
    assert said.stdout.strip() == backend
