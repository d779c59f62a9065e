"""What a whole `celerity up` asks of Redis while nobody asks anything of it: counted by service, not timed.

The measure is beat's own look, one every two seconds: where everything is slow, everything
is asked later, and the counts between two looks stay. So the goal of fewer than 20
commands a second is one of 40 a look.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import psutil
import pytest
import redis

from tasks import keys
from tasks.records.nodes import redis_time
from tasks.requests.pulse import ALIVE_S
from tests.bench.site import Site, site
from tests.stack import RedisServer, free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

MODELS = """
models:
  a: {engine: sim, sim: {load_s: 0.1, memory_mib: 200}}
"""
LOOKS = 10
# Commands between two looks of beat, those inside scripts included: what was measured, and half as much again.
BUDGET = {
    "replica": 6.0,
    "gateway": 7.0,
    "agent": 8.0,
    "control": 10.0,
    "bulk": 4.5,
    "up": 2.5,
    "beat": 3.5,
}
TOGETHER = 40.0
# By what stands in its command line; what comes first counts.
SERVICES = {
    "agent@": "agent",
    "control@": "control",
    "bulk@": "bulk",
    "celery beat": "beat",
    "tasks.app beat": "beat",
    "gunicorn": "gateway",
    "deploy up": "up",
    "model.a": "replica",
}


@dataclass
class Watcher:
    """Hears every command that Redis carries out, and knows who asked for it."""

    site: Site
    port: int
    client: redis.Redis
    services: dict[int, str] = field(default_factory=dict)
    """By the local port of a connection."""
    counts: Counter[str] = field(default_factory=Counter)
    said: Counter[tuple[str, str]] = field(default_factory=Counter)
    looks: int = 0
    stopping: bool = False

    def run(self) -> None:
        asker = ""
        with self.client.monitor() as monitor:  # type: ignore[no-untyped-call]  # redis-py's own gap
            while not self.stopping:
                heard = monitor.next_command()
                if heard["client_type"] == "tcp":
                    asker = self._service(int(heard["client_port"]))
                elif heard["client_type"] == "unix":
                    asker = "nobody"  # the test itself
                self.looks += heard["command"] == f"GET {keys.LOADER_CALM}"
                self.counts[asker] += 1
                self.said[asker, heard["command"][:60]] += 1

    def _service(self, port: int) -> str:
        if port not in self.services:
            for process in self.site.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    for connection in process.net_connections("tcp4"):
                        if connection.raddr and connection.raddr.port == self.port:
                            self.services[connection.laddr.port] = _name(process)
        return self.services.setdefault(port, "nobody")

    def restart(self) -> None:
        self.looks = 0
        self.counts.clear()
        self.said.clear()


def _name(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next((name for sign, name in SERVICES.items() if sign in line), line)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, port=free_port())
    server.start()
    yield server
    server.kill()


def test_a_site_that_nobody_asks_anything_asks_little_of_redis(server: RedisServer) -> None:
    address = f"redis://127.0.0.1:{server.port}/0"
    with site(MODELS, 1000, CELERITY_REDIS_URL=address) as up, redis.Redis.from_url(server.url) as client:
        assert up.ask("a")[0] == 200
        watcher = Watcher(up, server.port, client)
        thread = threading.Thread(target=watcher.run)
        thread.start()
        try:
            wait_until(lambda: client.exists(keys.LOADER_CALM), "the loader to have nothing to do", timeout_s=60)
            # Its pulses carry no run id any more, and live for longer than those of one that works.
            wait_until(lambda: _rests(client), "the replica to rest", timeout_s=60)
            watcher.restart()
            wait_until(lambda: watcher.looks >= LOOKS, "beat to look", timeout_s=120)
            counts, said, looks = Counter(watcher.counts), watcher.said.most_common(40), watcher.looks
        finally:
            watcher.stopping = True
            client.ping()
            thread.join()
    del counts["nobody"]
    spent = {service: count / looks for service, count in counts.items()}
    assert set(spent) == set(BUDGET), said
    over = {service: count for service, count in spent.items() if count > BUDGET[service]}
    assert not over, (spent, said)
    assert sum(spent.values()) < TOGETHER, (spent, said)


def _rests(client: redis.Redis) -> bool:
    ((_, lives_until_ms),) = cast("list[tuple[bytes, float]]", client.zrange(keys.REPLICAS, 0, -1, withscores=True))
    return lives_until_ms / 1000 - redis_time(client) > ALIVE_S
