"""What Flower shows of a running `celerity up --flower`, read in a real browser, is true."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.connections import command_client
from tasks.messages import Call
from tasks.queues import Priority
from tasks.requests.request_store import Queued, RequestStore
from tasks.settings import embedded_redis_url
from tests.browser import Browser, Page, browser
from tests.deploy.test_up import Up, environment, running
from tests.stack import chat
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

# The last one is never there in time, so that what is asked of it waits.
MODELS = """
models:
  chat-small: {engine: sim, pinned: true, sim: {itl_ms: 10, seats: 2, faults: true}}
  chat-large: {engine: sim, pinned: true, sim: {seats: 4}}
  chat-cold: {engine: sim, sim: {load_s: 600}}
"""
SECRET = "nobody-else-may-read-this"


@dataclass(frozen=True)
class Flower:
    """A Flower that runs, and its password."""

    up: Up
    chromium: Browser
    host: str
    password: str

    def page(self, path: str) -> Page:
        page = self.chromium.page(user="celerity", password=self.password)
        page.open(f"http://{self.host}{path}")
        return page

    def ask(self, method: str, path: str, *, password: str | None = None, body: str = "") -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, timeout=10)
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if password is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(f'celerity:{password}'.encode()).decode()}"
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def replica(self, model: str) -> str:
        (replica,) = self.up.model(model)["replicas"]
        return f"{replica['id']}@gpu-1"

    @contextlib.contextmanager
    def asked(self, model: str, text: str, *, max_tokens: int) -> Iterator[http.client.HTTPResponse]:
        """Ask for a streamed answer, which has begun; leave before its end if there is any of it left."""
        connection = http.client.HTTPConnection(self.up.url().removeprefix("http://"), timeout=60)
        message = {"role": "user", "content": text}
        body = {"model": model, "messages": [message], "max_tokens": max_tokens, "stream": True}
        with contextlib.closing(connection):
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            with connection.getresponse() as answer:
                yield answer

    def task(self, request_id: str) -> dict[str, Any]:
        status, text = self.ask("GET", f"/api/task/info/{request_id}", password=self.password)
        return json.loads(text) if status == 200 else {"state": None}


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    folder: Path = tmp_path_factory.mktemp("flower")
    env = {"CELERITY_NODE_ID": "gpu-1", "CELERITY_FLOWER_PORT": "0"}
    with browser() as chromium, running(folder, "--flower", models=MODELS, **env) as up:
        up.url()
        told = r"flower +http://(127\.0\.0\.1:\d+) \(user celerity, password in (.+)\)\n"
        wait_until(lambda: re.search(told, up.err), "Flower to answer", timeout_s=60)
        found = re.search(told, up.err)
        assert found is not None
        flower = Flower(up, chromium, found[1], Path(found[2]).read_text().strip())
        wait_until(lambda: has_events(flower), "the workers to tell of their tasks", timeout_s=60)
        yield flower


def has_events(flower: Flower) -> bool:
    """Say whether a request shows: the models' workers have been asked for their events by then."""
    seen = []
    for model in ("chat-small", "chat-large"):
        with flower.asked(model, "hello", max_tokens=1) as answer:
            answer.read()
        seen.append(answer.headers["X-Request-Id"])
    with contextlib.suppress(AssertionError):
        wait_until(lambda: all(flower.task(id_)["state"] for id_ in seen), "them to show", timeout_s=1)
    return all(flower.task(id_)["state"] for id_ in seen)


def test_the_workers_are_online(flower: Flower) -> None:
    page = flower.page("/workers")
    names = {"control@gpu-1", "agent@gpu-1", "bulk@gpu-1", flower.replica("chat-small"), flower.replica("chat-large")}

    def online() -> set[str]:
        return {row[0] for row in page.table("#workers-table") if row[1] == "Online"}

    wait_until(lambda: names <= online(), "all to be shown online")


