"""What a dead worker had taken and not acknowledged goes back to its queue.

kombu keeps every message that a worker has taken in a hash of that worker's own
(`tasks.app`), and nobody else looks there: `restore_unacked` is called by whoever has
found out that the worker is dead. It trusts nothing it finds, since anybody can write to
the broker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, cast

import orjson
import redis

from tasks import keys
from tasks.envelope import INFER
from tasks.queues import PRIORITY_STEPS, Priority, queue_list
from tasks.scripts import script

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """A message as kombu remembers it between taking and acknowledging."""

    message: dict[str, Any]
    queue: str

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raise ValueError when `raw` is not what kombu writes."""
        match orjson.loads(raw):
            case [{"headers": {"task": str()}, "properties": {}} as message, _, str(queue)] if queue:
                # Our queues are declared without an exchange, so the routing key is the queue.
                return cls(message, queue)
        raise ValueError("not a message that kombu has taken")

    @property
    def request_id(self) -> str | None:
        """The call that the message asks to be answered; None for any other task."""
        headers = self.message["headers"]
        return str(headers.get("id")) if headers["task"] == INFER else None

    @property
    def list(self) -> str:
        """The Redis list the message came from."""
        given = self.message["properties"].get("priority")
        wanted = given if isinstance(given, int) else PRIORITY_STEPS[0]
        step = max((step for step in PRIORITY_STEPS if step <= wanted), default=PRIORITY_STEPS[0])
        return queue_list(self.queue, Priority(step))

    def redelivered(self) -> bytes:
        """Return the message, marked as kombu marks one that is delivered again."""
        message, properties = self.message, self.message["properties"]
        info = properties.get("delivery_info")
        if isinstance(info, dict):
            properties = properties | {"delivery_info": info | {"redelivered": True}}
        return orjson.dumps(message | {"headers": message["headers"] | {"redelivered": True}, "properties": properties})


def restore_unacked(client: redis.Redis, replica_id: str, skip: Callable[[str], bool]) -> int:
    """Put what `replica_id` held at the front of its queues, oldest first. Returns how many messages that were.

    A message for a call is dropped when `skip` says of its id that it is dealt with.
    Call it again after a redis.RedisError: each message is restored once.
    """
    unacked, index = keys.unacked(replica_id), keys.unacked_index(replica_id)
    held = cast("dict[bytes, bytes]", client.hgetall(unacked))
    order = {tag: place for place, tag in enumerate(cast("list[bytes]", client.zrange(index, 0, -1)))}
    restore = client.register_script(script("restore"))
    restored = 0
    # The youngest first: what is put back last stands at the very front.
    for tag in sorted(held, key=lambda tag: order.get(tag, -1), reverse=True):
        queue, message = _decide(held[tag], replica_id, skip)
        moved = restore([unacked, index, queue], [tag, message])
        restored += int(moved) if message else 0
    # Whatever the index still holds belongs to no message.
    client.delete(index, keys.unacked_mutex(replica_id))
    return restored


def _decide(raw: bytes, replica_id: str, skip: Callable[[str], bool]) -> tuple[str, bytes]:
    """Return the list that gets the message, and the message; empty when it is dropped."""
    try:
        taken = Taken.parse(raw)
        queue, message = taken.list, taken.redelivered()
    except (ValueError, TypeError) as error:
        log.warning(
            "message not restored: it cannot be read",
            extra={"event": "message_dropped", "replica": replica_id, "reason": type(error).__name__},
        )
        return keys.unacked(replica_id), b""
    if (request_id := taken.request_id) is not None and skip(request_id):
        return queue, b""
    return queue, message
