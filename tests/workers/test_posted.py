"""What an engine's loop posts is done by Celery's hub, which is woken for what cannot wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu.asynchronous import Hub

from tests.waiting import wait_until
from workers.host.posted import Posted


class Side:
    """A loop in a thread of its own, and the hub it posts to."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.posted = Posted(self.loop)
        kombu_hub: Any = Hub
        self.hub = kombu_hub()
        self.hub.timer.call_repeatedly(0.01, int)  # else a turn without news lasts a second
        self.turns = self.hub.create_loop()

    def post(self, call: Callable[..., None], *args: Any, soon: bool = True) -> None:
        """Post on the loop, and return when that has happened."""

        async def on_loop() -> None:
            self.posted.post(call, *args, soon=soon)

        asyncio.run_coroutine_threadsafe(on_loop(), self.loop).result()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        self.hub.close()
        self.posted._read_end.close()
        self.posted._write_end.close()


@pytest.fixture
def side() -> Iterator[Side]:
    side = Side()
    side.posted.register(side.hub)
    yield side
    side.close()


@pytest.mark.parametrize("soon", [True, False])
def test_the_hub_does_what_is_posted_also_while_it_waits(side: Side, soon: bool) -> None:
    done: list[str] = []
    side.post(done.append, "before", soon=soon)
    next(side.turns)
    assert done == ["before"]
    later = threading.Thread(target=side.post, args=(done.append, "meanwhile"), kwargs={"soon": soon})
    later.start()
    wait_until(lambda: next(side.turns) or len(done) == 2, "what was posted meanwhile")
    later.join()
    assert done == ["before", "meanwhile"]


def test_what_fails_takes_nothing_along(side: Side) -> None:
    done: list[str] = []
    side.post(done.remove, "what is not there")
    side.post(done.append, "next")
    next(side.turns)
    assert done == ["next"]


def test_of_many_some_are_done_in_one_turn_and_the_others_in_the_next_ones(side: Side) -> None:
    done: list[int] = []
    for n in range(20):
        side.post(done.append, n, soon=False)
    next(side.turns)
    assert 0 < len(done) < 20
    wait_until(lambda: next(side.turns) or not side.posted, "the others")
    assert done == list(range(20))


def test_who_registers_again_does_everything_once(side: Side) -> None:
    done: list[int] = []
    side.posted.register(side.hub)
    side.post(done.append, 1)
    next(side.turns)
    next(side.turns)
    assert done == [1]
