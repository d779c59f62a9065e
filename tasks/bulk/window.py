"""How many lines of which batch are queued now. Pure.

A model's engines shall never find its queue empty while a batch has lines for it, and
what is queued ahead of need only stands in interactive requests' way of being counted, so
it stays a small multiple of what the engines could take at once:

1. no replica is ready: a few, so that the model is loaded and has work when it is there;
2. else `window` times the free seats, at least twice as many as of ours run, and at most
   `MOST_PER_SEAT` for each seat. Each of those that run may end next; and while all seats
   do bulk work, as many lines as seats wait even just before a refill, which is the depth
   that tells the loader that another replica would have work.

Interactive requests that take seats leave fewer free and fewer of ours running, and the
queue gets shorter with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")

LEAST = 8
MOST_BYTES = 64 << 20
"""Of lines whose requests stand in Redis. Bodies are kept there until their answers are."""
MOST_PER_SEAT = 4
# Each filling is one transaction, so it waits until this part of what should be queued is missing.
_REFILL_PART = 0.25
_PER_RUNNING = 2


@dataclass(frozen=True, slots=True)
class Seats:
    """Of the ready replicas of one model; none of either while it is not loaded."""

    free: int = 0
    all: int = 0


NO_SEATS = Seats()


def target(seats: Seats, running: int, window: float) -> int:
    """Return how many lines of a model should be queued; `running` of ours have a seat."""
    if not seats.all:
        return LEAST
    wanted = max(LEAST, _PER_RUNNING * running, math.ceil(window * seats.free))
    return min(wanted, max(LEAST, MOST_PER_SEAT * seats.all))


def missing(seats: Seats, *, queued: int, running: int, window: float) -> int:
    """Return how many lines of a model to queue now; `queued` of ours wait there already."""
    wanted = target(seats, running, window)
    lacking = wanted - queued
    return lacking if lacking >= max(1, _REFILL_PART * wanted) else 0


def fitting(sizes: Sequence[int], held: int) -> int:
    """Return how many of the next lines, of so many bytes each, may go to Redis, which holds `held` bytes of lines.

    One always may, when there is none.
    """
    count = 0
    for size in sizes:
        if held and held + size > MOST_BYTES:
            break
        held, count = held + size, count + 1
    return count


def shares(room: int, pending: Sequence[tuple[_T, int]]) -> list[tuple[_T, int]]:
    """Divide `room` among those who have so many pending lines each: equally, the odd ones to the first.

    Who got nothing has its turn if the caller puts those who got something at the end the next time.
    """
    given = [0] * len(pending)
    hungry = [i for i, (_, count) in enumerate(pending) if count > 0]
    while room > 0 and hungry:
        each = max(1, room // len(hungry))
        for i in hungry[:room]:
            some = min(each, pending[i][1] - given[i])
            given[i] += some
            room -= some
        hungry = [i for i in hungry if given[i] < pending[i][1]]
    return [(whose, count) for (whose, _), count in zip(pending, given, strict=True) if count]
