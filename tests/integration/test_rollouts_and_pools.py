"""Rollouts and pools as a client sees them: gateway, loader, agent and workers are real, the models simulated."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.loader_processes import ALL, NODE, LoaderProcesses
from tests.stack import GatewayProcess, Stack, stack
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

SIM = "engine: sim, sim: {memory_mib: %d, load_s: %s, itl_ms: 20, seats: 4}"
ROLLOUT = f"""
models:
  old: {{{SIM % (100, 0)}}}
  new: {{{SIM % (100, 1.5)}}}
  third: {{{SIM % (100, 0)}}}
aliases:
  chat: {{desired: new, previous: old}}
"""
POOLS = f"""
models:
  mine: {{{SIM % (1000, 0)}, aliases: [tenant]}}
  guest: {{{SIM % (1000, 0)}}}
devices:
  cpu: {{bound_to: tenant}}
"""
EXCLUSIVE = f"""
models:
  one: {{{SIM % (100, 0)}}}
  two: {{{SIM % (100, 0)}}}
devices:
  cpu: {{exclusive: true}}
"""


@dataclass
class Answer:
    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])


@dataclass
class Running:
    stack: Stack
    loader: LoaderProcesses
    gateway: GatewayProcess

    def ask(self, model: str, *, tokens: int = 2, **headers: str) -> Answer:
        body = {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": "hello"}]}
        with contextlib.closing(self.gateway.connect()) as connection:
            connection.request(
                "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json", **headers}
            )
            response: http.client.HTTPResponse = connection.getresponse()
            return Answer(response.status, json.loads(response.read()), dict(response.headers))

    def build_for(self, alias: str) -> str:
        """Return the model that answers who asks for `alias`."""
        answer = self.ask(alias)
        assert answer.status == 200, answer
        return str(answer.body["model"])


@contextlib.contextmanager
def running(folder: Path, models: str) -> Iterator[Running]:
    env = {"CELERITY_NODE_ID": NODE, "CELERITY_MEMORY_MIB": "1500", "CELERITY_DRAIN_TIMEOUT_S": "10"}
    with stack(folder, models, **env) as started:
        loader = LoaderProcesses(started)
        try:
            loader.start(*ALL)
            loader.ticks(1)
            yield Running(started, loader, started.gateway())
        finally:
            loader.close()


def test_previous_serves_until_desired_is_ready_and_again_when_it_is_lost(tmp_path: Path) -> None:
    with running(tmp_path, ROLLOUT) as it:
        assert it.build_for("old") == "old"
        assert it.build_for("chat") == "old", "desired is not ready yet"
        wait_until(lambda: it.build_for("chat") == "new", "desired to be ready", timeout_s=30)
        (replica,) = _replicas(it, "new")
        os.kill(replica, signal.SIGKILL)
        assert it.build_for("chat") in ("new", "old")
        wait_until(lambda: it.build_for("chat") == "new", "desired to be back", timeout_s=30)
        assert it.build_for("new") == "new"
        assert it.build_for("third") == "third", "room enough for others beside them"


def test_a_device_of_somebodys_own_is_nobody_elses(tmp_path: Path) -> None:
    with running(tmp_path, POOLS) as it:
        assert it.build_for("tenant") == "mine"
        refused = it.ask("guest")
        assert (refused.status, refused.code) == (503, "model_load_failed")
        assert "guest" not in it.loader.ordered("guest")
        assert it.build_for("mine") == "mine"


def test_an_exclusive_device_changes_hands_when_it_is_idle_and_not_before(tmp_path: Path) -> None:
    with running(tmp_path, EXCLUSIVE) as it:
        assert it.build_for("one") == "one"
        assert it.build_for("two") == "two", "it was idle"
        answers: list[Answer] = []
        busy = threading.Thread(target=lambda: answers.append(it.ask("two", tokens=300)))
        busy.start()
        wait_until(lambda: it.stack.taken() == 1, "work on the device")
        waiting = it.ask("one")
        busy.join()
        assert [answer.status for answer in answers] == [200], "who works there is not disturbed"
        assert waiting.status in (200, 429)
        if waiting.status == 429:
            assert (waiting.code, int(waiting.headers["Retry-After"]) > 0) == ("pool_exhausted", True)
        wait_until(lambda: it.ask("one").status == 200, "its turn", timeout_s=30)


def _replicas(it: Running, model: str) -> list[int]:
    names = it.loader.replicas(model)
    with contextlib.closing(it.stack.client()) as client:
        return [int(client.hget(f"celerity:replica:{name}", "pid") or 0) for name in names]
