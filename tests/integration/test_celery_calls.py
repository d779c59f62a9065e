"""The tasks that users call by name, by Celery's own command line, against a real bulk worker and engine workers."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
from celery import Celery
from celery.events import EventReceiver

from tasks.bulk.ledger import Ledger
from tasks.bulk.records import BatchStatus
from tests.bulk_stack import Bulk, bulk_on, chat_line
from tests.stack import REPOSITORY, Stack, stack
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

MODELS = "models: {sim: {engine: sim, aliases: [light], sim: {seats: 8}}, weak: {engine: sim, sim: {faults: true}}}"
CHAT = {"model": "light", "max_tokens": 3, "messages": [{"role": "user", "content": "hello"}]}
SECRET = "a prompt that nobody else may see"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("stack"), MODELS) as started:
        started.launch("sim")
        started.launch("weak")
        yield started


@pytest.fixture(scope="module")
def bulk(running: Stack) -> Iterator[Bulk]:
    with bulk_on(running) as bulk:
        bulk.worker()
        yield bulk


@pytest.fixture
def client(running: Stack) -> Iterator[redis.Redis]:
    client = running.client()
    yield client
    client.close()


def celery(running: Stack, *args: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "celery", "-A", "tasks.app", *args]
    env = {**os.environ, **running.env, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=60, check=False)


def called(running: Stack, task: str, kwargs: dict[str, Any], cwd: Path = REPOSITORY) -> str:
    """Return the id that `celery call` printed."""
    done = celery(running, "call", task, "--kwargs", json.dumps(kwargs), cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def result(running: Stack, task: str, kwargs: dict[str, Any]) -> str:
    fetched = celery(running, "result", called(running, task, kwargs))
    assert fetched.returncode == 0, fetched.stderr
    return fetched.stdout


def refusal(running: Stack, task: str, kwargs: dict[str, Any]) -> str:
    fetched = celery(running, "result", called(running, task, kwargs))
    assert fetched.returncode != 0
    return fetched.stderr.strip().splitlines()[-1]


def test_the_answer_of_each_is_printed_as_json(running: Stack, bulk: Bulk) -> None:
    chat = json.loads(result(running, "tasks.chat", CHAT))
    assert (chat["object"], chat["usage"]["completion_tokens"]) == ("chat.completion", 3)
    completed = json.loads(result(running, "tasks.complete", {"model": "sim", "prompt": "x", "max_tokens": 2}))
    assert (completed["object"], completed["model"]) == ("text_completion", "sim")
    embedded = json.loads(result(running, "tasks.embed", {"model": "sim", "input": "x"}))
    assert embedded["data"][0]["object"] == "embedding"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (CHAT | {"model": "nobody"}, "model_not_found: There is no such model here"),
        (CHAT | {"nonsense": 1}, "unknown_parameter: Unknown parameter: 'nonsense'."),
        (CHAT | {"stream": True}, "unsupported_parameter: 'stream' is not supported"),
        ({"model": "sim"}, "invalid_request: 'messages' is required."),
    ],
)
def test_a_bad_call_fails_at_once_as_the_api_would_have_it(
    running: Stack, bulk: Bulk, body: dict[str, Any], told: str
) -> None:
    assert told in refusal(running, "tasks.chat", body)


def test_an_answer_that_fails_fails_the_task(running: Stack, bulk: Bulk) -> None:
    body = {"model": "weak", "messages": [{"role": "user", "content": "!error"}]}
    assert "internal_error: The server failed to answer" in refusal(running, "tasks.chat", body)


def test_arguments_by_position_are_refused(running: Stack, bulk: Bulk) -> None:
    done = celery(running, "call", "tasks.chat", "--args", '["hello"]')
    assert "invalid_request: Arguments are given by name" in celery(running, "result", done.stdout.strip()).stderr


def test_a_relative_path_is_relative_to_who_calls(running: Stack, bulk: Bulk, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(chat_line(i)) + "\n" for i in range(20)))
    task_id = called(running, "tasks.batch", {"input": "prompts.jsonl", "metadata": {"of": "a test"}}, cwd=tmp_path)
    batch_id = celery(running, "result", task_id).stdout.strip()
    (tmp_path / "prompts.jsonl").write_text("another file")
    batch = bulk.ended(batch_id)
    assert (batch.counts.completed, batch.metadata) == (20, {"of": "a test"})
    assert len(bulk.output(batch)) == 20


def test_a_batch_fills_in_model_and_endpoint(running: Stack, bulk: Bulk, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt": "b", "model": "weak"}\n')
    kwargs = {"input": str(file), "endpoint": "/v1/completions", "model": "light"}
    batch = bulk.ended(result(running, "tasks.batch", kwargs).strip())
    assert [line["response"]["body"]["model"] for line in bulk.output(batch)] == ["sim", "weak"]


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"input": "/no/such/file.jsonl"}, "there is no such file"),
        ({"input": "."}, "'input' must be a file"),
        ({"input": 3}, "'input' must be the path of a file"),
        ({"input": "setup.cfg", "model": "nobody"}, "model_not_found"),
        ({"input": "setup.cfg", "endpoint": "/v1/audio"}, "'endpoint' must be one of"),
        ({"input": "setup.cfg", "output": "x"}, "unknown_parameter: Unknown parameter: 'output'."),
        ({"input": "setup.cfg", "metadata": {"a": 1}}, "'metadata.a' must be a string"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(running: Stack, bulk: Bulk, kwargs: dict[str, Any], told: str) -> None:
    assert told in refusal(running, "tasks.batch", kwargs)


def test_a_task_that_is_delivered_twice_is_done_once(running: Stack, bulk: Bulk, client: redis.Redis) -> None:
    """Both messages carry the same task id, as when a worker dies between its work and its acknowledgement."""
    bulk.workers[0].terminate()
    called(running, "tasks.chat", CHAT)
    message = client.lindex("batch", 0)
    assert isinstance(message, bytes)
    client.lpush("batch", message)
    task_id = orjson.loads(message)["headers"]["id"]
    bulk.worker()
    assert json.loads(celery(running, "result", task_id).stdout)["object"] == "chat.completion"
    wait_until(lambda: not client.llen("batch"), "both messages to be taken")
    ledger = Ledger(running.settings.ledger_url)
    record = ledger.batch(task_id)
    ledger.close()
    assert record is not None
    assert (record.status, record.counts.total) == (BatchStatus.COMPLETED, 1)


def test_prompts_stand_in_no_log_and_in_nothing_that_monitors_are_shown(
    running: Stack, bulk: Bulk, client: redis.Redis
) -> None:
    result(running, "tasks.chat", CHAT | {"messages": [{"role": "user", "content": SECRET}]})
    refusal(running, "tasks.chat", CHAT | {"messages": [{"role": SECRET, "content": SECRET}]})
    logs = "".join(path.read_text() for path in running.folder.glob("*.log"))
    assert "feeder leads" in logs
    assert SECRET not in logs
    assert "Traceback" not in logs
    bulk.workers[-1].terminate()
    called(running, "tasks.chat", CHAT | {"messages": [{"role": "user", "content": SECRET}]})
    message = client.lpop("batch")
    assert isinstance(message, bytes)
    assert SECRET not in json.dumps(orjson.loads(message)["headers"])
    bulk.worker()


def test_a_monitor_sees_when_a_call_has_its_answer(running: Stack, bulk: Bulk) -> None:
    monitor = Celery("monitor", broker=running.settings.broker_url, set_as_current=False)
    monitor.conf.update(broker_transport_options={"socket_timeout": 10})
    with events_of(monitor) as seen:

        def asked() -> bool:
            replies = monitor.control.enable_events(reply=True, timeout=1)
            return any(name.startswith("bulk@") for reply in replies or () for name in reply)

        # The test before may have started it just now.
        wait_until(asked, "the bulk worker to send events")
        task_id = called(running, "tasks.chat", CHAT)
        bad_id = called(running, "tasks.chat", {"model": "sim"})
        wait_until(lambda: ("task-succeeded", task_id) in seen, "the answer to be told")
        wait_until(lambda: ("task-failed", bad_id) in seen, "the failure to be told")
    monitor.close()
    assert 0 <= seen["task-succeeded", task_id]["runtime"] < 60
    assert seen["task-succeeded", task_id]["result"] == "-"
    assert seen["task-received", task_id]["kwargs"] == "-"


@contextlib.contextmanager
def events_of(monitor: Celery) -> Iterator[dict[tuple[str, str | None], dict[str, Any]]]:
    """Receive what Flower would, by type and task."""
    seen: dict[tuple[str, str | None], dict[str, Any]] = {}

    def note(event: dict[str, Any]) -> None:
        seen.setdefault((event["type"], event.get("uuid")), event)

    with monitor.connection_for_read() as connection:
        receiver = EventReceiver(connection, handlers={"*": note}, app=monitor)
        thread = threading.Thread(target=lambda: receiver.capture(limit=None, timeout=None, wakeup=False))
        thread.start()
        try:
            wait_until(lambda: ("worker-heartbeat", None) in seen, "a heartbeat of a worker")
            yield seen
        finally:
            receiver.should_stop = True
            thread.join(20)


def test_results_lapse_as_others_do(running: Stack, bulk: Bulk, client: redis.Redis) -> None:
    task_id = called(running, "tasks.chat", CHAT)
    assert celery(running, "result", task_id).returncode == 0
    assert 0 < client.ttl(f"celery-task-meta-{task_id}") <= 3600