def test_a_worker_s_page_shows_its_pool_and_its_engine(flower: Flower) -> None:
    with flower.asked("chat-small", SECRET, max_tokens=100_000):
        name = flower.replica("chat-small")
        facts = dict(flower.page(f"/worker/{name}").table("#tab-pool"))
        assert facts["Max concurrency"] == "2"
        assert facts["Running"] == "1"
        assert facts["Engine model"] == "chat-small"
        assert facts["Engine replica"] == name.partition("@")[0]
        assert (facts["Engine state"], facts["Engine device"]) == ("ready", "cpu")
        assert (facts["Engine seats"], facts["Engine running"]) == ("2", "1")
        assert (facts["Held interactive"], facts["Held bulk"]) == ("1", "0")
        assert 0 <= float(facts["Engine kv usage"]) <= 1
    # Opened again it shows the worker as it is by then, not as it was.
    wait_until(
        lambda: dict(flower.page(f"/worker/{name}").table("#tab-pool"))["Running"] == "0", "the seat to be shown free"
    )


def test_tasks_show_how_requests_ended_and_how_long_they_took(flower: Flower) -> None:
    def request_id(answer: http.client.HTTPResponse) -> str:
        return answer.headers["X-Request-Id"]

    began = time.monotonic()
    with flower.asked("chat-small", SECRET, max_tokens=30) as answer:
        answer.read()
        done = request_id(answer)
    took_s = time.monotonic() - began
    with flower.asked("chat-small", f"!error {SECRET}", max_tokens=5) as answer:
        broken = request_id(answer)
    with flower.asked("chat-small", SECRET, max_tokens=100_000) as answer:
        left = request_id(answer)
    with flower.asked("chat-small", SECRET, max_tokens=100_000) as answer:
        states = {done: "SUCCESS", broken: "FAILURE", left: "REVOKED", request_id(answer): "STARTED"}
        wait_until(lambda: {id_: flower.task(id_)["state"] for id_ in states} == states, "all to have their state")
        page = flower.page("/tasks")

        def shown() -> dict[str, str]:
            # The id stands there twice: a short one for narrow windows.
            return {row[1][: len(done)]: row[2].upper() for row in page.table("#tasks-table") if len(row) > 1}

        wait_until(lambda: states.items() <= shown().items(), "the table to show them")
        assert SECRET not in page.text()
    # 30 tokens, of which each takes 10 ms.
    assert 0.25 < flower.task(done)["runtime"] <= took_s
    detail = flower.page(f"/task/{done}").text()
    ((number, unit),) = re.findall(r"Runtime\s+([\d.]+) (ms|s)\n", detail)
    assert float(number) / {"ms": 1000, "s": 1}[unit] == pytest.approx(flower.task(done)["runtime"], abs=0.01)
    assert "internal_error" in flower.page(f"/task/{broken}").text()
    assert SECRET not in detail + flower.page(f"/task/{broken}").text()
    assert SECRET not in flower.ask("GET", "/api/tasks", password=flower.password)[1]


def test_a_celery_call_shows_what_became_of_it_and_not_what_it_said(flower: Flower) -> None:
    body = {"model": "chat-small", "max_tokens": 5, "messages": [{"role": "user", "content": SECRET}]}
    command = [sys.executable, "-m", "celery", "-q", "-A", "tasks.app", "call", "tasks.chat", "--kwargs"]
    env = environment(CELERITY_STATE_DIR=str(flower.up.state_dir))
    called = subprocess.run([*command, json.dumps(body)], capture_output=True, text=True, check=True, env=env)
    call = called.stdout.strip()
    wait_until(lambda: flower.task(call)["state"] == "SUCCESS", "the call to have succeeded", timeout_s=60)
    seen = [flower.page(f"/task/{call}").text(), flower.page("/worker/bulk@gpu-1").run("document.body.innerHTML")]
    seen += [flower.ask("GET", path, password=flower.password)[1] for path in ("/api/tasks", "/api/workers")]
    assert call in seen[0]
    assert all(SECRET not in text for text in seen)
    assert flower.ask("GET", f"/api/task/result/{call}", password=flower.password)[0] == 403


