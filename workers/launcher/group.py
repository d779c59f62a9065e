"""Ends a process group at once, and still lets it tidy up what only it knows of.

A killed engine leaves named semaphores and shared memory behind. Python's
`multiprocessing` starts a resource tracker for that: it removes them when everybody else
has gone, unless it is killed with them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import suppress

import psutil

_TRACKER = "multiprocessing.resource_tracker"
_TIDY_WITHIN_S = 2.0
_POLL_S = 0.02


def kill(group: int) -> None:
    """Kill everybody in `group` but resource trackers. Does not wait."""
    for process in members(group):
        with suppress(psutil.NoSuchProcess):
            if not _is_tracker(process):
                process.kill()


def finish(group: int) -> None:
    """Kill `group` to the last, after giving its trackers a moment to do their work.

    As long as anybody of it is left, reaped or not, the number cannot be another group's.
    """
    kill(group)
    deadline = time.monotonic() + _TIDY_WITHIN_S
    while time.monotonic() < deadline and any(True for _ in members(group)):
        time.sleep(_POLL_S)
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def members(group: int) -> Iterator[psutil.Process]:
    """Yield those of `group` that run; zombies do not."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def private_bytes(groups: Collection[int]) -> dict[int, int]:
    """Return how much memory each of `groups` holds that the kernel cannot drop: without files that are mapped.

    Shared memory is not counted, and what a fork has not changed yet is counted twice.
    """
    held = dict.fromkeys(groups, 0)
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if (number := os.getpgid(process.pid)) in held:
                info = process.memory_info()
                held[number] += max(0, info.rss - getattr(info, "shared", 0))
    return held


def _is_tracker(process: psutil.Process) -> bool:
    return any(_TRACKER in argument for argument in process.cmdline())
