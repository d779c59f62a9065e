"""How a replica falls asleep and wakes, and how it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis

from tasks import keys
from tasks.records.moves import Move, tell
from tasks.serving.sleeper import Sleeper
from workers.engine.base import EngineDeadError, EngineLoad, Frames, Job, Result, SleepNeed
from workers.replicas import ReplicaState, advance

S = ReplicaState


class SleepyEngine:
    """Sleeps and wakes when a test lets it. Satisfies `workers.engine.base.Engine`."""

    endpoints = frozenset({"chat"})
    kv_mib: int | None = None

    def __init__(self, *, can_sleep: bool = True) -> None:
        self.sleep_need = SleepNeed(device_mib=1, ram_mib=1) if can_sleep else None
        self.journal: list[str] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.broken = False

    async def sleep(self) -> None:
        await self._do("sleep")

    async def wake(self) -> None:
        await self._do("wake")

    async def _do(self, what: str) -> None:
        if self.broken:
            raise EngineDeadError(f"cannot {what}")
        self.journal.append(what)
        await self.may_go_on.wait()

    async def start(self) -> None: ...

    async def check(self) -> None: ...

    async def close(self) -> None: ...

    def load(self) -> EngineLoad:
        return EngineLoad(seats=1, running=0)

    def room_beside(self, requests: int, slowdown: float) -> int | None:
        return None

    async def run(self, job: Job) -> AsyncIterator[Frames | Result]:
        yield Result()


class Replica:
    """The parts of an engine worker that have to do with sleep."""

    def __init__(self, engine: SleepyEngine) -> None:
        self.busy = False
        self.state = S.READY
        self.moved = asyncio.Event()
        self.engine = engine
        self.sleeper = Sleeper(engine, self, self._move, lambda: self.state)

    def _move(self, to: ReplicaState) -> None:
        self.state = advance(self.state, to)
        self.moved.set()

    async def reaches(self, state: ReplicaState) -> None:
        async with asyncio.timeout(10):
            while self.state is not state:
                await self.moved.wait()
                self.moved.clear()


Scenario = Callable[[Replica], Awaitable[None]]


def play(scenario: Scenario, *, can_sleep: bool = True) -> None:
    async def run() -> None:
        replica = Replica(SleepyEngine(can_sleep=can_sleep))
        running = asyncio.create_task(replica.sleeper.run())
        try:
            await scenario(replica)
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    asyncio.run(run())


async def turns() -> None:
    """Let whatever could happen by now happen."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_it_sleeps_and_wakes_as_it_is_told() -> None:
    async def scenario(replica: Replica) -> None:
        replica.sleeper.told(Move(S.SLEEPING, 1.0))
        assert replica.sleeper.is_dozing
        await replica.reaches(S.SLEEPING)
        replica.sleeper.told(Move(S.READY, 2.0))
        await replica.reaches(S.READY)
        assert not replica.sleeper.is_dozing
        assert replica.engine.journal == ["sleep", "wake"]

    play(scenario)


def test_it_takes_nothing_new_at_once_and_sleeps_when_it_has_finished_what_it_has() -> None:
    async def scenario(replica: Replica) -> None:
        replica.busy = True
        replica.sleeper.told(Move(S.SLEEPING, 1.0))
        await turns()
        assert replica.sleeper.is_dozing
        assert replica.engine.journal == []
        replica.busy = False
        await replica.reaches(S.SLEEPING)

    play(scenario)


def test_told_to_wake_before_it_has_fallen_asleep_it_goes_on() -> None:
    async def scenario(replica: Replica) -> None:
        replica.busy = True
        replica.sleeper.told(Move(S.SLEEPING, 1.0))
        await turns()
        replica.sleeper.told(Move(S.READY, 2.0))
        assert not replica.sleeper.is_dozing
        replica.busy = False
        await turns()
        assert (replica.state, replica.engine.journal) == (S.READY, [])

    play(scenario)


def test_told_to_wake_while_it_falls_asleep_it_does_both() -> None:
    async def scenario(replica: Replica) -> None:
        replica.engine.may_go_on.clear()
        replica.sleeper.told(Move(S.SLEEPING, 1.0))
        await turns()
        replica.sleeper.told(Move(S.READY, 2.0))
        replica.engine.may_go_on.set()
        await turns()
        assert (replica.state, replica.engine.journal) == (S.READY, ["sleep", "wake"])

    play(scenario)


def test_of_two_orders_the_later_counts_in_whichever_order_they_come() -> None:
    async def scenario(replica: Replica) -> None:
        replica.sleeper.told(Move(S.READY, 2.0))
        replica.sleeper.told(Move(S.SLEEPING, 1.0))
        await turns()
        assert not replica.sleeper.is_dozing
        assert (replica.state, replica.engine.journal) == (S.READY, [])

    play(scenario)


def test_the_same_order_twice_is_followed_once() -> None:
    async def scenario(replica: Replica) -> None:
        for _ in range(2):
            replica.sleeper.told(Move(S.SLEEPING, 1.0))
            await replica.reaches(S.SLEEPING)
            await turns()
        assert replica.engine.journal == ["sleep"]

    play(scenario)


def test_an_engine_that_cannot_sleep_goes_on_taking_work() -> None:
    async def scenario(replica: Replica) -> None:
        replica.sleeper.told(Move(S.SLEEPING, 1.0))
        await turns()
        assert not replica.sleeper.is_dozing
        assert replica.engine.journal == []

    play(scenario, can_sleep=False)


def test_an_engine_that_does_not_wake_is_dead() -> None:
    async def run() -> None:
        replica = Replica(SleepyEngine())
        replica.engine.broken = True
        replica.sleeper.told(Move(S.SLEEPING, 1.0))
        with pytest.raises(EngineDeadError):
            await asyncio.wait_for(replica.sleeper.run(), 10)

    asyncio.run(run())


@pytest.mark.integration
def test_a_move_survives_redis_and_is_told_from_a_cancellation(client: redis.Redis) -> None:
    move = Move(S.SLEEPING, 1_800_000_000.123456)
    tell(client, "r-1", move)
    records: Any = client.xrange(keys.control("r-1"))
    ((_, fields),) = records
    assert Move.decode(fields) == move
    assert client.ttl(keys.control("r-1")) > 0
    assert Move.decode({b"cancel": b"req"}) is None
