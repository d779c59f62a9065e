"""The tasks that a pool holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from workers.host.appetite import is_bulk


@dataclass(eq=False)
class Job:
    """One task from acceptance to its last callback. `pid` only tells jobs apart."""

    pid: int
    target: Callable[..., Any]
    args: tuple[Any, ...]
    callback: Callable[..., Any] | None
    timeout_callback: Callable[..., Any] | None
    end: Callable[[int, int | None], None]
    """Breaks it off, given its pid."""
    started_at: float = field(default_factory=time.monotonic)
    ended_at: float = 0.0
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    task: asyncio.Task[Any] | None = None
    stop_reason: str | None = None
    silent: bool = False

    @property
    def request(self) -> dict[str, Any]:
        """Celery's request: whatever its tracer is told of the task."""
        request: dict[str, Any] = self.args[2]
        return request

    @property
    def bulk(self) -> bool:
        return is_bulk((self.request.get("delivery_info") or {}).get("priority"))

    def terminate(self, signal: int | None = None) -> None:
        """Celery calls this on a revoke; it does the bookkeeping itself."""
        self.end(self.pid, signal)


class Jobs:
    """By pid; counts how many are bulk work. Only the thread of Celery's hub touches it."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self.bulk = 0

    @property
    def interactive(self) -> int:
        return len(self._jobs) - self.bulk

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: Job) -> bool:
        return job.pid in self._jobs

    def all(self) -> list[Job]:
        return list(self._jobs.values())

    def get(self, pid: int) -> Job | None:
        return self._jobs.get(pid)

    def add(self, job: Job) -> None:
        self._jobs[job.pid] = job
        self.bulk += job.bulk

    def remove(self, job: Job) -> bool:
        """Return whether it was there."""
        if self._jobs.pop(job.pid, None) is None:
            return False
        self.bulk -= job.bulk
        return True
