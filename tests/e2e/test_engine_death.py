"""An engine whose process dies takes its worker along at once, and the worker says so by its exit code."""

from __future__ import annotations

import json

import psutil
import pytest

from tests.e2e.conftest import System
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e


def test_a_worker_whose_engine_process_is_killed_exits_non_zero_and_leaves_nothing(system: System) -> None:
    worker = system.stack.worker("demo")
    # The two workers share the queue; this one dies while it may hold a request of a stream.
    family = psutil.Process(worker.process.pid).children(recursive=True)
    engine = next(process for process in family if "EngineCore" in " ".join(process.cmdline()) + process.name())
    engine.kill()
    wait_until(lambda: worker.process.poll() is not None, "the worker to end", timeout_s=10)
    assert worker.process.returncode != 0
    wait_until(lambda: not any(process.is_running() for process in family), "its children to be gone")
    assert '"event":"worker_dies"' in worker.log.read_text()
    # The other worker goes on.
    connection = system.gateway.connect()
    body = {"model": "demo", "messages": [{"role": "user", "content": "What is Celerity?"}], "temperature": 0}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    assert connection.getresponse().status == 200
    connection.close()


def test_a_worker_that_is_killed_leaves_no_engine_behind(system: System) -> None:
    worker = system.stack.worker("demo")
    family = psutil.Process(worker.process.pid).children(recursive=True)
    assert family
    worker.kill()
    wait_until(lambda: not any(process.is_running() for process in family), "its engine to end by itself")
