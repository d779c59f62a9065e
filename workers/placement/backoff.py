"""When a model whose load failed may be tried again, and when it is given up."""

from __future__ import annotations

from workers.placement.facts import LoadFailures
from workers.placement.limits import Limits


def may_retry_at(failures: LoadFailures, limits: Limits) -> float:
    """Return when the next load may begin. It waits twice as long after each failure."""
    doublings = min(max(0, failures.count - 1), 32)
    wait: float = limits.backoff_s * 2.0**doublings
    return failures.last_at + min(wait, limits.backoff_max_s)


def hopeless(failures: LoadFailures, limits: Limits) -> bool:
    return failures.permanent or failures.count >= limits.give_up_after
