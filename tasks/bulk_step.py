"""The worker of bulk work: its tasks, and the feeder, which a bootstep runs on a thread of its own.

`celery -A tasks.bulk_step worker -P solo -Q batch`: an app that is loaded from here has the
step, and the tasks, which no other worker has to import a database for. The worker's own
thread runs them; they only hand in what users call by name.
"""

from __future__ import annotations

import functools
from typing import Any

from celery import bootsteps, states

from tasks import bulk_tasks
from tasks.app import app, settings
from tasks.bulk.calling import as_task_error
from tasks.bulk.feeder import Feeder
from tasks.bulk.records import Outcome
from tasks.errors import error_of
from tasks.openai.faces import face_of

__all__ = ["FeederStep", "app", "bulk_tasks"]

_UNTOLD = {"batch_expired": "The request was not answered within 24 hours."}


class CeleryResults:
    """Where `celery result` looks, and what a monitor is told."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    def store(self, task_id: str, outcome: Outcome, took_s: float | None) -> None:
        if outcome.ok:
            app.backend.store_result(task_id, outcome.body.decode(), states.SUCCESS)
            self._tell("task-succeeded", uuid=task_id, result="-", runtime=took_s)
            return
        code = outcome.code or ""
        error = as_task_error(error_of(code, outcome.message or _UNTOLD.get(code, "")))
        app.backend.store_result(task_id, error, states.FAILURE)
        self._tell("task-failed", uuid=task_id, exception=f"{code} ({face_of(code).status})", traceback=None)

    def _tell(self, event: str, **fields: Any) -> None:
        """Tell whoever watches, through the worker's own connection, which belongs to its main thread."""
        consumer = self._worker.consumer
        dispatcher = getattr(consumer, "event_dispatcher", None)
        if dispatcher is not None and "task" in dispatcher.groups:
            consumer.hub.call_soon(functools.partial(dispatcher.send, event, **fields))


class FeederStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery ships no types
    """Once a process, whatever becomes of the connection to the broker."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._feeder = Feeder(settings, CeleryResults(worker), calls_s=app.conf.result_expires)

    def start(self, worker: Any) -> None:
        self._feeder.start()

    def stop(self, worker: Any) -> None:
        self._feeder.stop()


app.steps["worker"].add(FeederStep)
