"""A whole `celerity up` to be measured, asked over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from deploy import embedded_redis
from tasks.connections import command_client
from tasks.records.orders import OrderStore
from tasks.records.replicas import ReplicaState, ReplicaStore
from tests.processes import alive, of_state_dir
from tests.stack import REPOSITORY
from tests.waiting import wait_until

WITHIN_S = 180.0


@dataclass
class Site:
    """A `celerity up` that runs."""

    port: int
    state_dir: Path
    pid: int
    """Of `celerity up`."""

    def processes(self) -> list[psutil.Process]:
        """Return `celerity up`, its descendants, and the replicas, which outlive who starts them."""
        up = psutil.Process(self.pid)
        # Not all by their environment: a long title is written over it.
        found = {up, *up.children(recursive=True), *of_state_dir(self.state_dir)}
        return alive(found.union(*(it.children(recursive=True) for it in found)))

    def ask(self, model: str, tokens: int = 8) -> tuple[int, float]:
        """Return the status and how long the whole answer took."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=200)
        body = {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": "hi"}]}
        began = time.perf_counter()
        with contextlib.closing(connection):
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            return response.status, time.perf_counter() - began

    def unload(self, model: str) -> None:
        """Return once nothing of it runs."""
        self._request("POST", f"/admin/models/{model}/unload")

        def unloaded() -> bool:
            models = json.loads(self._request("GET", "/admin/status"))["models"]
            return any(it["id"] == model and not it["replicas"] for it in models)

        wait_until(unloaded, f"{model} to be unloaded", timeout_s=WITHIN_S)

    def spare(self, engine: str) -> psutil.Process:
        """Wait until the engine's spare is ready, and return it."""
        log = self.state_dir / "logs" / f"spare-{engine}.log"
        wait_until(lambda: log.exists() and "spare ready" in log.read_text(), "the spare", timeout_s=WITHIN_S)
        return psutil.Process(int(log.read_text().split("spare ready: process ")[-1].split()[0]))

    def replicas(self) -> Counter[ReplicaState]:
        with self._redis() as client:
            return Counter(facts.state for facts in ReplicaStore(client).all())

    def ordered(self) -> set[str]:
        """Return the replicas that stand in an order now."""
        with self._redis() as client:
            return {order.replica for order in OrderStore(client).all()}

    def loaded(self) -> int:
        """Return how many replicas were ever ordered, by the loader's own log."""
        return (self.state_dir / "logs" / "control.log").read_bytes().count(b"order_starting")

    def redis_bytes(self) -> int:
        with self._redis() as client:
            return int(client.info("memory")["used_memory"])

    def commands(self) -> Counter[str]:
        """Return how often each Redis command was called since the start, by scripts too."""
        with self._redis() as client:
            stats: Any = client.info("commandstats")
            return Counter({name.removeprefix("cmdstat_"): int(it["calls"]) for name, it in stats.items()})

    @contextlib.contextmanager
    def _redis(self) -> Iterator[Any]:
        with contextlib.closing(command_client(f"unix://{embedded_redis.socket_path(self.state_dir)}")) as client:
            yield client

    def _request(self, method: str, path: str) -> bytes:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path)
            return connection.getresponse().read()


@contextlib.contextmanager
def site(models: str, memory_mib: int, **env: str) -> Iterator[Site]:
    """Run `celerity up` in a folder of its own until its end. `env` has further settings."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "models.yaml").write_text(models)
        environ = {key: value for key, value in os.environ.items() if not key.startswith("CELERITY_")}
        state_dir, out = folder / "state", folder / "out"
        command = [sys.executable, "-m", "deploy", "up", "--port", "0", "--state-dir", str(state_dir)]
        with out.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--models", str(folder / "models.yaml")],
                stdout=file,
                stderr=file,
                start_new_session=True,
                cwd=REPOSITORY,
                env=environ | {"CELERITY_MEMORY_MIB": str(memory_mib)} | env,
            )
        try:
            wait_until(
                lambda: "ready http" in out.read_text() or process.poll() is not None, "ready", timeout_s=WITHIN_S
            )
            assert process.poll() is None, out.read_text()
            address = next(line for line in out.read_text().splitlines() if line.startswith("ready http"))
            yield Site(int(address.rpartition(":")[2].partition("/")[0]), state_dir, process.pid)
        finally:
            end(process)


def first_token(port: int, model: str) -> None:
    """Return when the first token of a streamed answer is there. Raises OSError when nobody listens."""
    body = {"model": model, "stream": True, "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN_S)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        for line in response:
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                response.read()
                return
        raise AssertionError("an answer without a token")


def end(process: subprocess.Popen[bytes]) -> None:
    """End the leader of a session, and whatever is left of it."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
