"""Who runs alone, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tasks.messages import Call, Endpoint
from tasks.requests.requeue import MAX_MIGRATIONS
from tasks.serving.claim_store import Claim, Danger
from tasks.serving.suspects import SuspectSeat


class Marks:
    """The part of a claim store that a seat uses."""

    def __init__(self) -> None:
        self.made: list[tuple[str, Danger]] = []

    async def mark(self, request_id: str, _attempt: int, danger: Danger) -> None:
        self.made.append((request_id, danger))


class Seat:
    """A seat, and who has it."""

    def __init__(self) -> None:
        self.marks = Marks()
        self.inside: dict[str, Callable[[], None]] = {}
        self._seat = SuspectSeat(self.marks)  # type: ignore[arg-type]  # all that the seat uses of it
        self._entered: dict[str, asyncio.Event] = {}
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def come(self, name: str, *, deaths: int = 0, migrations: int = 0) -> None:
        body = Call(id=name, model="m", endpoint=Endpoint.CHAT, body=b"{}", stream=True, gateway="g")
        claim = Claim(body, 1, "", deaths, migrations)
        self._entered[name], self._leave[name] = asyncio.Event(), asyncio.Event()
        self._tasks.append(asyncio.ensure_future(self._be(claim)))

    async def _be(self, claim: Claim) -> None:
        async with self._seat.of(claim) as on_token:
            self.inside[claim.call.id] = on_token
            self._entered[claim.call.id].set()
            await self._leave[claim.call.id].wait()

    async def leave(self, name: str) -> None:
        self._leave[name].set()
        await turns()

    async def until(self, name: str) -> None:
        async with asyncio.timeout(20):
            await self._entered[name].wait()


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def scenario(play: Callable[[Seat], Awaitable[Any]]) -> Marks:
    async def main() -> Marks:
        seat = Seat()
        await play(seat)
        await turns()
        for task in seat._tasks:
            task.cancel()
        return seat.marks

    return asyncio.run(main())


def test_who_was_never_there_at_a_death_waits_for_nobody() -> None:
    async def play(seat: Seat) -> None:
        seat.come("suspect", deaths=1)
        seat.come("moved once", migrations=MAX_MIGRATIONS - 1)
        seat.come("new")
        await turns()
        assert set(seat.inside) == {"suspect", "moved once", "new"}

    assert scenario(play).made == [("suspect", Danger.RUNS)]


def test_a_suspect_makes_way_at_its_first_token() -> None:
    async def play(seat: Seat) -> None:
        seat.come("one", deaths=1)
        seat.come("two", deaths=1)
        await turns()
        assert set(seat.inside) == {"one"}
        for _ in range(3):
            seat.inside["one"]()
        await turns()
        assert set(seat.inside) == {"one", "two"}

    assert sorted(scenario(play).made) == [("one", Danger.RUNS), ("one", Danger.SPOKE), ("two", Danger.RUNS)]


@pytest.mark.parametrize("leaves", [True, False])
def test_one_that_may_not_be_moved_again_has_a_moment_to_itself(leaves: bool) -> None:
    async def play(seat: Seat) -> None:
        seat.come("one", migrations=MAX_MIGRATIONS)
        seat.come("two", migrations=MAX_MIGRATIONS)
        await turns()
        seat.inside["one"]()
        await turns()
        assert set(seat.inside) == {"one"}
        if leaves:
            await seat.leave("one")
            assert set(seat.inside) == {"one", "two"}
        await seat.until("two")

    assert scenario(play).made[:2] == [("one", Danger.RUNS), ("one", Danger.SPOKE)]
