"""What a request's record keeps of an answer that does not stream, on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
import redis

from tasks import keys
from tasks.messages import Call, Done, Endpoint
from tasks.queues import Priority
from tasks.requests.dead_letters import DeadLetters
from tasks.requests.dispatch import RequestStatus
from tasks.requests.pulse import Pulse
from tasks.requests.reaper import Reaper
from tasks.requests.request_store import Queued, RequestStore, list_of
from tasks.requests.requeue import Cause, Fate
from tasks.serving.claim_store import Claim, ClaimStore
from tasks.serving.outlet import Loss, Outlet
from tasks.serving.streams import StreamWriter
from tests.serving_line import client_and_line
from tests.stack import RedisServer

pytestmark = pytest.mark.integration

T = TypeVar("T")


class Worker:
    """One replica, as far as Redis can tell, and the queue it takes from."""

    def __init__(self, server: RedisServer, client: redis.Redis) -> None:
        self._server = server
        self.client = client
        self.store = RequestStore(client)
        self.revive()

    def revive(self) -> None:
        Pulse(self.client).beat("one", 60)
        self.client.delete(keys.reaping("one"))

    def die(self) -> None:
        Pulse(self.client).beat("one", -1)
        Reaper(self.client).reap("one")
        self.revive()

    def admit(self, **fields: Any) -> Call:
        call = Call(
            **{
                "id": "r",
                "model": "m",
                "endpoint": Endpoint.CHAT,
                "body": b"{}",
                "stream": False,
                "gateway": "",
                "priority": Priority.BULK,
                "queue_wait_s": 30.0,
                "keep_s": 60,
                **fields,
            }
        )
        assert self.store.admit(call, gateway_id="g", max_depth=9) == Queued()
        return call

    def claimed(self, call: Call) -> Claim:
        message: Any = self.client.rpop(list_of(call))
        claim = self._do(lambda store: store.claim(call.id, str(message)))
        assert isinstance(claim, Claim), claim
        return claim

    def give_back(self, claim: Claim, state: bytes = b"", cause: Cause = Cause.GIVES_UP) -> Fate:
        return self._do(lambda store: store.requeue(claim.call, claim.attempt, cause, state))

    def keep(self, claim: Claim, state: bytes) -> None:
        self._do(lambda store: store.keep({(claim.call.id, claim.attempt): state}))

    def end(self, claim: Claim) -> list[Loss]:
        losses: list[Loss] = []

        async def main() -> None:
            async with client_and_line(self._server.url) as (_, line):
                writer = StreamWriter(line, "one")
                writing = asyncio.create_task(writer.run())
                outlet = Outlet(claim.call.id, claim.attempt, losses.append, claim.call.keep_s)
                await writer.end(outlet, Done(body=b"{}"))
                writing.cancel()

        asyncio.run(main())
        return losses

    def _do(self, work: Callable[[ClaimStore], Awaitable[T]]) -> T:
        async def main() -> T:
            async with client_and_line(self._server.url) as (client, line):
                return await work(ClaimStore(client, line, "one"))

        return asyncio.run(main())


@pytest.fixture
def one(server: RedisServer, client: redis.Redis) -> Worker:
    return Worker(server, client)


def test_whoever_claims_it_next_is_told_how_far_it_was(client: redis.Redis, one: Worker) -> None:
    call = one.admit()
    first = one.claimed(call)
    assert first.state == b""
    assert one.give_back(first, b"three tokens") is Fate.QUEUED
    second = one.claimed(call)
    assert (second.state, second.after) == (b"three tokens", ""), "whoever follows it has seen nothing"
    records: Any = client.xrange(keys.stream("r"))
    assert [fields[b"k"] for _, fields in records] == [b"started", b"started"]
    assert one.give_back(second) is Fate.QUEUED
    assert one.claimed(call).state == b"three tokens", "who came no further takes nothing away"


def test_being_put_back_costs_a_call_nothing(one: Worker) -> None:
    call = one.admit()
    fates = {one.give_back(one.claimed(call), b"%d" % tokens) for tokens in range(1, 10)}
    assert fates == {Fate.QUEUED}
    assert one.claimed(call).deaths == 0


def test_what_was_kept_in_the_middle_survives_its_worker(one: Worker) -> None:
    call = one.admit()
    claim = one.claimed(call)
    one.keep(claim, b"one token")
    one.keep(claim, b"nine tokens")
    one.die()
    again = one.claimed(call)
    assert (again.state, again.deaths) == (b"nine tokens", 0)
    assert not again.suspect, "it had given tokens, so its worker did not die of it"


def test_a_call_that_came_no_further_since_it_was_claimed_is_blamed(one: Worker) -> None:
    call = one.admit()
    one.give_back(one.claimed(call), b"one token")
    one.claimed(call)
    one.die()
    assert one.claimed(call).suspect


def test_an_answer_is_moved_at_most_twice_by_deaths(client: redis.Redis, one: Worker) -> None:
    call = one.admit()
    for tokens in (b"1", b"2", b"3"):
        claim = one.claimed(call)
        one.keep(claim, tokens)
        one.die()
    assert client.hmget(keys.request("r"), "ended", "state") == [b"failed", b""]


def test_a_stale_worker_keeps_nothing(client: redis.Redis, one: Worker) -> None:
    call = one.admit()
    old = one.claimed(call)
    one.give_back(old, b"five tokens")
    one.keep(old, b"four tokens")
    new = one.claimed(call)
    one.keep(old, b"six tokens")
    assert one.give_back(old, b"seven tokens") is Fate.NOT_HELD
    assert client.hget(keys.request("r"), "state") == b"five tokens"
    assert one.end(new) == []
    one.keep(new, b"nine tokens")
    assert client.hget(keys.request("r"), "state") == b""


def test_what_has_ended_keeps_nothing_of_the_way_there(client: redis.Redis, one: Worker) -> None:
    done, cancelled = one.admit(id="done"), one.admit(id="cancelled")
    for call in (done, cancelled):
        claim = one.claimed(call)
        one.keep(claim, b"tokens")
        if call is done:
            assert one.end(claim) == []
        else:
            one.store.cancel(call)
        assert client.hmget(keys.request(call.id), "state", "body") == [b"", b""]
    record = one.store.record("done")
    assert record is not None
    assert record[1].status is RequestStatus.COMPLETED


def test_a_forgotten_call_is_not_made_again_by_what_is_kept_of_it(client: redis.Redis, one: Worker) -> None:
    call = one.admit(keep_s=0, gateway="g")
    claim = one.claimed(call)
    one.store.cancel(call)
    one.keep(claim, b"tokens")
    assert client.exists(keys.request("r")) == 0


def test_another_build_begins_anew(client: redis.Redis, one: Worker) -> None:
    call = one.admit()
    one.give_back(one.claimed(call), b"tokens")
    assert one.store.divert(call, "m-small")
    moved = Call(**{name: getattr(call, name) for name in call.__dataclass_fields__} | {"model": "m-small"})
    assert one.claimed(moved).state == b""


def test_a_dead_letter_has_the_body_and_no_state(client: redis.Redis, one: Worker) -> None:
    call = one.admit()
    one.give_back(one.claimed(call), b"tokens")
    for _ in range(2):
        claim = one.claimed(call)
        client.hset(keys.request("r"), "danger", "1")
        fate = one.give_back(claim, cause=Cause.ENGINE_DIED)
    assert fate is Fate.CONDEMNED
    (letter,) = DeadLetters(client).all()
    assert (letter.call.body, letter.produced) == (b"{}", b"")
    assert client.hexists(keys.dead_letter("r"), "state") is False
