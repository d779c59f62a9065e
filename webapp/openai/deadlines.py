"""The limits a gateway puts on one answer. Pure: the time is an argument.

| limit       | runs from        | until         | streams only |
|-------------|------------------|---------------|--------------|
| queue wait  | acceptance       | `Started`     |              |
| first token | `Started`        | next `Delta`  | yes          |
| silence     | any `Delta`      | the next one  | yes          |
| total       | acceptance       | the end       |              |

A worker that goes on with another's answer gets the time to a first token again.
An answer in one piece says nothing between its start and its end, so only the outer two
limits can apply to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tasks.errors import DeadlineExceededError
from tasks.messages import Delta, Event, Started


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """In seconds."""

    queue_wait_s: float
    first_token_s: float
    silence_s: float
    total_s: float


class Deadlines:
    """Where one answer stands against its limits."""

    def __init__(self, limits: Limits, *, now: float, stream: bool) -> None:
        self._limits = limits
        self._stream = stream
        self._total_at = now + limits.total_s
        self._phase_at = now + limits.queue_wait_s
        self._phase = f"The request waited longer than {limits.queue_wait_s:g} s in the queue."

    def saw(self, event: Event, now: float) -> None:
        """Note what has arrived; a worker that starts again gets its time again."""
        match event:
            case Started():
                limit = self._limits.first_token_s if self._stream else math.inf
                self._phase = f"The model gave no first token within {limit:g} s."
            case Delta():
                limit = self._limits.silence_s
                self._phase = f"The model gave no further token within {limit:g} s."
            case _:
                return
        self._phase_at = now + limit

    def heard(self, now: float) -> None:
        """Note one more `Delta`, after one that `saw` was told of."""
        self._phase_at = now + self._limits.silence_s

    def left(self, now: float) -> float:
        """Return the seconds until the nearest limit; zero or less when it has run out."""
        return min(self._phase_at, self._total_at) - now

    def error(self) -> DeadlineExceededError:
        """Return the error for the limit that is nearest."""
        if self._total_at < self._phase_at:
            return DeadlineExceededError(f"The answer took longer than {self._limits.total_s:g} s.")
        return DeadlineExceededError(self._phase)
