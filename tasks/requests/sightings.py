"""When somebody who was not seen is believed to be dead. Pure: the time is an argument.

One look is not enough: a Redis that froze for a moment, or was restarted, has nobody's
latest sign of life. So a death counts when two looks some time apart agree, and none
counts for a while after our own connection was disturbed.
"""

from __future__ import annotations

from collections.abc import Iterable

QUIET_S = 3.0


class Sightings:
    """What one observer has seen. `now` is a time of the monotonic clock."""

    def __init__(self, *, apart_s: float, now: float) -> None:
        """`apart_s` is the least time between the two looks. It begins as if just disturbed."""
        self._apart_s = apart_s
        self._missed_since: dict[str, float] = {}
        self._quiet_until = now + QUIET_S

    def disturbed(self, now: float) -> None:
        """Our own connection failed or was slow: what was seen may be old."""
        self._missed_since.clear()
        self._quiet_until = now + QUIET_S

    def certain(self, missing: Iterable[str], now: float) -> frozenset[str]:
        """Take in one look; return those of `missing` that are dead."""
        if now < self._quiet_until:
            return frozenset()
        self._missed_since = {name: self._missed_since.get(name, now) for name in missing}
        return frozenset(name for name, since in self._missed_since.items() if now - since >= self._apart_s)
