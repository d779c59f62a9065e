"""When a replica whose engine keeps failing should take no more requests. Pure: the time is an argument.

    closed ──failures in a row──▶ tripped ──others are there──▶ open ──back-off──▶ probe
      ▲                             │  ▲                          ▲                  │ │
      └──────────success────────────┘  └──nobody else is there──  └────failure───────┘ │
      └───────────────────────────────────success──────────────────────────────────────┘

Only failures of the engine count, never those of a client. A tripped replica goes on
taking requests: whether it may leave is decided in Redis (`tasks.serving.rotation`), since the
last replica of a model must not.
"""

from __future__ import annotations

from enum import StrEnum

FAILURES = 5
FIRST_BACK_OFF_S = 1.0
LONGEST_BACK_OFF_S = 60.0
# So often an open circuit makes sure that somebody else is still there.
_ASK_APART_S = 1.0


class Phase(StrEnum):
    CLOSED = "closed"  # all is well
    TRIPPED = "tripped"  # it fails, and serves on
    OPEN = "open"  # it takes nothing
    PROBE = "probe"  # it takes one request, which decides


class Rotation(StrEnum):
    """Where a replica stands among those that serve its model. The names are in Redis."""

    IN = "in"
    OUT = "out"
    LAST = "last"  # it should be out, and nobody else is in


class Circuit:
    """One replica's. `now` and `began` are times of the monotonic clock."""

    def __init__(self) -> None:
        self._phase = Phase.CLOSED
        self._since = float("-inf")
        self._failures = 0
        self._openings = 0
        self._open_until = 0.0
        self._told = Rotation.IN
        self._asked_at = float("-inf")
        self._failed_at = float("-inf")

    @property
    def rotation(self) -> Rotation:
        """Where Redis has put the replica."""
        return self._told

    @property
    def wish(self) -> Rotation:
        return Rotation.IN if self._phase is Phase.CLOSED else Rotation.OUT

    @property
    def back_off_s(self) -> float:
        """How long the replica takes nothing, this time."""
        doubled: float = FIRST_BACK_OFF_S * 2.0 ** max(0, self._openings - 1)
        return min(doubled, LONGEST_BACK_OFF_S)

    def phase(self, now: float) -> Phase:
        probes = self._phase is Phase.OPEN and now >= self._open_until
        return Phase.PROBE if probes else self._phase

    def limit(self, seats: int, now: float) -> int:
        """Return how many requests the replica may hold, of the `seats` it has. Callable from any thread."""
        match self.phase(now):
            case Phase.OPEN:
                return 0
            case Phase.PROBE:
                return min(1, seats)
            case _:
                return seats

    def note(self, *, ok: bool, began: float, now: float) -> None:
        """Take in how a request ended that had begun at `began`.

        One that began before the latest change says nothing of the time since.
        """
        phase = self.phase(now)
        since = self._open_until if phase is Phase.PROBE else self._since
        if began < since or phase is Phase.OPEN:
            return
        if ok:
            self._failures = self._openings = 0
            if phase is not Phase.CLOSED:
                self._phase, self._since = Phase.CLOSED, now
            return
        self._failures += 1
        self._failed_at = now
        if phase is Phase.PROBE:
            self._open(now)
        elif phase is Phase.CLOSED and self._failures >= FAILURES:
            self._phase = Phase.TRIPPED

    def due(self, now: float) -> bool:
        """Say whether Redis is to be asked for `wish` now."""
        match self.phase(now):
            case Phase.CLOSED:
                return self._told is not Rotation.IN
            case Phase.TRIPPED:
                # Refused once, it asks again only when it has failed again.
                return self._failed_at > self._asked_at and now - self._asked_at >= _ASK_APART_S
            case _:
                return now - self._asked_at >= _ASK_APART_S

    def told(self, rotation: Rotation, now: float) -> None:
        """Take in what Redis answered to `wish`."""
        self._told, self._asked_at = rotation, now
        if rotation is Rotation.OUT and self._phase is Phase.TRIPPED:
            self._open(now)
        elif rotation is Rotation.LAST:
            self._phase = Phase.TRIPPED

    def _open(self, now: float) -> None:
        self._openings += 1
        self._open_until = now + self.back_off_s
        self._phase = Phase.OPEN
