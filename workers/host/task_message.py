"""What stands in a queue → the message that Celery is given. Anybody can write to a queue."""

from __future__ import annotations

import re
from typing import Any

import orjson

# Of a number this long orjson keeps less than Celery would, and of an object with a type it makes none.
_OWN_READING = re.compile(rb'\d{16}|"__type__"')


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


def plain_body(body: object, content_type: str | None) -> Any:
    """Return what a message's body says; None where Celery's own reading of it could differ, or be refused."""
    if content_type != "application/json" or not isinstance(body, bytes) or _OWN_READING.search(body):
        return None
    try:
        return orjson.loads(body)
    except ValueError:
        return None
