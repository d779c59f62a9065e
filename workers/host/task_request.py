"""What Celery keeps of a task that a worker has in hand, for a `CoroutineTask`. Named by its `Request`."""

from __future__ import annotations

from typing import Any

from celery.worker.request import Request


class TaskRequest(Request):  # type: ignore[misc]  # celery ships no types
    """Its message's body is read once; an event that nobody asks for is not made."""

    @property
    def body(self) -> Any:
        return self._payload

    @property
    def content_type(self) -> None:
        """None: Celery's tracer, which is given the body as it stands here, has nothing to read."""
        return

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - the name is Celery's
        if not (groups := getattr(self._eventer, "groups", None)) or "task" in groups:
            super().send_event(type, **fields)
