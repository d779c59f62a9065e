"""Calls that block in C (a database, a disk), made where they cannot stop gevent's loop.

One that waits for a lock would stop every stream of the process. Where the process does
not run under gevent they are made in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import gevent
from gevent import monkey
from gevent.threadpool import ThreadPool

T = TypeVar("T")


def run(work: Callable[[], T]) -> T:
    """Return what `work` returns, or raise what it raises. Which thread it runs on is open."""
    return on(gevent.get_hub().threadpool, work) if under_gevent() else work()


def on(pool: Any, work: Callable[[], T]) -> T:
    """As `run`, on a thread of `pool`."""
    results: list[T] = []
    error: Exception | None = pool.apply(_attempt, (work, results))
    if error is not None:
        raise error
    return results[0]


def own_thread() -> Any:
    """Return a pool of one thread, which is begun when it is needed."""
    return ThreadPool(1)


def under_gevent() -> bool:
    patched: bool = monkey.is_module_patched("threading")
    return patched


def _attempt(work: Callable[[], T], results: list[T]) -> Exception | None:
    """Return what `work` raises: gevent would print it as nobody's."""
    try:
        results.append(work())
    except Exception as error:  # noqa: BLE001 - raised again in the thread that asked
        return error
    return None
