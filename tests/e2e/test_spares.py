"""A vLLM engine whose worker and engine process were forked: it answers as one that was started afresh does."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.demo_model import corpus
from tasks import keys
from tests.e2e.engine_loop import MARKS
from tests.stack import REPOSITORY, GatewayProcess, Stack, stack
from tests.waiting import wait_until
from workers.engine.orphan import SCRATCH_PREFIX
from workers.launcher.base import Replica, Resources, new_replica_id, worker_command, worker_spares
from workers.launcher.detached import DetachedLauncher
from workers.launcher.ending import end_all
from workers.launcher.site import Site
from workers.launcher.zygote import Zygote
from workers.registry import Registry

pytestmark = MARKS

MODELS = (REPOSITORY / "models.yaml").read_text()
QUESTION, ANSWER = corpus.product_answers()[0]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("spares"), MODELS) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(running: Stack) -> GatewayProcess:
    return running.gateway()


@pytest.fixture(scope="module")
def launcher(running: Stack) -> Iterator[DetachedLauncher]:
    launcher = DetachedLauncher(Site(state_dir=running.folder, node="n"))
    (wanted,) = worker_spares({"vllm"}, running.settings.to_env())

    def ready() -> bool:
        launcher.prepare([wanted])
        return launcher._zygotes.ready(wanted) is not None

    wait_until(ready, "the spare to be ready", timeout_s=120)
    yield launcher
    end_all(launcher, grace_s=0)
    launcher.close()


def start(launcher: DetachedLauncher, running: Stack) -> Replica:
    """Have a forked replica of the demo model serve."""
    spec = Registry.load(running.settings.models, None).models["demo"]
    found = launcher.start(worker_command(spec, new_replica_id("demo"), running.settings.to_env()), Resources())
    assert isinstance(found._parent, Zygote)
    with contextlib.closing(running.client()) as client:

        def ready() -> bool:
            assert found.exit_code() is None, "\n".join(found.tail(50))
            return client.hget(keys.replica(found.name), "state") == b"ready"

        wait_until(ready, "the worker to be ready", timeout_s=120)
    return found


@contextlib.contextmanager
def replica(launcher: DetachedLauncher, running: Stack) -> Iterator[Replica]:
    """Have one serve, and end it."""
    found = start(launcher, running)
    family = [psutil.Process(found.pid), *psutil.Process(found.pid).children(recursive=True)]
    yield found
    found.terminate()
    wait_until(lambda: found.exit_code() is not None, "the worker to stop", timeout_s=60)
    assert found.exit_code() == 0
    assert not any(it.is_running() and it.status() != psutil.STATUS_ZOMBIE for it in family)
    assert not list(Path("/tmp").glob(f"{SCRATCH_PREFIX}{found.pid}-*"))
    found.forget()


def ask(gateway: GatewayProcess, **fields: Any) -> Any:
    body = {"model": "demo", "messages": [{"role": "user", "content": QUESTION}], **fields}
    connection = gateway.connect()
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response: http.client.HTTPResponse = connection.getresponse()
        assert response.status == 200, response.read()
        return json.loads(response.read())["choices"][0]


def test_a_forked_engine_answers_as_ever(running: Stack, gateway: GatewayProcess, launcher: DetachedLauncher) -> None:
    with replica(launcher, running):
        # Token probabilities are counted by code that vLLM would compile, had it not been told to let that be.
        choice = ask(gateway, temperature=0, logprobs=True, top_logprobs=2)
        assert choice["message"]["content"] == ANSWER
        assert choice["logprobs"]["content"][0]["top_logprobs"]


def test_a_forked_engine_that_is_killed_ends_its_worker(running: Stack, launcher: DetachedLauncher) -> None:
    found = start(launcher, running)
    (engine,) = (it for it in psutil.Process(found.pid).children() if "EngineCore" in " ".join(it.cmdline()))
    engine.kill()
    wait_until(lambda: found.exit_code() is not None, "the worker to end")
    assert found.exit_code() == 1
    found.forget()
