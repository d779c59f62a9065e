"""The steps of a simulated engine: as in a real one, the tokens of many requests come together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

# Gives a request's next token, and says whether there is one after it.
Give = Callable[[], bool]
# So much later than it is due a request's second token may come, however slow the pace is.
_LATE_S = 0.002


class Steps:
    """A request's are `every_s` seconds apart; those of requests that joined within 2 ms are one: a clock wakes once.

    With 0 there is one at every turn of the loop.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._phases = max(1, math.ceil(every_s / _LATE_S))
        self._phase_s = every_s / self._phases
        self._coming: dict[int, list[Give]] = {}

    def join(self, due: float, give: Give) -> None:
        """Call `give` with the first step that is not before `due`, and with each after it until it returns False.

        A step that is over comes with the loop's next turn, until what is late has caught up. `give` must not raise.
        """
        # A step is due at the very moment that was computed by adding steps up.
        self._meet(math.ceil(due / self._phase_s - 1e-6) if self._every_s > 0 else 0, [give])

    def _meet(self, step: int, those: list[Give]) -> None:
        if (others := self._coming.get(step)) is not None:
            others += those
            return
        self._coming[step] = those
        loop, due = asyncio.get_running_loop(), step * self._phase_s
        if due <= loop.time() - self._every_s:
            loop.call_soon(self._take, step)
        else:
            loop.call_at(due, self._take, step)

    def _take(self, step: int) -> None:
        if going := [give for give in self._coming.pop(step) if give()]:
            self._meet(step + self._phases if self._every_s > 0 else 0, going)
