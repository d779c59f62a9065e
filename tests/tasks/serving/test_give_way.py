"""When bulk work gives way, and to how many, on a real Redis."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from tasks import keys
from tasks.connections import async_client
from tasks.messages import Call, Endpoint
from tasks.queues import Priority, model_queue, queue_list
from tasks.requests.request_store import RequestStore
from tasks.serving.give_way import GiveWay
from tests.stack import RedisServer
from workers.host.appetite import Shares

pytestmark = pytest.mark.integration

LIST = queue_list(model_queue("m"), Priority.INTERACTIVE)
NOTHING_LISTENS = "unix:///nonexistent/redis.sock"


@dataclass
class Worker:
    """A worker of four seats, as far as giving way is concerned."""

    url: str
    interactive: int = 0
    bulk: int = 4
    seats: int = 4
    limit: int = 4
    after_s: float = 0.0
    room: int | None = None
    put: list[int] = field(default_factory=list)

    def holding(self) -> tuple[int, int]:
        return self.interactive, self.bulk

    def put_back(self, count: int) -> int:
        self.put.append(count)
        self.bulk -= count
        return count

    def look(self, times: int = 1) -> list[int]:
        """Look so often, and return what was put back each time."""
        self.put.clear()

        async def main() -> None:
            client = async_client(self.url)
            shares = Shares(share=0.05, headroom=0.05)
            give_way = GiveWay(
                client,
                "m",
                self,
                shares,
                seats=lambda: self.seats,
                limit=lambda: self.limit,
                room=lambda _: self.room,
                after_s=self.after_s,
            )
            for _ in range(times):
                await give_way.look()
            await client.aclose()

        asyncio.run(main())
        return self.put


@pytest.fixture
def worker(server: RedisServer, client: redis.Redis) -> Worker:
    return Worker(server.url)


def waits(client: redis.Redis, *names: str) -> None:
    for name in names:
        call = Call(id=name, model="m", endpoint=Endpoint.CHAT, body=b"{}", stream=True, gateway="g")
        RequestStore(client).admit(call, gateway_id="g", max_depth=-1)


def asked(client: redis.Redis) -> int:
    stats: Any = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("evalsha", "eval"))


def test_one_is_put_back_for_each_that_waits_and_once(client: redis.Redis, worker: Worker) -> None:
    waits(client, "a", "b")
    assert worker.look(times=3) == [2]
    assert worker.bulk == 2
    worker.bulk = 4
    waits(client, "c")
    assert worker.look(times=2) == [1]
    assert 0 < client.ttl(keys.yielding("m")) <= keys.YIELD_TTL_S


def test_replicas_share_what_waits(server: RedisServer, client: redis.Redis, worker: Worker) -> None:
    waits(client, "a", "b", "c", "d", "e")
    other = Worker(server.url)
    assert worker.look() == [3]
    assert other.look() == [2]


def test_way_is_given_again_when_the_seat_went_to_somebody_else(client: redis.Redis, worker: Worker) -> None:
    waits(client, "a")
    assert worker.look() == [1]
    worker.interactive += 1
    client.zadd(keys.yielding("m"), {"a": 1})  # long ago
    assert worker.look() == [1]


def test_nobody_gives_way_to_what_has_not_waited_long(client: redis.Redis, worker: Worker) -> None:
    worker.after_s = 60
    waits(client, "a")
    assert worker.look() == []
    client.hincrby(keys.request("a"), "admitted_ms", -61_000)
    waits(client, "b")
    assert worker.look() == [1]


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"bulk": 3}, "a seat is free"),
        ({"bulk": 1, "interactive": 3}, "bulk work has no more than its own part"),
        ({"bulk": 0, "interactive": 4}, "there is no bulk work"),
        ({"seats": 0, "limit": 0}, "the engine takes nothing anyway"),
    ],
)
def test_redis_is_not_even_asked_when(client: redis.Redis, worker: Worker, state: dict[str, int], why: str) -> None:
    waits(client, "a")
    before = asked(client)
    for name, value in state.items():
        setattr(worker, name, value)
    assert worker.look() == [], why
    assert asked(client) == before


def test_an_engine_whose_cache_is_full_gives_way_too(client: redis.Redis, worker: Worker) -> None:
    waits(client, "a")
    worker.bulk, worker.limit = 2, 0
    assert worker.look() == [1]


def test_rubbish_in_the_queue_hides_nobody(client: redis.Redis, worker: Worker) -> None:
    client.lpush(LIST, b"", b"\xff", b"[]", b"{}", b'{"headers": 1}')
    waits(client, "a")
    worker.bulk = 20
    worker.limit = 20
    assert worker.look() == [1]


def test_what_is_cancelled_while_it_waits_stands_in_front_all_the_same(client: redis.Redis, worker: Worker) -> None:
    waits(client, "a", "b")
    client.delete(keys.request("a"))
    assert worker.look() == [2]


def test_nothing_is_put_back_while_redis_is_away(worker: Worker) -> None:
    worker.url = NOTHING_LISTENS
    assert worker.look() == []


def test_way_is_given_at_once_where_interactive_requests_run_slower_for_their_company(worker: Worker) -> None:
    worker.interactive, worker.bulk, worker.seats, worker.limit, worker.room = 2, 30, 64, 64, 12
    assert worker.look(2) == [20]
    assert worker.bulk == 10
