"""The steps of a simulated engine: as in a real one, the tokens of all requests come together."""

from __future__ import annotations

import asyncio
import math


class Steps:
    """One every `every_s` seconds of the loop's clock; a clock wakes for many requests as for one.

    With 0 there are none: whoever waits only lets the others go on.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._coming: dict[int, asyncio.Event] = {}

    async def reach(self, due: float) -> None:
        """Return with the first step that is not before `due`; at once when that one is over."""
        loop = asyncio.get_running_loop()
        if self._every_s <= 0 or due <= loop.time() - self._every_s:
            await asyncio.sleep(0)
            return
        # A step is due at the very moment that was computed by adding steps up.
        step = math.ceil(due / self._every_s - 1e-6)
        event = self._coming.get(step)
        if event is None:
            event = self._coming[step] = asyncio.Event()
            loop.call_at(step * self._every_s, self._take, step)
        await event.wait()

    def _take(self, step: int) -> None:
        self._coming.pop(step).set()
