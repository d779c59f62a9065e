"""The Celery task class whose body is a coroutine, run by `EnginePool` before Celery's tracer sees the task."""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self

from celery import Task
from celery.exceptions import Reject


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a coroutine ended."""

    value: Any = None
    error: BaseException | None = None

    @classmethod
    def of(cls, task: asyncio.Task[Any]) -> Self:
        """Return how a task that is done has ended."""
        if task.cancelled():
            return cls(error=asyncio.CancelledError())
        if error := task.exception():
            return cls(error=error)
        return cls(value=task.result())


_outcome: ContextVar[Outcome] = ContextVar("outcome")


def with_outcome(outcome: Outcome, call: Callable[..., Any], *args: Any) -> Any:
    """Return `call(*args)`; `outcome` is what every `CoroutineTask` that it calls returns or raises."""
    token = _outcome.set(outcome)
    try:
        return call(*args)
    finally:
        _outcome.reset(token)


class CoroutineTask(Task):  # type: ignore[misc]  # celery ships no types
    """`run` is an `async def`; it has no `self.request`, since it runs on another thread than Celery."""

    abstract = True
    Request = "workers.host.task_request:TaskRequest"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outcome = _outcome.get()
        if isinstance(outcome.error, CancelledError):
            # Broken off before it could see to its request: somebody else must.
            raise Reject("cancelled", requeue=True)
        if outcome.error is None:
            return outcome.value
        if isinstance(outcome.error, Exception):
            raise outcome.error
        # Celery reads a BaseException as an order to stop the worker.
        raise RuntimeError(f"{type(outcome.error).__name__}: {outcome.error}")


async def body_of(task: Any, request: dict[str, Any]) -> Any:
    """Run the task's own coroutine. Wrong arguments fail the task, not the hub that took it in."""
    if not isinstance(task, CoroutineTask):
        return None  # one of Celery's own: the tracer runs its body, on the hub
    return await task.run(*request["args"], **request["kwargs"])
