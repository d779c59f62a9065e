"""Interactive requests beside bulk work that takes every seat it can get, against the same without.

Rounds of both take turns on one worker, so that a noisy machine is noisy for both. Bulk
calls are admitted as the feeder does it, straight into Redis.
"""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from tasks import keys
from tasks.messages import Call, Endpoint, Started
from tasks.queues import Priority, model_queue, queue_list
from tasks.requests.request_store import RequestStore
from tests.bench.load import cpu_s, family, load
from tests.stack import REPOSITORY, GatewayProcess, Stack, Worker, chat, stack
from tests.waiting import wait_until

SIM = """
models:
  sim:
    engine: sim
    sim: {seats: 32, ttft_ms: 20, itl_ms: 5}
"""
CONCURRENCY = 4
INTERACTIVE_TOKENS = 20
BULK_TOKENS = 100
LONG_TOKENS = 1000
# More than any engine has seats, so that none is idle for want of work.
WAITING = 200


@dataclass
class Feed:
    """Keeps bulk work waiting, and watches how much of it is held."""

    running: Stack
    worker: Worker
    model: str
    tokens: int
    in_use: list[int] = field(default_factory=list)
    admitted: dict[str, Call] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._client = self.running.client()
        self._store = RequestStore(self._client)

    def waiting(self) -> int:
        return int(self._client.llen(queue_list(model_queue(self.model), Priority.BULK)))

    def held(self) -> int:
        return int(self._client.scard(keys.held(self.worker.replica_id)))

    @contextlib.contextmanager
    def flowing(self) -> Iterator[None]:
        """Have the queue full within, and empty afterwards."""
        self._stop.clear()
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            self._drop()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            for _ in range(min(16, WAITING - self.waiting())):
                call = self._call()
                self._store.admit(call, gateway_id="feeder", max_depth=-1)
                self.admitted[call.id] = call
            self.in_use.append(self.held())

    def _call(self) -> Call:
        # Answers are not all of one length, or those that began together would end together for ever.
        tokens = random.randint(self.tokens // 2, self.tokens * 3 // 2)
        body = {"model": self.model, "max_tokens": tokens, "ignore_eos": True}
        body["messages"] = [{"role": "user", "content": f"line {secrets.token_hex(4)}"}]
        return Call(
            id=f"req_{secrets.token_hex(8)}",
            model=self.model,
            endpoint=Endpoint.CHAT,
            body=json.dumps(body).encode(),
            stream=False,
            gateway="",
            priority=Priority.BULK,
            keep_s=60,
        )

    def _drop(self) -> None:
        """Forget what waits, and cancel what runs."""
        self._client.delete(queue_list(model_queue(self.model), Priority.BULK))
        running: Any = self._client.smembers(keys.held(self.worker.replica_id))
        for request_id in running:
            self._store.cancel(self.admitted[request_id.decode()])
        wait_until(lambda: self.held() == 0, "the worker to be idle", timeout_s=60)


@dataclass
class Side:
    """What was measured without bulk work, or with it."""

    p50: list[float] = field(default_factory=list)
    p95: list[float] = field(default_factory=list)

    def round(self, gateway: GatewayProcess, model: str, seconds: float) -> None:
        times = load(gateway, model, tokens=INTERACTIVE_TOKENS, concurrency=CONCURRENCY, seconds=seconds)["ttft_ms"]
        self.p50.append(times["p50"])
        self.p95.append(times["p95"])


def bulk_beside(rounds: int, seconds: float, model: str) -> dict[str, Any]:
    """Return medians over the rounds. `model` is "sim", or one of models.yaml."""
    models = SIM if model == "sim" else (REPOSITORY / "models.yaml").read_text()
    with tempfile.TemporaryDirectory() as folder, stack(Path(folder), models) as running:
        worker = running.worker(model)
        gateway = running.gateway()
        with contextlib.closing(running.client()) as client:
            seats = int(client.hget(keys.replica(worker.replica_id), "seats") or 0)
            results = _times_to_a_seat(running, worker, model, seats)
            feed = Feed(running, worker, model, BULK_TOKENS)
            alone, beside = Side(), Side()
            load(gateway, model, tokens=INTERACTIVE_TOKENS, concurrency=CONCURRENCY, seconds=1.0)
            for _ in range(rounds):
                alone.round(gateway, model, seconds)
                with feed.flowing():
                    wait_until(lambda: feed.held() >= 0.9 * seats, "the seats to be taken", timeout_s=60)
                    feed.in_use.clear()
                    beside.round(gateway, model, seconds)
                    in_use = statistics.mean(feed.in_use)
            for name, of in (("p50", "p50"), ("p95", "p95")):
                without, with_ = statistics.median(getattr(alone, of)), statistics.median(getattr(beside, of))
                ratio = statistics.median(b / a for a, b in zip(getattr(alone, of), getattr(beside, of), strict=True))
                results |= {
                    f"ttft ms, {CONCURRENCY} streams: {name}, alone": round(without, 2),
                    f"ttft ms, {CONCURRENCY} streams: {name}, beside bulk work": round(with_, 2),
                    f"ttft ms, {CONCURRENCY} streams: {name}, beside / alone": round(ratio, 2),
                }
            results["seats in use beside interactive work, of " + str(seats)] = round(in_use, 2)
            return results | _bulk_alone(client, running, feed, seconds, seats)


def _bulk_alone(client: redis.Redis, running: Stack, feed: Feed, seconds: float, seats: int) -> dict[str, Any]:
    """What bulk work costs by itself, its admission included, and how many seats it keeps in use."""
    with feed.flowing():
        # Those that interactive work has just left included.
        wait_until(lambda: feed.held() >= 0.95 * seats, "the seats to be taken", timeout_s=60)
        feed.in_use.clear()
        taken, commands = _taken(client, feed), _commands(client)
        cpu = sum(map(cpu_s, family(running)))
        time.sleep(seconds)
        cpu = sum(map(cpu_s, family(running))) - cpu
        taken, after = _taken(client, feed) - taken, _commands(client)
        in_use = statistics.mean(feed.in_use)
    return {
        "bulk alone: requests/s": round(taken / seconds, 1),
        "bulk alone: seats in use, %": round(100 * in_use / seats, 1),
        "bulk alone: CPU ms a request, all processes": round(1000 * cpu / taken, 2),
        **{
            f"bulk alone: {name} a request": round((after.get(name, 0) - commands.get(name, 0)) / taken, 2)
            for name in ("brpop", "rpop", "client|unblock")
        },
    }


def _taken(client: redis.Redis, feed: Feed) -> int:
    return len(feed.admitted) - feed.waiting()


def _commands(client: redis.Redis) -> dict[str, int]:
    stats: Any = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(value["calls"]) for name, value in stats.items()}


def _times_to_a_seat(running: Stack, worker: Worker, model: str, seats: int) -> dict[str, Any]:
    """Fill the engine with long bulk work, then ask for more seats at once than it leaves free."""
    feed = Feed(running, worker, model, LONG_TOKENS)
    dispatcher = running.dispatcher()
    slowest = []
    with feed.flowing():
        for _ in range(5):
            wait_until(lambda: feed.held() >= 0.9 * seats, "the seats to be taken", timeout_s=60)
            began = time.perf_counter()
            answers = [
                dispatcher.submit(chat("x", model=model, gateway=dispatcher.gateway_id), max_depth=99) for _ in range(4)
            ]
            for answer in answers:
                while not isinstance(answer.next(30), Started):
                    pass
            slowest.append(1000 * (time.perf_counter() - began))
            for answer in answers:
                answer.close()
    return {
        "4 at once while bulk work has all seats: ms until the last has its own, median": round(
            statistics.median(slowest), 1
        ),
        "4 at once while bulk work has all seats: ms until the last has its own, worst": round(max(slowest), 1),
    }