def test_the_queues_show_what_waits_at_each_priority(flower: Flower) -> None:
    def wait_in_queue(priority: Priority, count: int) -> list[Call]:
        calls = [chat(SECRET, model="chat-cold", gateway="", priority=priority, keep_s=60) for _ in range(count)]
        assert all(store.admit(call, gateway_id="test", max_depth=-1) == Queued() for call in calls)
        return calls

    with contextlib.closing(command_client(embedded_redis_url(flower.up.state_dir))) as client:
        store = RequestStore(client)
        wait_in_queue(Priority.INTERACTIVE, 3)
        wait_in_queue(Priority.BULK, 7)
    rows = {row[0]: row[1:] for row in flower.page("/broker").table("#queue-table")}
    waiting = {name: (int(cells[0]), int(cells[2]), int(cells[3])) for name, cells in rows.items()}
    assert waiting["model.chat-cold (interactive)"] == (3, 3, 0)
    assert waiting["model.chat-cold (bulk)"] == (7, 7, 0)
    assert waiting["model.chat-large (interactive)"] == (0, 0, 1)
    assert waiting["model.chat-large (bulk)"] == (0, 0, 1)
    assert waiting["loader"][2] == 1
    assert waiting["node.gpu-1"][2] == 1
    assert waiting["batch"][2] == 1


PAGES = ("/", "/workers", "/tasks", "/broker", "/metrics", "/worker/control@gpu-1", "/tasks/datatable")
API = ("/api/workers", "/api/tasks", "/api/task/types", "/api/queues/length", "/api/task/info/x")


@pytest.mark.parametrize("password", [None, "wrong"])
def test_without_the_password_nothing_is_told(flower: Flower, password: str | None) -> None:
    for path in PAGES + API:
        status, text = flower.ask("GET", path, password=password)
        assert (status, text) in {(401, "Access denied"), (401, "")}, path
    page = flower.chromium.page()
    page.tell("Page.navigate", url=f"http://{flower.host}/workers")
    wait_until(lambda: page.run("document.readyState") == "complete", "the browser to have been refused")
    assert "gpu-1" not in page.text()


CONTROL = (
    "worker/shutdown/{worker}",
    "worker/pool/restart/{worker}",
    "worker/pool/grow/{worker}",
    "worker/pool/shrink/{worker}",
    "worker/pool/autoscale/{worker}",
    "worker/queue/add-consumer/{worker}",
    "worker/queue/cancel-consumer/{worker}",
    "task/apply/tasks.infer",
    "task/async-apply/tasks.infer",
    "task/send-task/tasks.infer",
    "task/abort/x",
    "task/timeout/tasks.infer",
    "task/rate-limit/tasks.infer",
    "task/revoke/x",
)


def test_nothing_can_be_changed(flower: Flower) -> None:
    name = flower.replica("chat-large")
    for path in CONTROL:
        status, _ = flower.ask("POST", f"/api/{path.format(worker=name)}", password=flower.password, body="n=1")
        assert status == 403, path
    assert "Shut Down" not in flower.page(f"/worker/{name}").text()
    assert flower.replica("chat-large") == name


def test_a_worker_that_was_killed_is_offline(flower: Flower) -> None:
    before = flower.replica("chat-large")
    os.kill(flower.up.model("chat-large")["replicas"][0]["pid"], signal.SIGKILL)
    page = flower.page("/workers")

    def status() -> dict[str, str]:
        return {row[0]: row[1] for row in page.table("#workers-table") if len(row) > 1}

    wait_until(lambda: status().get(before) == "Offline", "it to be shown offline", timeout_s=60)
    wait_until(lambda: flower.up.model("chat-large")["state"] == "ready", "another", timeout_s=60)
    after = flower.replica("chat-large")
    wait_until(lambda: status().get(after) == "Online", "the other to be shown online", timeout_s=60)
