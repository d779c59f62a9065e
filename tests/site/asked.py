"""What is asked of each model, and what the loader remembers of that from tick to tick."""

from __future__ import annotations

from collections import defaultdict, deque

from tests.site.machines import Request
from workers.placement.facts import Demand


class Asked:
    """The queues of all models, and the memory behind `Demand.peak` and its like."""

    def __init__(self, peak_window_s: float) -> None:
        self.queues: dict[str, deque[Request]] = defaultdict(deque)
        self.last_request_at: dict[str, float] = {}
        self.scaled_at: dict[str, float] = {}
        self._peak_window_s = peak_window_s
        self._peaks: dict[str, deque[tuple[float, int]]] = defaultdict(deque)

    def demand(self, model: str, running: int, now: float) -> Demand:
        queue = self.queues[model]
        interactive = [request for request in queue if not request.bulk]
        bulk = [request for request in queue if request.bulk]
        return Demand(
            model=model,
            interactive=len(interactive),
            bulk=len(bulk),
            interactive_oldest_s=now - interactive[0].arrived_at if interactive else 0.0,
            bulk_oldest_s=now - bulk[0].arrived_at if bulk else 0.0,
            last_request_at=self.last_request_at.get(model),
            peak=self._peak(model, running + len(queue), now),
            scaled_at=self.scaled_at.get(model),
        )

    def _peak(self, model: str, current: int, now: float) -> int:
        """Return the largest number of the window: what is smaller and older than a later one is forgotten."""
        window = self._peaks[model]
        while window and window[-1][1] <= current:
            window.pop()
        window.append((now, current))
        while window[0][0] < now - self._peak_window_s:
            window.popleft()
        return window[0][1]
