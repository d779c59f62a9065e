"""Every arrow in a request's life, on a real Redis: what moves it, and what must not."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import pytest
import redis

from tasks import keys
from tasks.messages import Call, Delta, Done, Endpoint, Failed, encode_event
from tasks.requests.dispatch import Once, RequestStatus
from tasks.requests.pulse import Pulse
from tasks.requests.reaper import Reaper
from tasks.requests.request_store import Full, Hindered, Queued, Readiness, RequestStore, Reused, Same, Slow, list_of
from tasks.requests.requeue import Cause, Fate
from tasks.serving.claim_store import Claim, ClaimStore, Danger, Refusal, Verdict
from tasks.serving.outlet import Loss, Outlet
from tasks.serving.streams import StreamWriter
from tests.serving_line import client_and_line
from tests.stack import RedisServer

pytestmark = pytest.mark.integration

LIST = "model.m"
T = TypeVar("T")


@pytest.fixture
def store(client: redis.Redis) -> RequestStore:
    return RequestStore(client)


class Worker:
    """One replica, as far as Redis can tell."""

    def __init__(self, server: RedisServer, client: redis.Redis, name: str) -> None:
        self._server = server
        self.client = client
        self.name = name
        self.revive()

    def revive(self) -> None:
        Pulse(self.client).beat(self.name, 60)

    def die(self) -> None:
        Pulse(self.client).beat(self.name, -1)

    def claim(self, request_id: str, token: str = "") -> Claim | Refusal:
        self.client.rpop(LIST)
        return self._do(lambda store, _: store.claim(request_id, token or self.name))

    def claimed(self, request_id: str) -> Claim:
        claim = self.claim(request_id)
        assert isinstance(claim, Claim), claim
        return claim

    def say(self, claim: Claim, seq: int, trail: bytes | None = b"t") -> None:
        fields: Any = encode_event(Delta(b"data: x\n\n", trail))
        self.client.xadd(keys.stream(claim.call.id), fields, id=f"{claim.attempt}-{seq}")

    def mark(self, claim: Claim, danger: Danger) -> None:
        self._do(lambda store, _: store.mark(claim.call.id, claim.attempt, danger))

    def give_up(self, claim: Claim, cause: Cause = Cause.GIVES_UP) -> Fate:
        return self._do(lambda store, _: store.requeue(claim.call, claim.attempt, cause))

    def drop(self, claim: Claim) -> None:
        self._do(lambda store, _: store.drop(claim.call.id, claim.attempt))

    def end(self, claim: Claim, last: Done | Failed) -> list[Loss]:
        losses: list[Loss] = []
        outlet = Outlet(claim.call.id, claim.attempt, lost=losses.append, keep_s=claim.call.keep_s)
        self._do(lambda _, writer: writer.end(outlet, last))
        return losses

    def _do(self, work: Callable[[ClaimStore, StreamWriter], Awaitable[T]]) -> T:
        async def main() -> T:
            async with self._parts() as (store, writer):
                return await work(store, writer)

        return asyncio.run(main())

    @contextlib.asynccontextmanager
    async def _parts(self) -> AsyncIterator[tuple[ClaimStore, StreamWriter]]:
        async with client_and_line(self._server.url) as (client, line):
            writer = StreamWriter(line, self.name)
            running = asyncio.create_task(writer.run())
            try:
                yield ClaimStore(client, line, self.name), writer
            finally:
                running.cancel()


@pytest.fixture
def one(server: RedisServer, client: redis.Redis) -> Worker:
    return Worker(server, client, "one")


@pytest.fixture
def two(server: RedisServer, client: redis.Redis) -> Worker:
    return Worker(server, client, "two")


def call(id_: str = "r", **fields: Any) -> Call:
    return Call(
        **{
            "id": id_,
            "model": "m",
            "endpoint": Endpoint.CHAT,
            "body": b"{}",
            "stream": True,
            "gateway": "g",
            "queue_wait_s": 30.0,
            **fields,
        }
    )


def admit(store: RequestStore, call: Call, once: Once | None = None, max_depth: int = 10) -> object:
    return store.admit(call, gateway_id="g", max_depth=max_depth, once=once)


def last(client: redis.Redis, request_id: str = "r") -> dict[bytes, bytes]:
    newest: Any = client.xrevrange(keys.stream(request_id), count=1)
    fields: dict[bytes, bytes] = newest[0][1]
    return fields


def test_a_call_is_queued_once_however_often_it_is_sent(client: redis.Redis, store: RequestStore) -> None:
    assert admit(store, call()) == Queued()
    assert admit(store, call()) == Queued()
    assert client.llen(LIST) == 1
    assert admit(store, call("s"), max_depth=1) == Full(1)


def test_a_claim_is_given_once_and_again_to_the_same_delivery(store: RequestStore, one: Worker, two: Worker) -> None:
    admit(store, call())
    first = one.claimed("r")
    assert one.claim("r") == first
    assert one.claim("r", "another delivery") == Refusal(Verdict.HELD)
    assert two.claim("r") == Refusal(Verdict.HELD)
    assert two.claim("unknown") == Refusal(Verdict.GONE)


def test_an_attempt_is_larger_than_what_an_older_redis_has_forgotten(
    client: redis.Redis, store: RequestStore, one: Worker, two: Worker
) -> None:
    admit(store, call())
    before = client.dump(keys.request("r"))
    first = one.claimed("r")
    assert isinstance(before, bytes)
    client.restore(keys.request("r"), 60_000, before, replace=True)
    client.delete(keys.stream("r"))
    assert two.claimed("r").attempt > first.attempt


def test_a_call_that_waited_too_long_is_not_run(client: redis.Redis, store: RequestStore, one: Worker) -> None:
    admit(store, call(queue_wait_s=0.0))
    client.hset(keys.request("r"), "claim_by_ms", 1)
    refusal = one.claim("r")
    assert isinstance(refusal, Refusal)
    assert refusal.verdict is Verdict.EXPIRED
    assert client.hget(keys.request("r"), "tries") in (None, b"0"), "it was not run"


def test_a_kept_call_that_waited_too_long_says_so_later(client: redis.Redis, store: RequestStore, one: Worker) -> None:
    admit(store, call(keep_s=60, gateway=""))
    client.hset(keys.request("r"), "claim_by_ms", 1)
    refusal = one.claim("r")
    assert isinstance(refusal, Refusal)
    assert (refusal.verdict, refusal.keep_s) == (Verdict.EXPIRED, 60)


def test_a_hindered_call_leaves_nothing_but_still_repeats_an_earlier_one(
    client: redis.Redis, store: RequestStore
) -> None:
    once = Once(key="k", digest="abc", ttl_s=60)

    def hindered(id_: str) -> object:
        return store.admit(
            call(id_, caller="me"), gateway_id="g", max_depth=10, once=once, readiness=Readiness.HINDERED
        )

    assert hindered("a") == Hindered()
    assert client.keys() == []
    assert admit(store, call("b", caller="me"), once) == Queued()
    assert hindered("c") == Same("b")
    assert client.llen(LIST) == 1


def test_a_dead_workers_call_goes_to_the_front_and_is_continued(
    client: redis.Redis, store: RequestStore, one: Worker, two: Worker
) -> None:
    admit(store, call())
    first = one.claimed("r")
    one.say(first, 1)
    admit(store, call("later"))
    Reaper(client).reap("one")
    assert client.llen(LIST) == 1, "a live worker is not reaped"
    client.delete(keys.reaping("one"))
    one.die()
    Reaper(client).reap("one")
    assert client.llen(LIST) == 2
    (front,) = client.lrange(LIST, -1, -1)
    assert json.loads(front)["headers"]["id"] == "r"
    second = two.claimed("r")
    assert second.after == f"{first.attempt}-1"
    assert second.attempt > first.attempt
    assert client.zrange(keys.REPLICAS, 0, -1) == [b"two"]
    assert client.exists(keys.held("one")) == 0
    assert one.end(first, Done()) == [Loss.GONE], "the dead one is fenced off"


def test_a_request_is_condemned_at_its_second_death_without_a_token(
    client: redis.Redis, store: RequestStore, one: Worker, two: Worker
) -> None:
    admit(store, call())
    assert one.give_up(one.claimed("r"), Cause.ENGINE_DIED) is Fate.QUEUED
    second = two.claimed("r")
    assert second.suspect
    two.mark(second, Danger.RUNS)
    assert two.give_up(second, Cause.ENGINE_DIED) is Fate.CONDEMNED
    assert (last(client)[b"code"], last(client)[b"final"]) == (b"engine_failed", b"1")
    assert client.exists(keys.request("r")) == 0
    assert client.zrange(keys.DEAD_LETTERS, 0, -1) == [b"r"]
    assert client.hget(keys.dead_letter("r"), "body") == b"{}"
    assert client.llen(LIST) == 0


def test_a_suspect_is_not_blamed_while_it_waits_for_its_turn(store: RequestStore, one: Worker) -> None:
    admit(store, call())
    for _ in range(5):
        fate = one.give_up(one.claimed("r"), Cause.ENGINE_DIED)
    assert fate is Fate.QUEUED


def test_an_answer_is_moved_at_most_twice_by_deaths_and_freely_by_drains(store: RequestStore, one: Worker) -> None:
    admit(store, call())
    for _ in range(5):
        claim = one.claimed("r")
        one.say(claim, 1)
        assert one.give_up(claim) is Fate.QUEUED
    fates = []
    for _ in range(3):
        claim = one.claimed("r")
        one.say(claim, 1)
        fates.append(one.give_up(claim, Cause.ENGINE_DIED))
    assert fates == [Fate.QUEUED, Fate.QUEUED, Fate.FAILED]


def test_what_may_not_be_moved_again_is_not_given_up_while_it_waits_to_run_alone(
    store: RequestStore, one: Worker
) -> None:
    admit(store, call())
    for _ in range(2):
        claim = one.claimed("r")
        one.say(claim, 1)
        assert not claim.suspect
        assert one.give_up(claim, Cause.ENGINE_DIED) is Fate.QUEUED
    for _ in range(3):
        claim = one.claimed("r")
        assert claim.suspect
        assert one.give_up(claim, Cause.ENGINE_DIED) is Fate.QUEUED
    claim = one.claimed("r")
    one.mark(claim, Danger.RUNS)
    one.say(claim, 1)
    assert one.give_up(claim, Cause.ENGINE_DIED) is Fate.FAILED


def test_a_death_after_a_token_is_no_death_of_the_requests_making(store: RequestStore, one: Worker) -> None:
    admit(store, call(stream=False))
    one.give_up(one.claimed("r"), Cause.ENGINE_DIED)
    fates = []
    for _ in range(3):
        claim = one.claimed("r")
        one.mark(claim, Danger.RUNS)
        one.mark(claim, Danger.SPOKE)
        fates.append(one.give_up(claim, Cause.ENGINE_DIED))
    assert fates == [Fate.QUEUED, Fate.QUEUED, Fate.FAILED]


def test_what_cannot_be_continued_fails_and_is_tried_again_if_nothing_was_sent(
    client: redis.Redis, store: RequestStore, one: Worker
) -> None:
    admit(store, call())
    assert one.give_up(one.claimed("r")) is Fate.QUEUED
    claim = one.claimed("r")
    one.say(claim, 1, trail=None)
    assert one.give_up(claim) is Fate.FAILED
    assert b"final" not in last(client)


def test_giving_up_an_old_attempt_leaves_the_new_one_alone(store: RequestStore, one: Worker) -> None:
    admit(store, call())
    old = one.claimed("r")
    one.give_up(old)
    one.claimed("r")
    assert one.give_up(old) is Fate.NOT_HELD


@pytest.mark.parametrize("keep_s", [0, 60])
@pytest.mark.parametrize("next_is", ["one", "two"])
def test_an_attempt_that_ends_after_it_was_followed_takes_nothing_from_the_next(
    client: redis.Redis, store: RequestStore, one: Worker, two: Worker, *, next_is: str, keep_s: int
) -> None:
    admit(store, call(keep_s=keep_s))
    old = one.claimed("r")
    one.say(old, 1)
    one.die()
    Reaper(client).reap("one")
    one.revive()
    successor = {"one": one, "two": two}[next_is]
    new = successor.claim("r", "another delivery")
    assert isinstance(new, Claim)
    lives_s = client.ttl(keys.stream("r"))
    assert one.end(old, Done()) == [Loss.GONE]
    one.drop(old)
    assert client.hmget(keys.request("r"), "replica", "ended") == [next_is.encode(), None]
    assert client.smembers(keys.held(next_is)) == {b"r"}
    assert client.ttl(keys.stream("r")) >= lives_s - 5
    assert successor.end(new, Done()) == []
    assert client.exists(keys.held("one"), keys.held("two")) == 0
    assert client.hget(keys.request("r"), "ended") == (b"completed" if keep_s else None)


def test_an_answer_that_was_written_whole_is_not_queued_again(
    client: redis.Redis, store: RequestStore, one: Worker
) -> None:
    admit(store, call())
    claim = one.claimed("r")
    client.xadd(keys.stream("r"), encode_event(Done()), id=f"{claim.attempt}-1")  # type: ignore[arg-type]
    one.die()
    Reaper(client).reap("one")
    assert (client.llen(LIST), client.exists(keys.request("r"))) == (0, 0)


def test_a_cancelled_call_leaves_nothing_wherever_it_is(client: redis.Redis, store: RequestStore, one: Worker) -> None:
    admit(store, call())
    assert store.cancel(call()) is False
    admit(store, call())
    one.give_up(one.claimed("r"))
    assert client.llen(LIST) == 1
    assert store.cancel(call()) is False
    assert client.llen(LIST) == 0, "also when it was put back"
    admit(store, call())
    claim = one.claimed("r")
    assert store.cancel(call()) is True
    assert one.end(claim, Done()) == [Loss.GONE]
    assert client.keys("celerity:[rsh]*r") == []


def test_a_kept_call_remembers_how_it_ended(client: redis.Redis, store: RequestStore, one: Worker) -> None:
    for id_, status in (("done", RequestStatus.COMPLETED), ("failed", RequestStatus.FAILED)):
        admit(store, call(id_, keep_s=60, gateway=""))
        last = Done() if status is RequestStatus.COMPLETED else Failed("engine_failed", "why")
        assert one.end(one.claimed(id_), last) == []
        found = store.record(id_)
        assert found is not None
        assert found[1].status is status
        assert found[1].ended_at is not None
        assert 0 < client.ttl(keys.stream(id_)) <= 60
    admit(store, call("left", keep_s=60, gateway=""))
    claim = one.claimed("left")
    assert store.cancel(claim.call)
    assert one.end(claim, Done()) == [Loss.GONE]
    found = store.record("left")
    assert found is not None
    assert found[1].status is RequestStatus.CANCELLED
    assert client.scard(keys.held("one")) == 0


def test_a_key_stands_for_one_request(store: RequestStore) -> None:
    once = Once(key="k", digest="abc", ttl_s=60)
    assert admit(store, call("a", caller="me"), once) == Queued()
    assert admit(store, call("b", caller="me"), once) == Same("a")
    assert admit(store, call("c", caller="me"), Once(key="k", digest="def", ttl_s=60)) == Reused()
    assert admit(store, call("d", caller="you"), once) == Queued(), "another caller's key is another key"


def test_a_lost_message_is_put_back_once(client: redis.Redis, store: RequestStore, one: Worker) -> None:
    admit(store, call())
    assert store.mend(call()) is False
    client.delete(LIST)
    assert store.mend(call()) is False, "it may be on its way to a worker"
    client.hincrby(keys.request("r"), "admitted_ms", -10_000)
    assert store.mend(call()) is True
    assert client.llen(LIST) == 1
    one.claimed("r")
    assert store.mend(call()) is False


def test_a_call_that_would_wait_too_long_is_refused(client: redis.Redis, store: RequestStore, one: Worker) -> None:
    for number in range(12):
        admit(store, call(f"r{number}"), max_depth=99)
    for number in range(4):
        one.claimed(f"r{number}")
    pace = keys.pace(list_of(call()))
    since_ms = int(client.hget(pace, "since_ms") or 0)
    assert int(client.hget(pace, "claims") or 0) == 3
    assert admit(store, call("soon"), max_depth=99) == Queued(), "too early to tell"
    client.hset(pace, "since_ms", since_ms - 20_000)  # four in twenty seconds: the tenth waits fifty
    assert admit(store, call("late"), max_depth=99) == Slow(9)
    assert admit(store, call("patient", queue_wait_s=100.0), max_depth=99) == Queued()
    cold = store.admit(call("cold"), gateway_id="g", max_depth=99, readiness=Readiness.COLD)
    assert cold == Queued(), "nobody serves the queue now, whoever did before"
    client.ltrim(LIST, -1, -1)
    one.claimed("r4")
    assert client.exists(pace) == 0, "an empty queue has no pace"


def test_a_call_of_a_newer_release_is_refused_under_its_own_attempt(
    client: redis.Redis, store: RequestStore, one: Worker
) -> None:
    admit(store, call(keep_s=60))
    client.hset(keys.request("r"), "endpoint", "telepathy")
    refusal = one.claim("r")
    assert isinstance(refusal, Refusal)
    assert (refusal.verdict, refusal.keep_s) == (Verdict.UNREADABLE, 60)
    assert client.xrange(keys.stream("r"))[0][0] == f"{refusal.attempt}-0".encode()  # type: ignore[index]


def test_one_request_that_cannot_be_read_does_not_keep_its_neighbours_from_being_reaped(
    client: redis.Redis, store: RequestStore, one: Worker, two: Worker
) -> None:
    for name in ("a", "b", "c"):
        admit(store, call(name))
        one.claimed(name)
    client.hset(keys.request("b"), "priority", "telepathic")
    one.die()
    Reaper(client).reap("one")
    assert client.llen(LIST) == 2
    assert client.zrange(keys.REPLICAS, 0, -1) == [b"two"]


def test_what_ended_while_kept_holds_no_body_and_is_marked_even_by_a_late_claim(
    client: redis.Redis, store: RequestStore, one: Worker
) -> None:
    admit(store, call("done", keep_s=60, gateway="", body=b"x" * 1000))
    one.end(one.claimed("done"), Done())
    assert client.hget(keys.request("done"), "body") == b""
    admit(store, call("half", keep_s=60, gateway=""))
    claim = one.claimed("half")
    client.xadd(keys.stream("half"), encode_event(Done()), id=f"{claim.attempt}-1")  # type: ignore[arg-type]
    client.hset(keys.request("half"), "replica", "")
    assert one.claim("half", "again") == Refusal(Verdict.GONE)
    found = store.record("half")
    assert found is not None
    assert found[1].status is RequestStatus.COMPLETED


def test_a_cancellation_that_comes_with_the_end_changes_nothing(
    client: redis.Redis, store: RequestStore, one: Worker
) -> None:
    admit(store, call(keep_s=60, gateway=""))
    claim = one.claimed("r")
    client.xadd(keys.stream("r"), encode_event(Done()), id=f"{claim.attempt}-1")  # type: ignore[arg-type]
    assert store.cancel(claim.call) is False
    assert last(client)[b"k"] == b"done"


def test_what_was_accepted_once_is_not_refused_again(store: RequestStore) -> None:
    admit(store, call("a"))
    assert admit(store, call("b"), max_depth=1) == Full(1)
    assert admit(store, call("b"), max_depth=-1) == Queued()
