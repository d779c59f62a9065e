"""How full vLLM's scheduler is, and that it steps at all, as it says itself after each step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from workers.engine.step_times import StepTimes

# A longer pause is none between steps: nothing ran, or another process had the machine.
_LONGEST_STEP_S = 1.0


class Gauges:
    """Stands in for vLLM's stat loggers. vLLM calls `record` once a step, on the engine's loop; anyone may read.

    The numbers are those of the last step: they stand still while nothing runs.
    """

    def __init__(self) -> None:
        self.after_step: Callable[[], None] = self.ignore
        self.steps = 0
        self.running = 0
        self.waiting = 0
        self.kv_usage = 0.0
        self.step_times = StepTimes()
        self._stepped_at = float("-inf")

    def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
        self.steps += 1
        self.after_step()
        if scheduler_stats is not None:
            now = time.monotonic()
            took_s, self._stepped_at = now - self._stepped_at, now
            if self.running and took_s < _LONGEST_STEP_S:
                self.step_times.note(scheduler_stats.num_running_reqs, took_s)
            self.running = scheduler_stats.num_running_reqs
            self.waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self.kv_usage = scheduler_stats.kv_cache_usage

    def ignore(self, *_: Any, **__: Any) -> None:
        """The rest of vLLM's interface: nothing is logged."""

    log = log_engine_initialized = record_sleep_state = record_admission_rejection = ignore
