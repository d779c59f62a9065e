"""How long an engine's steps take by how many requests share them, learnt while it runs. Pure.

A step takes about `base + each × requests`. On a GPU that waits for its memory `each` is
next to nothing; on a CPU it soon is most of it. The line is fitted through means of step
times, one mean for each doubling of the number of requests, so that a long time at one
load forgets nothing of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

_KNOWN_AFTER = 16
# As if over so many steps: slow enough for single long ones, which read a prompt, to matter little.
_MEMORY = 64
_ODD = 3.0


@dataclass(slots=True)
class _Mean:
    steps: int = 0
    requests: float = 0.0
    took_s: float = 0.0

    def note(self, requests: int, took_s: float) -> None:
        self.steps += 1
        part = 1 / min(self.steps, _MEMORY)
        if self.steps > _KNOWN_AFTER:
            took_s = min(took_s, _ODD * self.took_s)
        self.requests += part * (requests - self.requests)
        self.took_s += part * (took_s - self.took_s)


class StepTimes:
    """Noted by one thread, read by any."""

    def __init__(self) -> None:
        self._means: dict[int, _Mean] = {}

    def note(self, requests: int, took_s: float) -> None:
        """Take in one step in which so many requests were."""
        if requests > 0:
            self._means.setdefault(requests.bit_length(), _Mean()).note(requests, took_s)

    def room(self, requests: int, slowdown: float) -> int | None:
        """Return how many may share a step for it to take `slowdown` times as long as with `requests` alone.

        None where others make no difference, or too little was seen to tell.
        """
        known = [mean for mean in list(self._means.values()) if mean.steps >= _KNOWN_AFTER]
        if len(known) < 2:
            return None
        middle = sum(mean.requests for mean in known) / len(known)
        usual_s = sum(mean.took_s for mean in known) / len(known)
        spread = sum((mean.requests - middle) ** 2 for mean in known)
        each_s = sum((mean.requests - middle) * (mean.took_s - usual_s) for mean in known) / spread
        alone_s = usual_s + each_s * (requests - middle)
        if each_s <= 0 or alone_s <= 0:
            return None
        return requests + int((slowdown - 1) * alone_s / each_s)
