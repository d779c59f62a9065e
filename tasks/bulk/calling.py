"""What `celery call` needs to know of the tasks that users call by name: where they go, and how they fail.

Celery calls `route` in the process that publishes, which is the only one that knows what a
relative path is relative to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.errors import ServingError, error_of
from tasks.messages import Endpoint
from tasks.queues import BATCH_QUEUE

CHAT, COMPLETE, EMBED, BATCH = "tasks.chat", "tasks.complete", "tasks.embed", "tasks.batch"
ENDPOINTS = {CHAT: Endpoint.CHAT, COMPLETE: Endpoint.COMPLETION, EMBED: Endpoint.EMBEDDING}


def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> dict[str, Any] | None:
    """Named by Celery's `task_routes`. Prompts are kept out of what monitors are shown of a message."""
    if name not in ENDPOINTS and name != BATCH:
        return None
    if name == BATCH and isinstance(kwargs, dict) and isinstance(kwargs.get("input"), str):
        kwargs["input"] = str(Path(kwargs["input"]).expanduser().absolute())
    return {"queue": BATCH_QUEUE, "argsrepr": "-", "kwargsrepr": "-"}


def as_task_error(error: ServingError) -> ServingError:
    """Return the error with its code in its text: that is all of it that `celery result` shows."""
    return error_of(error.code, f"{error.code}: {error.message}", error.param)
