"""What is kept of bulk answers while they are made: how often, and what for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import redis

from tasks.messages import Call, Endpoint
from tasks.queues import Priority
from tasks.serving.checkpoints import EVERY_S, Checkpoints
from tasks.serving.claim_store import Claim, ClaimStore
from tasks.serving.held import Held, Release


class Store:
    """Where states are kept; our own interface."""

    def __init__(self) -> None:
        self.round_trips = 0
        self.kept: dict[tuple[str, int], list[bytes]] = {}
        self.away = False

    async def keep(self, states: dict[tuple[str, int], bytes]) -> None:
        self.round_trips += 1
        if self.away:
            raise redis.ConnectionError("away")
        for key, state in states.items():
            self.kept.setdefault(key, []).append(state)


def held(said: Callable[[], bytes | None], *, priority: Priority = Priority.BULK, request_id: str = "r") -> Held:
    call = Call(
        id=request_id,
        model="m",
        endpoint=Endpoint.CHAT,
        body=b"{}",
        stream=False,
        gateway="",
        priority=priority,
    )
    task = cast("asyncio.Task[object]", asyncio.current_task())
    one = Held(request_id, task, claim=Claim(call, 1, "", 0))
    one.progress.follow(said)
    return one


def kept_over(seconds: int, *calls: Callable[[], Held]) -> Store:
    """Return what was kept of `calls` in so many seconds, looked at each second."""
    store = Store()

    async def main() -> None:
        those = [make() for make in calls]
        checkpoints = Checkpoints(cast("ClaimStore", store), lambda: those)
        for second in range(seconds + 1):
            await checkpoints.keep(float(second))

    asyncio.run(main())
    return store


class Grows:
    """An answer that has one token more whenever it is asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> bytes:
        self.asked += 1
        return b"%d" % self.asked


def test_a_call_that_somebody_waits_for_costs_nothing() -> None:
    grows = Grows()
    store = kept_over(60, lambda: held(grows, priority=Priority.INTERACTIVE))
    assert (store.round_trips, grows.asked) == (0, 0)


def test_short_bulk_calls_cost_nothing() -> None:
    store = kept_over(int(EVERY_S) - 1, lambda: held(Grows()))
    assert store.round_trips == 0


def test_calls_that_are_due_share_round_trips_but_leave_the_loop_to_others_in_between() -> None:
    store = kept_over(int(EVERY_S), *[partial(held, Grows(), request_id=f"r{i}") for i in range(40)])
    assert store.round_trips == 3
    assert len(store.kept) == 40


def test_what_has_not_grown_is_not_written_again() -> None:
    store = kept_over(60, lambda: held(lambda: b"stuck"), lambda: held(lambda: None, request_id="s"))
    assert store.kept == {("r", 1): [b"stuck"]}
    assert store.round_trips == 1


def test_the_longer_an_answer_has_run_the_longer_it_goes_unwritten() -> None:
    def written(seconds: int) -> int:
        return len(kept_over(seconds, lambda: held(Grows())).kept["r", 1])

    assert written(20) == 10
    assert written(60) <= 22
    assert written(600) <= 46, "not three hundred"


def test_a_redis_that_is_away_is_asked_again() -> None:
    store = Store()

    async def main() -> list[int]:
        one = held(Grows())
        checkpoints = Checkpoints(cast("ClaimStore", store), lambda: [one])
        await checkpoints.keep(0.0)
        store.away = True
        found = [await checkpoints.keep(EVERY_S)]
        store.away = False
        return [*found, await checkpoints.keep(EVERY_S + 1)]

    assert asyncio.run(main()) == [0, 1]
    assert store.round_trips == 2


def test_what_is_being_given_back_is_left_alone() -> None:
    def released() -> Held:
        one = held(Grows())
        one.released = Release.TO_QUEUE
        return one

    assert kept_over(10, released).round_trips == 0


def test_nothing_is_remembered_of_calls_that_have_ended() -> None:
    store = Store()
    remembered: list[Any] = []

    async def main() -> None:
        calls = [held(Grows(), request_id=f"r{i}") for i in range(5)]
        checkpoints = Checkpoints(cast("ClaimStore", store), lambda: calls)
        await checkpoints.keep(0.0)
        calls.clear()
        await checkpoints.keep(1.0)
        remembered.append(len(checkpoints))

    asyncio.run(main())
    assert remembered == [0]
