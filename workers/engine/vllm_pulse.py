"""Whether an engine that has not died still works: a decision over what was seen, second by second."""

from __future__ import annotations

# Of a process that somebody stopped (SIGSTOP, a debugger): seen twice, since Ctrl-Z and
# `fg` of a whole group reach its members one after the other.
_STOPPED_S = 0.8

GPU_STEP_S = 30.0
"""Longer than any step on a GPU, first-time compilation included; vLLM itself has no limit."""
CPU_STEP_S = 300.0
"""A step of 2,048 prompt tokens of a 7B model takes a minute on a CPU of a few cores."""


class Pulse:
    """Asked about once a second."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._steps = 0
        self._stepped_at = 0.0
        self._stopped_at: float | None = None

    def trouble(self, now: float, *, steps: int, unfinished: int, stopped: bool) -> str | None:
        """Return why the engine must be given up, if it must.

        `steps` counts the scheduler's; `unfinished` is how many requests wait for one;
        `stopped` says that one of its processes stands still by a signal.
        """
        if not stopped:
            self._stopped_at = None
        elif self._stopped_at is None:
            self._stopped_at = now
        elif now - self._stopped_at >= _STOPPED_S:
            return "has been stopped by a signal"
        if not unfinished or steps != self._steps:
            self._steps, self._stepped_at = steps, now
        elif now - self._stepped_at >= self._step_s:
            return f"has made no step for {self._step_s:g} s"
        return None
