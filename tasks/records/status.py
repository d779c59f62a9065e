"""The state of the whole installation as one document: `celerity status --json` and /admin/status.

`document` is a pure function from facts; `read` gathers the facts from Redis. The
shape is part of what operators rely on: keys are added, never renamed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import redis

from tasks import keys
from tasks.queues import Priority
from tasks.records import waiting
from tasks.records.load_failures import LoadFailureStore
from tasks.records.nodes import Node, NodeStore, redis_time
from tasks.records.orders import Order, OrderStore
from tasks.records.outlooks import OutlookStore
from tasks.records.presences import Presence, presences
from tasks.records.replicas import ReplicaFacts, ReplicaState, ReplicaStore
from tasks.records.waiting import NOTHING, Waiting
from tasks.records.wishes import Wish, WishStore
from workers.placement.actions import Explanation, Outlook
from workers.placement.facts import LoadFailures
from workers.registry import ModelSpec, Registry, Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What Redis holds at one moment, `now`, by Redis' clock."""

    now: float
    models: Sequence[ModelSpec] = ()
    rollouts: Mapping[str, Rollout] = field(default_factory=dict)
    replicas: Sequence[ReplicaFacts] = ()
    orders: Sequence[Order] = ()
    nodes: Sequence[Node] = ()
    waiting: Mapping[str, Mapping[Priority, Waiting]] = field(default_factory=dict)
    outlooks: Mapping[str, Explanation] = field(default_factory=dict)
    failures: Mapping[str, LoadFailures] = field(default_factory=dict)
    wishes: Mapping[str, Wish] = field(default_factory=dict)
    automatic: bool = True
    loader_ran_at: float | None = None
    """When the last whole tick of any loader began; None: not within the hour."""


def read(client: redis.Redis, registry: Registry) -> dict[str, Any]:
    """Raises redis.RedisError."""
    return document(gather(client, registry))


def gather(client: redis.Redis, registry: Registry) -> Known:
    """Raises redis.RedisError."""
    now, names, wishes = redis_time(client), list(registry.models), WishStore(client)
    # The tick's time goes before what it wrote: what is read after it is at least as new.
    ran_at = loader_ran_at(client)
    return Known(
        now=now,
        models=list(registry.models.values()),
        rollouts=registry.rollouts,
        replicas=ReplicaStore(client).all(),
        orders=OrderStore(client).all(),
        nodes=NodeStore(client).all(needs=False),
        waiting=waiting.read(client, names, now),
        outlooks=OutlookStore(client).latest(names, refusals=True),
        failures={failures.model: failures for failures in LoadFailureStore(client).all()},
        wishes=wishes.of(names),
        automatic=wishes.automatic,
        loader_ran_at=ran_at,
    )


def loader_ran_at(client: redis.Redis) -> float | None:
    """Return when the last whole tick of any loader began, by Redis' clock; None: not within the hour."""
    text = cast("bytes | None", client.get(keys.LOADER_RAN))
    return float(text) if text else None


def document(known: Known) -> dict[str, Any]:
    there = presences(known.replicas, known.orders, known.nodes, known.now)
    of: dict[str, list[Presence]] = defaultdict(list)
    reserved_mib = Counter[tuple[str, str]]()
    for one in there:
        of[one.model].append(one)
        for device in one.devices:
            reserved_mib[one.node, device] += one.mib
    models = [_model(spec, of[spec.id], known) for spec in known.models]
    states = {model["id"]: model["state"] for model in models}
    ran_at = known.loader_ran_at
    return {
        "models": models,
        "nodes": [_node(node, reserved_mib, known.now) for node in known.nodes],
        "rollouts": [_rollout(alias, rollout, states) for alias, rollout in known.rollouts.items()],
        "loader": {
            "automatic": known.automatic,
            "last_run_age_s": None if ran_at is None else round(max(0.0, known.now - ran_at), 1),
        },
    }


def model_state(there: Iterable[Presence], failures: LoadFailures | None, outlook: Outlook | None) -> str:
    """Sum up what a model's replicas, and the loader, say of it.

    1. One replica that takes work makes the model ready.
    2. One that loads or wakes, or was ordered and has not spoken yet, makes it loading.
    3. One that sleeps makes it sleeping.
    4. A model that was given up, that nothing here can run, or whose replica just failed is failed.
    5. Else it is not loaded; a replica that drains no longer counts.
    """
    states = {one.heading for one in there}
    if ReplicaState.READY in states:
        return "ready"
    if ReplicaState.STARTING in states:
        return "loading"
    if ReplicaState.SLEEPING in states:
        return "sleeping"
    given_up = failures is not None and (failures.given_up or failures.permanent)
    if given_up or outlook in (Outlook.FAILED, Outlook.CANNOT_RUN) or ReplicaState.FAILED in states:
        return "failed"
    return "unloaded"


