"""Model name → queue name, and priority → Redis list. Nothing else knows the rules."""

from __future__ import annotations

from enum import IntEnum

# kombu keeps one Redis list a priority step: the bare queue name for step 0, and
# the name, this separator and the step for any other. 0 is served first.
_PRIORITY_SEPARATOR = "\x06\x16"
PRIORITY_STEPS = (0, 9)

LOADER_QUEUE = "loader"
BATCH_QUEUE = "batch"


class Priority(IntEnum):
    """Who goes first when both wait. A lower number is served first."""

    INTERACTIVE = 0
    BULK = 9


def model_queue(model: str) -> str:
    return f"model.{model}"


def node_queue(node: str) -> str:
    return f"node.{node}"


def queue_list(queue: str, priority: Priority) -> str:
    """Return the key of the Redis list that holds `queue`'s messages of that priority."""
    return queue if priority is Priority.INTERACTIVE else f"{queue}{_PRIORITY_SEPARATOR}{priority.value}"
