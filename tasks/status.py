"""The state of the whole installation as one document: `celerity status --json` and /admin/status.

`document` is a pure function from facts; `read` gathers the facts from Redis. The
shape is part of what operators rely on: keys are added, never renamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import redis

from tasks import keys
from tasks.nodes import Node, NodeStore, redis_time
from tasks.queues import Priority, model_queue, queue_list
from tasks.replicas import ReplicaFacts, ReplicaState, ReplicaStore
from workers.registry import ModelSpec, Registry


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What waits for one model. `oldest_s` is the age of its oldest request, None when nothing waits."""

    interactive: int = 0
    bulk: int = 0
    oldest_s: float | None = None


def read(client: redis.Redis, registry: Registry) -> dict[str, Any]:
    """Raises redis.RedisError."""
    return document(
        models=list(registry.models.values()),
        replicas=ReplicaStore(client).all(),
        nodes=NodeStore(client).all(),
        queues=read_queues(client, registry.models),
    )


def document(
    *,
    models: Sequence[ModelSpec],
    replicas: Sequence[ReplicaFacts],
    nodes: Sequence[Node],
    queues: Mapping[str, QueueFacts],
) -> dict[str, Any]:
    return {
        "models": [
            _model(
                spec, [facts for facts in replicas if facts.model == spec.id], nodes, queues.get(spec.id, QueueFacts())
            )
            for spec in models
        ],
        "nodes": [_node(node, replicas) for node in nodes],
    }


def model_state(model: str, replicas: Iterable[ReplicaFacts], nodes: Iterable[Node]) -> str:
    """Sum up what `model`'s replicas, and the nodes that start them, say of it.

    1. One replica that is ready makes the model ready.
    2. A replica that loads, or a process that was started and has not spoken yet, makes it loading.
    3. A node that gave the model up, or a replica that failed, makes it failed.
    4. Else it is not loaded; a replica that drains no longer counts.
    """
    states = {facts.state for facts in replicas}
    healthy = [node.facts for node in nodes if node.healthy]
    if ReplicaState.READY in states:
        return "ready"
    spoken = {facts.id for facts in replicas}
    launched = {id_ for facts in healthy for id_, of in facts.launched.items() if of == model}
    if ReplicaState.STARTING in states or launched - spoken:
        return "loading"
    if ReplicaState.FAILED in states or any(model in facts.failed for facts in healthy):
        return "failed"
    return "unloaded"


def read_queues(client: redis.Redis, models: Iterable[str]) -> dict[str, QueueFacts]:
    """Count what waits for each of `models`, and find out since when."""
    names = list(models)
    lists = [queue_list(model_queue(name), priority) for name in names for priority in Priority]
    pipe = client.pipeline(transaction=False)
    for key in lists:
        pipe.llen(key)
        # Kombu pushes on the left and pops on the right.
        pipe.lindex(key, -1)
    replies = pipe.execute()
    lengths = dict(zip(lists, replies[::2], strict=True))
    since = _admitted(client, dict(zip(lists, replies[1::2], strict=True)))
    now = redis_time(client)
    facts = {}
    for name in names:
        interactive, bulk = (queue_list(model_queue(name), priority) for priority in Priority)
        waiting = [since[key] for key in (interactive, bulk) if key in since]
        oldest_s = max(0.0, now - min(waiting)) if waiting else None
        facts[name] = QueueFacts(lengths[interactive], lengths[bulk], oldest_s)
    return facts


def _admitted(client: redis.Redis, oldest: Mapping[str, bytes | None]) -> dict[str, float]:
    """Return when the request of each message was accepted; without those whose record is gone."""
    ids = {key: request_id for key, raw in oldest.items() if raw and (request_id := _request_id(raw))}
    if not ids:
        return {}
    pipe = client.pipeline(transaction=False)
    for request_id in ids.values():
        pipe.hget(keys.request(request_id), "admitted_ms")
    return {key: float(ms) / 1000 for key, ms in zip(ids, pipe.execute(), strict=True) if ms}


def _request_id(message: bytes) -> str | None:
    """Return the task id, which is the request's; None for what is no message of ours."""
    try:
        return str(orjson.loads(message)["headers"]["id"])
    except (ValueError, KeyError, TypeError):
        return None


def _model(spec: ModelSpec, replicas: list[ReplicaFacts], nodes: Sequence[Node], queue: QueueFacts) -> dict[str, Any]:
    why = next((node.facts.failed[spec.id] for node in nodes if spec.id in node.facts.failed), None)
    state = model_state(spec.id, replicas, nodes)
    reason = {"reason": why} if state == "failed" and why is not None else {}
    return {
        "id": spec.id,
        "state": state,
        **reason,
        "pinned": spec.pinned,
        "aliases": list(spec.aliases),
        "queue": {
            "interactive": queue.interactive,
            "bulk": queue.bulk,
            "oldest_s": None if queue.oldest_s is None else round(queue.oldest_s, 1),
        },
        "replicas": [_replica(facts) for facts in replicas],
    }


def _replica(facts: ReplicaFacts) -> dict[str, Any]:
    used = facts.last_used_at
    return {
        "id": facts.id,
        "node": facts.node,
        "device": facts.device,
        "state": facts.state.value,
        "rotation": facts.rotation.value,
        "pid": facts.pid,
        "in_flight": facts.in_flight,
        "memory_mib": facts.memory_mib,
        "last_used_at": None if used is None else datetime.fromtimestamp(used, UTC).isoformat(timespec="milliseconds"),
    }


def _node(node: Node, replicas: Sequence[ReplicaFacts]) -> dict[str, Any]:
    devices = []
    for device in node.facts.devices:
        on_it = [facts for facts in replicas if (facts.node, facts.device) == (node.facts.id, device.id)]
        devices.append(
            {
                "id": device.id,
                "kind": device.kind.value,
                "total_mib": device.total_mib,
                "free_mib": device.free_mib,
                "reserved_mib": sum(facts.memory_mib for facts in on_it),
                "name": device.name,
                "unknown": device.unknown or None,
                "foreign": None if device.foreign is None else [asdict(holder) for holder in device.foreign],
            }
        )
    return {
        "id": node.facts.id,
        "state": "healthy" if node.healthy else "dead",
        "heartbeat_age_s": round(node.heartbeat_age_s, 1),
        "devices": devices,
    }
