"""What stands in a queue → the message that Celery is given. Anybody can write to a queue."""

from __future__ import annotations

from typing import Any

import orjson


def task_message(item: bytes) -> dict[str, Any] | None:
    """Return a message from a queue; None for anything that Celery could not have put there."""
    try:
        message = orjson.loads(item)
    except ValueError:
        return None
    match message:
        case {
            "body": str(),
            "headers": {"task": str(), "id": str()},
            "properties": {
                "delivery_tag": str(),
                "delivery_info": {"exchange": str(), "routing_key": str()},
            },
        }:
            return dict(message)
    return None
