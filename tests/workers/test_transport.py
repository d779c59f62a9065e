"""Our transport against a real Redis: what is taken when, in which order, and what Redis is told of it."""

from __future__ import annotations

from queue import Empty
from typing import Any

import pytest
import redis

from tasks.queues import Priority
from tests.waiting import wait_until
from tests.workers.broker_side import (
    BULK_LIST,
    QUEUE,
    Side,
    calls,
    ids,
    lose_the_reply,
    message,
    popping,
    take,
    waiting,
)
from workers.host.appetite import ALL_STEPS, BULK, INTERACTIVE, Pull
from workers.host.task_message import plain_body, task_message

pytestmark = pytest.mark.integration

RUBBISH = (b"", b"\xff\xfe", b"{", b"[]", b"1", b"null", b"{}", b'{"body": 5, "headers": {}, "properties": {}}')


@pytest.mark.parametrize("item", RUBBISH)
def test_only_what_celery_wrote_is_a_message(item: bytes) -> None:
    assert task_message(item) is None
    assert task_message(message("a")) is not None


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"[[12345678901234567890], {}, {}]", "application/json"),
        (b'[[{"__type__": "datetime", "__value__": "2026-01-01T00:00:00"}], {}, {}]', "application/json"),
        (b"[[NaN], {}, {}]", "application/json"),
        (b"[[1], {}, {}]", "application/x-python-serialize"),
        ("[[1], {}, {}]", "application/json"),
    ],
)
def test_a_body_that_celery_would_read_otherwise_is_left_to_it(body: object, content_type: str) -> None:
    assert plain_body(body, content_type) is None
    assert plain_body(b'[["a"], {"n": 1.5}, {"chain": null}]', "application/json") == [
        ["a"],
        {"n": 1.5},
        {"chain": None},
    ]


def test_a_message_is_noted_while_it_runs_and_removed_when_acknowledged(client: redis.Redis, side: Side) -> None:
    client.lpush(QUEUE, message("a"))
    side.connect()
    take(side, 1)
    assert client.hlen("unacked") == 1
    assert not side.ledger.handed
    side.taken[0].ack()
    side.channel.settle()
    assert client.hlen("unacked") == client.zcard("unacked_index") == 0
    assert not side.ledger.settled


def test_rubbish_is_dropped_and_what_follows_is_taken(client: redis.Redis, side: Side) -> None:
    client.lpush(QUEUE, *RUBBISH, message("a"))
    side.connect()
    take(side, 1)
    assert client.hlen("unacked") == 1
    assert client.llen(QUEUE) == 0


def test_a_message_whose_task_cannot_be_taken_in_is_dropped(client: redis.Redis, side: Side) -> None:
    channel = side.connect()
    client.lpush(QUEUE, message("bad"), message("good"))

    def take_in(message: Any) -> None:
        if message.headers["id"] == "bad":
            raise TypeError("a header of the wrong type")
        side.taken.append(message)

    channel.basic_cancel(next(iter(channel._consumers)))
    channel.basic_consume(QUEUE, False, take_in, "own")
    take(side, 1)
    assert [taken.headers["id"] for taken in side.taken] == ["good"]
    channel.settle()
    assert client.hlen("unacked") == 1


def test_a_task_does_not_wait_for_redis_to_note_its_message(client: redis.Redis, side: Side) -> None:
    channel = side.connect()
    channel.basic_cancel(next(iter(channel._consumers)))
    yet_to_be_noted: list[set[str]] = []
    channel.basic_consume(QUEUE, False, lambda _: yet_to_be_noted.append(set(side.ledger.handed)), "own")
    client.lpush(QUEUE, message("a"))
    while not yet_to_be_noted:
        side.connection.drain_events(timeout=5)
    assert len(yet_to_be_noted[0]) == 1
    assert not side.ledger.handed
    assert client.hlen("unacked") == 1


def test_a_message_given_back_goes_to_the_front(client: redis.Redis, side: Side) -> None:
    client.lpush(QUEUE, message("a"))
    side.connect()
    take(side, 1)
    client.lpush(QUEUE, message("b"))
    side.taken[0].requeue()
    side.channel.settle()
    assert waiting(client) == ["a", "b"]


