"""The broker's side of a worker, for tests: our transport on a real Redis, without Celery's consumer."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis
from celery import Celery

from tasks.envelope import INFER, envelope
from tasks.queues import Priority, queue_list
from tests.waiting import wait_until
from workers.host.appetite import ALL_STEPS, Pull
from workers.host.ledger import Ledger

QUEUE = "model.m"
BULK_LIST = queue_list(QUEUE, Priority.BULK)


@dataclass
class Side:
    """The broker's side of a worker: one connection after another, one ledger."""

    app: Celery
    ledger: Ledger = field(default_factory=Ledger)
    taken: list[Any] = field(default_factory=list)
    connection: Any = None
    channel: Any = None
    order: tuple[int, ...] = ALL_STEPS
    most: int = 1

    def connect(self) -> Any:
        """Open a connection that consumes, and return its channel."""
        self.connection = self.app.connection_for_read()
        self.connection.transport_cls = "workers.host.transport:Transport"
        self.connection.ledger = self.ledger
        # What is in hand counts, as in a pool.
        self.connection.pull = lambda: Pull(self.order, self.most - len(self.ledger.handed))
        consumer = self.connection.Consumer([self.app.amqp.queues[QUEUE]], on_message=self.taken.append)
        consumer.consume()
        self.channel = consumer.channel
        return consumer.channel

    def turn(self) -> None:
        """As the hub does before it waits."""
        self.connection.transport.cycle.on_poll_start()


def message(request_id: str, priority: Priority = Priority.INTERACTIVE) -> bytes:
    return envelope(
        task=INFER,
        task_id=request_id,
        args=(request_id,),
        queue=QUEUE,
        priority=priority,
        time_limit_s=30,
        tag=str(uuid.uuid4()),
    )


def waiting(client: redis.Redis) -> list[str]:
    found: Any = client.lrange(QUEUE, 0, -1)
    return [json.loads(raw)["headers"]["id"] for raw in reversed(found)]


def ids(side: Side) -> list[str]:
    return [taken.headers["id"] for taken in side.taken]


def calls(client: redis.Redis, command: str) -> int:
    """Return how often Redis was asked this so far."""
    stats: Any = client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def popping(client: redis.Redis, side: Side) -> Any:
    """Return a channel that waits for a message, in a queue without any, and would for an hour."""
    channel = side.connect()
    channel.brpop_timeout = 3600
    side.connection.transport.cycle._register_BRPOP(channel)
    wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "redis to have nothing to answer")
    return channel


def take(side: Side, count: int) -> None:
    def taken() -> bool:
        # What comes before the hub would wait ends no waiting.
        with suppress(TimeoutError):
            side.connection.drain_events(timeout=0.1)
        return len(side.taken) >= count

    wait_until(taken, "the messages")


def lose_the_reply(channel: Any) -> None:
    """Have Redis do what it is asked next, and nobody hear of it."""
    exchanger = channel._exchanger
    ask = exchanger._ask

    def ask_and_lose(*question: Any) -> Any:
        ask(*question)
        exchanger._ask = ask
        raise redis.ConnectionError("the reply was lost")

    exchanger._ask = ask_and_lose
