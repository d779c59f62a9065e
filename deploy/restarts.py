"""When a process that died is started again, and when not any more. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_S = 600.0
# A model that dies three times within the window will most likely do so again, and
# each load takes memory and time from those that work.
MOST_CRASHES = 3
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0


@dataclass(frozen=True, slots=True)
class Retry:
    """Start again at this time of the monotonic clock."""

    at: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Leave it dead until a person has looked."""

    crashes: int


def after_crash(crashes: Sequence[float], *, now: float, may_give_up: bool) -> Retry | GiveUp:
    """Decide after the latest of `crashes`, which are times of the monotonic clock.

    What everything depends on (Redis, the gateway) is started again for ever, ever more slowly.
    """
    recent = sum(1 for at in crashes if now - at <= WINDOW_S)
    if may_give_up and recent >= MOST_CRASHES:
        return GiveUp(recent)
    return Retry(now + min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(recent - 1, 10)))
