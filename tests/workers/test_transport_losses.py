"""Our transport against a Redis that is full, away or forgetful: nothing that was taken or settled is lost."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tests.stack import RedisServer
from tests.workers.broker_side import (
    BULK_LIST,
    QUEUE,
    Side,
    ids,
    lose_the_reply,
    message,
    take,
    waiting,
)
from workers.host.appetite import ALL_STEPS, BULK, INTERACTIVE

pytestmark = pytest.mark.integration


def full_with_one_in_hand(client: redis.Redis, side: Side) -> Any:
    """Return a channel that has popped a message of two, of which Redis does not take note."""
    channel = side.connect()
    client.lpush(QUEUE, message("a"), message("b"))
    client.config_set("maxmemory", 1)
    channel.tend()
    while not side.taken:
        side.connection.drain_events(timeout=5)
    return channel


def test_what_a_full_redis_refuses_to_note_is_noted_later(client: redis.Redis, side: Side) -> None:
    channel = full_with_one_in_hand(client, side)
    # One in hand, and no other is asked for.
    assert not channel.accepting()
    assert waiting(client) == ["b"]
    client.config_set("maxmemory", 0)
    channel.tend()
    assert channel.accepting()
    assert ids(side) == ["a"]
    assert client.hlen("unacked") == 1


def test_what_a_full_redis_never_noted_is_not_noted_once_it_is_done(client: redis.Redis, side: Side) -> None:
    channel = full_with_one_in_hand(client, side)
    side.taken[0].ack()
    client.config_set("maxmemory", 0)
    channel.tend()
    assert channel.accepting()
    assert client.hlen("unacked") == client.zcard("unacked_index") == 0
    assert waiting(client) == ["b"]


@pytest.mark.parametrize("end", ["tend", "give_up"])
def test_what_a_full_redis_never_noted_is_given_back_all_the_same(client: redis.Redis, side: Side, end: str) -> None:
    channel = full_with_one_in_hand(client, side)
    if end == "tend":
        side.taken[0].requeue()
        channel.settle()
        channel.tend()
    client.config_set("maxmemory", 0)
    getattr(channel, end)()
    assert waiting(client) == ["a", "b"]
    assert client.hlen("unacked") == 0
    assert not side.ledger.untold


def test_a_full_redis_takes_acknowledgements(client: redis.Redis, side: Side) -> None:
    client.lpush(QUEUE, message("a"))
    side.connect()
    take(side, 1)
    client.config_set("maxmemory", 1)
    side.taken[0].ack()
    side.channel.settle()
    assert client.hlen("unacked") == client.zcard("unacked_index") == 0


def test_what_is_settled_while_redis_is_away_is_told_to_it_later(
    server: RedisServer, client: redis.Redis, side: Side
) -> None:
    client.lpush(QUEUE, message("done"), message("again"))
    old = side.connect()
    take(side, 2)
    old.let_go()
    done, again = side.taken
    done.ack()
    again.requeue()
    assert client.hlen("unacked") == 2
    side.connection.release()
    side.connect().tend()
    assert client.hlen("unacked") == 0
    assert waiting(client) == ["again"]
    assert not side.ledger.settled


def test_at_its_end_a_worker_puts_everything_back(client: redis.Redis, side: Side) -> None:
    side.most = 100
    client.lpush(QUEUE, message("running"))
    channel = side.connect()
    take(side, 1)
    client.lpush(QUEUE, message("popped"))
    lose_the_reply(channel)
    with pytest.raises(redis.ConnectionError):
        take(side, 2)
    channel.let_go()
    channel.give_up()
    assert sorted(waiting(client)) == ["popped", "running"]
    assert client.hlen("unacked") == 0


def test_what_a_full_redis_cannot_keep_stays_in_its_queue(client: redis.Redis, side: Side) -> None:
    side.most = 100
    side.connect()
    client.lpush(QUEUE, *(message(str(n)) for n in range(4)))
    client.config_set("maxmemory", 1)
    assert side.channel._exchange(ALL_STEPS, 4) == 0
    assert client.llen(QUEUE) == 4
    assert not side.channel.accepting()
    client.config_set("maxmemory", 0)
    side.channel.tend()
    assert side.channel._exchange(ALL_STEPS, 4) == 2


def test_what_was_taken_before_a_list_that_is_none_is_not_lost(client: redis.Redis, side: Side) -> None:
    side.ledger.alone = True
    channel = side.connect()
    client.lpush(QUEUE, message("a"))
    client.set(BULK_LIST, "no list")
    assert channel._exchange((INTERACTIVE, BULK), 4) == 0
    client.delete(BULK_LIST)
    channel.tend()
    assert waiting(client) == ["a"]
    assert client.hlen("unacked") == 0


def test_what_was_popped_when_a_reply_was_lost_is_taken_in_once(client: redis.Redis, side: Side) -> None:
    side.ledger.alone = True
    side.most = 2
    channel = side.connect()
    lose_the_reply(channel)
    client.lpush(QUEUE, *(message(str(n)) for n in range(2)))
    with pytest.raises(redis.ConnectionError):
        take(side, 1)
    assert len(side.ledger.handed) == 1
    channel.let_go()
    channel.tend()
    assert ids(side) == ["0"]
    assert waiting(client) == ["1"]
    assert client.hlen("unacked") == 1


def test_who_loses_the_connection_while_it_takes_messages_in_gets_the_others_again(
    client: redis.Redis, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    side.ledger.alone = True
    channel = side.connect()
    client.lpush(QUEUE, *(message(str(n)) for n in range(3)))

    def lose(*_: Any) -> None:
        raise ConnectionResetError("an event could not be sent")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(side.connection.transport, "_deliver", lose)
        with pytest.raises(ConnectionResetError):
            channel._exchange(ALL_STEPS, 8)
    channel.tend()
    assert waiting(client) == ["0", "1", "2"]
    assert client.hlen("unacked") == 0


def test_a_redis_that_has_forgotten_the_script_is_told_it_again(client: redis.Redis, side: Side) -> None:
    side.connect()
    client.lpush(QUEUE, message("a"), message("b"))
    assert side.channel._exchange(ALL_STEPS, 1) == 1
    client.script_flush()
    assert side.channel._exchange(ALL_STEPS, 1) == 1
    assert ids(side) == ["a", "b"]