def test_a_pending_pop_ends_when_it_is_told_to(client: redis.Redis, side: Side) -> None:
    channel = popping(client, side)
    channel.end_pop()
    with pytest.raises(Empty):
        channel._brpop_read()


def test_what_a_pending_pop_has_taken_is_kept_when_it_is_told_to_end(client: redis.Redis, side: Side) -> None:
    channel = popping(client, side)
    client.lpush(QUEUE, message("a"))
    channel.end_pop()
    channel._brpop_read()
    assert len(side.taken) == 1


@pytest.mark.parametrize(
    ("order", "popped"), [((INTERACTIVE, BULK), "asked"), ((BULK, INTERACTIVE), "bulk"), ((INTERACTIVE,), "asked")]
)
def test_the_pull_order_says_which_list_goes_first(
    client: redis.Redis, side: Side, order: tuple[int, ...], popped: str
) -> None:
    client.lpush(QUEUE, message("asked"))
    client.lpush(BULK_LIST, message("bulk", Priority.BULK))
    side.order = order
    side.connect()
    take(side, 1)
    assert ids(side) == [popped]


def test_what_bulk_work_frees_it_takes_again_without_a_further_command(client: redis.Redis, side: Side) -> None:
    side.order = (INTERACTIVE,)
    channel = popping(client, side)
    client.lpush(BULK_LIST, *(message(str(n), Priority.BULK) for n in range(3)))
    side.turn()
    assert side.taken == []
    before = {command: calls(client, command) for command in ("brpop", "rpop", "client")}
    room = iter([Pull((INTERACTIVE, BULK), 1), Pull((INTERACTIVE, BULK), 1), Pull((INTERACTIVE,), 1)])
    side.connection.transport.pull = lambda: next(room)
    side.turn()
    assert ids(side) == ["0", "1"]
    assert channel._in_poll
    assert {command: calls(client, command) - count for command, count in before.items()} == {
        "brpop": 0,
        "rpop": 2,
        "client": 0,
    }


def test_with_no_bulk_work_there_the_next_pop_waits_for_both_kinds(client: redis.Redis, side: Side) -> None:
    side.order = (INTERACTIVE,)
    channel = popping(client, side)
    side.order = ALL_STEPS
    before = calls(client, "evalsha")
    for _ in range(3):
        side.turn()
    assert calls(client, "evalsha") == before + 1
    with pytest.raises(Empty):
        channel._brpop_read()
    side.turn()
    client.lpush(BULK_LIST, message("bulk", Priority.BULK))
    take(side, 1)
    assert ids(side) == ["bulk"]


def test_what_a_pending_pop_has_got_goes_before_bulk_work(client: redis.Redis, side: Side) -> None:
    side.order = (INTERACTIVE,)
    popping(client, side)
    client.lpush(BULK_LIST, message("bulk", Priority.BULK))
    client.lpush(QUEUE, message("asked"))
    side.order = ALL_STEPS
    side.turn()
    assert side.taken == []
    take(side, 2)
    assert ids(side) == ["asked", "bulk"]
    assert client.hlen("unacked") == 2


def test_several_come_at_once_but_never_more_than_half_of_what_waits(client: redis.Redis, side: Side) -> None:
    client.lpush(QUEUE, *(message(str(n)) for n in range(8)))
    side.most = 100
    side.connect()
    popped, asked = calls(client, "brpop"), calls(client, "evalsha")
    take(side, 1)
    assert ids(side) == ["0", "1", "2", "3", "4"]  # one was waited for, and half of the other seven came with it
    assert (calls(client, "brpop"), calls(client, "evalsha")) == (popped + 1, asked + 1)
    assert client.hlen("unacked") == client.zcard("unacked_index") == 5


