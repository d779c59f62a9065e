"""Has somebody look at once: the loader, or the agent of a node. Both look by themselves every few seconds anyway."""

from __future__ import annotations

import secrets
from typing import Any

import redis

from tasks.envelope import envelope
from tasks.queues import LOADER_QUEUE, Priority, node_queue
from tasks.scripts import script

TICK = "tasks.loader.tick"
LOOK = "tasks.node.look"
_LIMIT_S = 60.0


def nudge(client: redis.Redis) -> None:
    """Have the loader look at everything now. Raises redis.RedisError."""
    _ask(client, LOADER_QUEUE, TICK)


def wake_node(client: redis.Redis, node: str) -> None:
    """Have the agent of `node` look at its orders now. Raises redis.RedisError."""
    _ask(client, node_queue(node), LOOK)


def _ask(client: redis.Redis, queue: str, task: str) -> None:
    id_ = secrets.token_hex(16)
    message = envelope(
        task=task, task_id=id_, tag=id_, args=(), queue=queue, priority=Priority.INTERACTIVE, time_limit_s=_LIMIT_S
    )
    command: Any = client.register_script(script("ask"))
    command(keys=[queue], args=[message])
