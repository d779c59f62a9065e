"""Which of its lists a worker pops next, by what it holds already. Pure.

Interactive work comes first; bulk work fills the seats that would be idle, and leaves a
few of them free, so that an interactive request need not wait for one. A small part of
the seats is bulk work's own: while it holds fewer, it comes first, so that it never starves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# kombu's priority steps, of which each has a list of its own (`priority_steps` in celeryconfig).
INTERACTIVE, BULK = 0, 9
ALL_STEPS = (INTERACTIVE, BULK)


def is_bulk(priority: object) -> bool:
    """Say whether a message of this priority stands in the bulk list. Without a proper one it is interactive."""
    return isinstance(priority, int) and priority >= BULK


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How the seats of an engine are divided where both kinds of work want them. Parts of 1."""

    share: float
    """What bulk work keeps whoever else waits."""
    headroom: float
    """What bulk work leaves free."""
    slowdown: float = 1.25
    """How many times as long an engine's steps may take while interactive requests are around: above 1."""

    def guaranteed(self, seats: int) -> int:
        """Return how many of `seats` are bulk work's own: at least one of several, none of one."""
        if seats <= 1 or self.share <= 0:
            return 0
        return min(seats, max(1, round(self.share * seats)))

    def fillable(self, seats: int) -> int:
        """Return up to how many of `seats` may be taken for bulk work to take another."""
        return seats - min(seats, math.floor(self.headroom * seats))


@dataclass(frozen=True, slots=True)
class Pull:
    """What a worker is to take next."""

    order: tuple[int, ...]
    """The priority steps to take from, the one to be served first in front."""
    most: int
    """After so many messages, of whatever step, the order may be another."""


class Peak:
    """The most of something in the last window, or up to three. The time is an argument, in seconds of any clock.

    Who talks to a model asks again soon: a seat that an interactive request has just left is
    the next one's, and bulk work gets it only when nobody has come for it.
    """

    def __init__(self, window_s: float = 1.0) -> None:
        self._window_s = window_s
        self._since = 0.0
        self._before = self._now = 0

    def note(self, value: int, now: float) -> int:
        """Take in what it is now; return the most it was lately."""
        if now - self._since >= self._window_s:
            quiet = now - self._since >= 2 * self._window_s
            self._before, self._now, self._since = (0 if quiet else self._now), 0, now
        self._now = max(self._now, value)
        return max(self._before, self._now)


def pull(
    shares: Shares,
    *,
    seats: int,
    interactive: int,
    bulk: int,
    expected: int = 0,
    crowded: bool = False,
    room: int | None = None,
) -> Pull:
    """Return what a worker takes next that holds so much.

    `expected` is how much interactive work it may soon hold again; `crowded`: what is free besides seats
    is for interactive work. `room`: how many may be held together for the interactive ones not to be slowed down;
    None: any number.
    """
    free = max(0, seats - interactive - bulk)
    if not free:
        return Pull((INTERACTIVE,), 0)
    if (owed := shares.guaranteed(seats) - bulk) > 0:
        return Pull((BULK, INTERACTIVE), min(free, owed))
    most = shares.fillable(seats) if room is None else min(room, shares.fillable(seats))
    if not crowded and (idle := most - max(interactive, expected) - bulk) > 0:
        return Pull((INTERACTIVE, BULK), min(free, idle))
    return Pull((INTERACTIVE,), free)


def spare(shares: Shares, *, seats: int, limit: int, interactive: int, bulk: int) -> int:
    """Return how many bulk requests may be put back for interactive ones that wait.

    None while there is room for those, which is below `limit`; and never bulk work's own part of `seats`.
    """
    if interactive + bulk < limit:
        return 0
    return max(0, bulk - shares.guaranteed(seats))


# What is reckoned from step times wavers.
_EXCESS = 1.25


def excess(shares: Shares, *, seats: int, interactive: int, bulk: int, room: int | None) -> int:
    """Return how many bulk requests are to be put back for the interactive ones that run not to be slowed down."""
    if not interactive or room is None or interactive + bulk <= _EXCESS * room:
        return 0
    return max(0, min(interactive + bulk - room, bulk - shares.guaranteed(seats)))
