"""A Celery message, written without kombu's publisher.

`Task.apply_async` costs 0.3–0.45 ms and knows nothing of the queue's length. A gateway
therefore writes the message itself, in the one script that also checks the queue and
records the request (`tasks.requests.request_store`). The bytes are those of Celery's task
protocol 2, so any Celery worker, Flower and `celery inspect` understand them; a test
compares them with what `apply_async` writes.
"""

from __future__ import annotations

from typing import Any

import orjson

from tasks.queues import Priority

INFER = "tasks.infer"
_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def envelope(
    *, task: str, task_id: str, tag: str, args: tuple[str, ...], queue: str, priority: Priority, time_limit_s: float
) -> bytes:
    """Return the message that runs `task(*args)` on `queue`; equal arguments give equal bytes.

    `tag` tells deliveries apart. `args` stand in clear in Redis, in Flower and in events:
    ids only, never a prompt.
    The soft limit is `time_limit_s`; the hard one follows 10 s later.
    """
    headers: dict[str, Any] = {
        "lang": "py",
        "task": task,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [time_limit_s + 10, time_limit_s],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": "-",
        "kwargsrepr": "-",
        "origin": "celerity",
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    properties = {
        "correlation_id": task_id,
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": priority.value,
        "body_encoding": "utf-8",
        "delivery_tag": tag,
    }
    return orjson.dumps(
        {
            "body": orjson.dumps([args, {}, _EMBED]).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        }
    )