def test_bulk_work_is_not_taken_while_interactive_requests_are_left(client: redis.Redis, side: Side) -> None:
    side.connect()
    client.lpush(QUEUE, *(message(str(n)) for n in range(4)))
    client.lpush(BULK_LIST, *(message(f"bulk{n}", Priority.BULK) for n in range(4)))
    for _ in range(3):
        assert side.channel._exchange((INTERACTIVE, BULK), 4) <= 4
    assert ids(side)[:4] == ["0", "1", "2", "3"]
    assert client.llen(BULK_LIST) == 2


def test_the_news_of_what_is_done_brings_what_is_next_to_who_had_no_room(client: redis.Redis, side: Side) -> None:
    side.connect()
    client.lpush(QUEUE, message("a"))
    take(side, 1)
    client.lpush(QUEUE, message("b"))
    side.taken[0].ack()
    asked, popped = calls(client, "evalsha"), calls(client, "brpop")
    side.turn()
    assert ids(side) == ["a", "b"]
    assert calls(client, "evalsha") == asked + 1
    wait_until(lambda: calls(client, "brpop") == popped or side.channel._in_poll, "the next pop")
    assert client.hlen("unacked") == 1


def test_what_is_done_is_told_with_the_next_message(client: redis.Redis, side: Side) -> None:
    side.most = 100
    side.connect()
    client.lpush(QUEUE, message("a"))
    take(side, 1)
    side.taken[0].ack()
    asked = calls(client, "evalsha")
    side.turn()
    assert calls(client, "evalsha") == asked
    assert client.hlen("unacked") == 1
    client.lpush(QUEUE, message("b"))
    take(side, 2)
    assert calls(client, "evalsha") == asked + 1
    assert client.hget("unacked", side.taken[1].delivery_tag) is not None
    assert client.hlen("unacked") == 1


def test_without_a_next_message_what_is_done_is_told_by_and_by(client: redis.Redis, side: Side) -> None:
    side.connect()
    client.lpush(QUEUE, message("a"))
    take(side, 1)
    side.taken[0].ack()
    side.channel.tend()
    assert client.hlen("unacked") == 0


@pytest.mark.parametrize("how", ["many", "given back"])
def test_what_presses_is_told_at_once(client: redis.Redis, side: Side, how: str) -> None:
    side.most = 100
    side.connect()
    client.lpush(QUEUE, *(message(str(n)) for n in range(40)))
    while len(side.taken) < 8:
        side.channel._exchange(ALL_STEPS, 100)
    noted = client.hlen("unacked")
    if how == "many":
        for taken in side.taken[:8]:
            taken.ack()
        side.order = ()
        side.turn()
        assert client.hlen("unacked") == noted - 8
    else:
        side.taken[0].requeue()
        side.order = ()
        side.turn()
        assert waiting(client)[0] == "0"


@pytest.mark.parametrize("alone", [True, False])
def test_what_was_taken_in_a_reply_that_was_lost_is_put_back_where_the_keys_are_its_own(
    client: redis.Redis, side: Side, alone: bool
) -> None:
    side.ledger.alone = alone
    channel = side.connect()
    client.lpush(QUEUE, *(message(str(n)) for n in range(3)))
    take(side, 1)
    lose_the_reply(channel)
    with pytest.raises(redis.ConnectionError):
        channel._exchange(ALL_STEPS, 1)
    assert waiting(client) == ["2"]
    channel.let_go()
    channel.tend()
    assert waiting(client) == (["1", "2"] if alone else ["2"])
    assert client.hlen("unacked") == (1 if alone else 2)
    assert ids(side) == ["0"]


def test_without_a_hub_redis_is_told_at_once(client: redis.Redis, side: Side) -> None:
    client.lpush(QUEUE, message("a"))
    side.connect()
    take(side, 1)
    side.channel.prompt = True
    side.taken[0].ack()
    assert client.hlen("unacked") == 0


def test_rubbish_with_a_tag_is_not_kept(client: redis.Redis, side: Side) -> None:
    side.connect()
    client.lpush(QUEUE, b'{"delivery_tag": "x"}', b'"delivery_tag":"\xff"', message("a"))
    while client.llen(QUEUE):
        side.channel._exchange(ALL_STEPS, 8)
    side.channel.settle()
    assert ids(side) == ["a"]
    assert client.hlen("unacked") == 1