def _model(spec: ModelSpec, there: list[Presence], known: Known) -> dict[str, Any]:
    levels = known.waiting.get(spec.id, {})
    oldest_s = waiting.oldest_s(levels)
    failures, explanation = known.failures.get(spec.id), known.outlooks.get(spec.id)
    state = model_state(there, failures, explanation.outlook if explanation else None)
    wish = known.wishes.get(spec.id)
    return {
        "id": spec.id,
        "state": state,
        **_explained(state, explanation, failures),
        "wish": wish.value if wish else None,
        "pinned": spec.pinned,
        "aliases": list(spec.aliases),
        "queue": {
            "interactive": levels.get(Priority.INTERACTIVE, NOTHING).count,
            "bulk": levels.get(Priority.BULK, NOTHING).count,
            "oldest_s": None if oldest_s is None else round(oldest_s, 1),
        },
        "failures": None if failures is None else _failures(failures),
        "replicas": [_replica(one) for one in there],
    }


def _explained(state: str, explanation: Explanation | None, failures: LoadFailures | None) -> dict[str, Any]:
    """Say why a model is not served, as far as anybody knows."""
    if state == "ready" or explanation is None:
        reason = failures.reason if failures is not None and state != "ready" else None
        outlook = "serving" if state == "ready" else None
        return {"outlook": outlook, "reason": reason, "progress_percent": None, "code": None, "instead": None}
    progress = explanation.progress if state == "loading" else None
    return {
        "outlook": explanation.outlook.value,
        "reason": explanation.text,
        "progress_percent": None if progress is None else round(100 * progress),
        "code": explanation.code,
        "instead": explanation.instead,
    }


def _failures(failures: LoadFailures) -> dict[str, Any]:
    return {
        "count": failures.count,
        "reason": failures.reason,
        "last_at": _moment(failures.last_at),
        "nodes": sorted(failures.nodes),
        "given_up": failures.given_up,
    }


def _replica(one: Presence) -> dict[str, Any]:
    facts = one.facts
    used_at = None if facts is None or facts.last_used_at is None else facts.last_used_at - facts.clock_ahead_s
    return {
        "id": one.id,
        "node": one.node,
        "device": ",".join(one.devices),
        "state": one.state.value,
        "told": None if one.told is None else one.told.value,
        "why": one.why,
        "rotation": facts.rotation.value if facts else "in",
        "pid": facts.pid if facts else None,
        "in_flight": facts.in_flight if facts else 0,
        "memory_mib": facts.memory_mib if facts else 0,
        "reserved_mib": one.mib,
        "last_used_at": None if used_at is None else _moment(used_at),
    }


def _node(node: Node, reserved_mib: Mapping[tuple[str, str], int], now: float) -> dict[str, Any]:
    facts = node.facts
    devices = []
    for device in facts.devices:
        devices.append(
            {
                "id": device.id,
                "kind": device.kind.value,
                "total_mib": device.total_mib,
                "free_mib": device.free_mib,
                "reserved_mib": reserved_mib.get((facts.id, device.id), 0),
                "name": device.name,
                "unknown": device.unknown or None,
                "foreign": None if device.foreign is None else [asdict(holder) for holder in device.foreign],
            }
        )
    return {
        "id": facts.id,
        "state": "healthy" if node.healthy else "dead",
        "heartbeat_age_s": round(node.heartbeat_age_s, 1),
        "problem": facts.problem or None,
        "reliability": {
            "score": round(facts.reliability.score(now), 2),
            "trusted": facts.reliability.trusted(now),
        },
        "devices": devices,
    }


def _rollout(alias: str, rollout: Rollout, states: Mapping[str, str]) -> dict[str, Any]:
    """Name the build that answers for `alias` now: the one it should lead to, or else the one before; None: neither."""
    builds = (rollout.desired, rollout.previous)
    serves = next((build for build in builds if build is not None and states.get(build) == "ready"), None)
    return {"alias": alias, "desired": rollout.desired, "previous": rollout.previous, "serves": serves}


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
