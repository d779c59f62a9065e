"""How far a node can be relied on, from what went well and wrong on it, counted with fading memory.

The score is successes / (successes + failures + 1), and both counts halve every hour. By
itself it would bar a new node (0 / 1), and one that had nothing to do overnight. So a node
is barred only where the score is low *and* something went wrong there lately.
"""

from __future__ import annotations

from dataclasses import dataclass

HALF_LIFE_S = 3600.0
TRUSTED_FROM = 0.7
# One failure is forgotten after an hour, seven after four.
FORGOTTEN_BELOW = 0.5


@dataclass(frozen=True, slots=True)
class Reliability:
    """Counts as they stood at `at`. What counts is the node's doing: a load, a launch, a request it broke."""

    successes: float = 0.0
    failures: float = 0.0
    at: float = 0.0

    def faded(self, now: float) -> Reliability:
        """Return the counts as they stand at `now`; a clock that went back fades nothing."""
        factor: float = 0.5 ** (max(0.0, now - self.at) / HALF_LIFE_S)
        return Reliability(self.successes * factor, self.failures * factor, max(now, self.at))

    def succeeded(self, now: float) -> Reliability:
        faded = self.faded(now)
        return Reliability(faded.successes + 1, faded.failures, faded.at)

    def failed(self, now: float) -> Reliability:
        faded = self.faded(now)
        return Reliability(faded.successes, faded.failures + 1, faded.at)

    def score(self, now: float) -> float:
        faded = self.faded(now)
        return faded.successes / (faded.successes + faded.failures + 1)

    def trusted(self, now: float) -> bool:
        """Say whether the node gets work as any other does, and not only now and then a probe."""
        faded = self.faded(now)
        return faded.failures < FORGOTTEN_BELOW or self.score(now) >= TRUSTED_FROM
