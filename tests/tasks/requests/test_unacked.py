"""What a dead worker held goes back to where kombu took it from, once, and rubbish stops nobody."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import orjson
import pytest
import redis
from celery import Celery

from celeryconfig import broker_transport_options
from tasks import keys
from tasks.connections import command_client
from tasks.envelope import INFER, envelope
from tasks.queues import Priority, queue_list
from tasks.requests.unacked import Taken, restore_unacked
from tests.stack import RedisServer, in_threads

pytestmark = pytest.mark.integration

QUEUE = "model.m"
FRONT = queue_list(QUEUE, Priority.INTERACTIVE)
BULK = queue_list(QUEUE, Priority.BULK)


def message(request_id: str, priority: Priority = Priority.INTERACTIVE, task: str = INFER) -> bytes:
    return envelope(
        task=task,
        task_id=request_id,
        tag=request_id,
        args=(request_id,),
        queue=QUEUE,
        priority=priority,
        time_limit_s=30,
    )


def take(server: RedisServer, count: int, replica: str = "dead") -> None:
    """Take `count` messages as kombu does in a worker, and be gone without a word."""
    app = Celery("dead", broker=server.url.replace("unix://", "redis+socket://"))
    app.conf.broker_transport_options = broker_transport_options | {
        "unacked_key": keys.unacked(replica),
        "unacked_index_key": keys.unacked_index(replica),
        "unacked_mutex_key": keys.unacked_mutex(replica),
    }
    taken: list[Any] = []
    with app.connection_for_read() as connection:
        consumer = connection.Consumer(
            [app.amqp.queues[QUEUE]], callbacks=[lambda _body, message: taken.append(message)]
        )
        consumer.consume()
        while len(taken) < count:
            connection.drain_events(timeout=5)
        consumer.channel.do_restore = False
    app.close()


def waiting(client: redis.Redis, name: str) -> list[str]:
    """Return the ids in the order in which they will be taken."""
    found: Any = client.lrange(name, 0, -1)
    return [json.loads(raw)["headers"]["id"] for raw in reversed(found)]


def never(request_id: str) -> bool:
    return False


def test_messages_return_to_the_front_of_their_own_list_in_their_old_order(
    server: RedisServer, client: redis.Redis
) -> None:
    client.lpush(FRONT, *(message(id_) for id_ in ("a", "b", "c")))
    client.lpush(BULK, *(message(id_, Priority.BULK) for id_ in ("x", "y")))
    take(server, 5)
    assert not client.exists(FRONT, BULK)
    client.lpush(FRONT, message("younger"))
    assert restore_unacked(client, "dead", never) == 5
    assert waiting(client, FRONT) == ["a", "b", "c", "younger"]
    assert waiting(client, BULK) == ["x", "y"]
    assert client.keys("unacked*") == []


def test_a_restored_message_says_so_and_is_otherwise_as_it_was(server: RedisServer, client: redis.Redis) -> None:
    client.lpush(FRONT, message("a"))
    (raw,) = client.lrange(FRONT, 0, -1)
    before = json.loads(raw)
    take(server, 1)
    restore_unacked(client, "dead", never)
    (raw,) = client.lrange(FRONT, 0, -1)
    after = json.loads(raw)
    assert after["headers"].pop("redelivered") is True
    assert after["properties"]["delivery_info"].pop("redelivered") is True
    assert after == before


def test_a_call_that_is_dealt_with_is_dropped_and_no_other_task(server: RedisServer, client: redis.Redis) -> None:
    client.lpush(FRONT, message("done"), message("open"), message("done", task="tasks.other"))
    take(server, 3)
    assert restore_unacked(client, "dead", lambda id_: id_ == "done") == 2
    assert waiting(client, FRONT) == ["open", "done"]


def test_other_workers_keep_what_they_hold(server: RedisServer, client: redis.Redis) -> None:
    client.lpush(FRONT, message("a"))
    take(server, 1, "alive")
    assert restore_unacked(client, "dead", never) == 0
    assert client.hlen(keys.unacked("alive")) == 1


def test_many_reapers_at_once_restore_each_message_once(server: RedisServer, client: redis.Redis) -> None:
    ids = [f"r{n}" for n in range(50)]
    client.lpush(FRONT, *(message(id_) for id_ in ids))
    take(server, len(ids))
    restored = [0] * 4

    def reap(index: int) -> None:
        with contextlib.closing(command_client(server.url)) as own:
            restored[index] = restore_unacked(own, "dead", never)

    in_threads(len(restored), reap)
    assert sum(restored) == len(ids)
    assert sorted(waiting(client, FRONT)) == sorted(ids)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"\xff\x00",
        b"{}",
        b"[]",
        b"[1, 2, 3]",
        b'[{}, "", "q"]',
        b'[{"headers": {"task": 1}, "properties": {}}, "", "q"]',
        b'[{"headers": {"task": "t"}, "properties": {}}, "", ""]',
        b'[{"headers": {"task": "t"}, "properties": []}, "", "q"]',
        b'[{"headers": {"task": "\\ud800"}, "properties": {}}, "", "q"]',
    ],
)
def test_rubbish_is_dropped_and_the_rest_restored(server: RedisServer, client: redis.Redis, rubbish: bytes) -> None:
    client.lpush(FRONT, message("a"))
    take(server, 1)
    client.hset(keys.unacked("dead"), "rubbish", rubbish)
    assert restore_unacked(client, "dead", never) == 1
    assert waiting(client, FRONT) == ["a"]
    assert client.keys("unacked*") == []


@pytest.mark.parametrize(("priority", "expected"), [(0, FRONT), (3, FRONT), (9, BULK), (12, BULK), (None, FRONT)])
def test_any_priority_finds_the_list_that_kombu_would_use(priority: object, expected: str) -> None:
    properties = {"priority": priority}
    raw = orjson.dumps([{"headers": {"task": "t"}, "properties": properties}, "", QUEUE])
    assert Taken.parse(raw).list == expected
