"""What each machine says of itself, in Redis: written by its agent, read by the loader and `celerity status`.

All times are those of Redis' clock, so that machines need not agree on theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import redis

from tasks import keys
from workers.devices import Device, DeviceKind, Holder
from workers.placement.facts import Need
from workers.placement.reliability import Reliability

HEARTBEAT_S = 5.0
# Three beats may be lost before a node counts as dead.
DEAD_AFTER_S = 16.0
# A node that has been silent this long is no longer listed at all.
FORGET_AFTER_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """A machine as it last described itself."""

    id: str
    devices: tuple[Device, ...] = ()
    launched: Mapping[str, str] = field(default_factory=dict)
    """Replica id → model, for every worker process that was started there and has not ended."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Model → why it is not started there any more."""
    needs: Mapping[str, tuple[Need, ...]] = field(default_factory=dict)
    """Model → the ways a replica of it can run, best first, as far as this machine can tell."""
    reliability: Reliability = field(default_factory=Reliability)
    loads: tuple[float, ...] = ()
    """When loads were begun there, during the last minute."""
    ram_free_mib: int | None = None
    """What of the machine's memory is free, where replicas run on something else; None: not known."""
    problem: str = ""
    """Why nothing can be started or stopped there at the moment; empty when it can."""


@dataclass(frozen=True, slots=True)
class Node:
    facts: NodeFacts
    heartbeat_age_s: float

    @property
    def healthy(self) -> bool:
        """Whether it was heard of lately, however it does."""
        return self.heartbeat_age_s < DEAD_AFTER_S

    @property
    def able(self) -> bool:
        """Whether it can start and stop things."""
        return self.healthy and not self.facts.problem


class NodeStore:
    """Blocking; raises redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def beat(self, facts: NodeFacts) -> None:
        now = redis_time(self._client)
        pipe = self._client.pipeline(transaction=False)
        pipe.hset(keys.node(facts.id), mapping=_encode(facts))
        pipe.expire(keys.node(facts.id), keys.NODE_TTL_S)
        pipe.zadd(keys.NODES, {facts.id: now})
        pipe.zremrangebyscore(keys.NODES, "-inf", now - FORGET_AFTER_S)
        pipe.execute()

    def remove(self, node_id: str) -> None:
        """Forget a node that stops on purpose, so that it is not taken for a dead one."""
        pipe = self._client.pipeline(transaction=False)
        pipe.unlink(keys.node(node_id))
        pipe.zrem(keys.NODES, node_id)
        pipe.execute()

    def of(self, node_id: str) -> NodeFacts:
        """Return what a node last said of itself, however long ago; what it did not say is empty."""
        return _decode(node_id, cast("Mapping[bytes, bytes]", self._client.hgetall(keys.node(node_id))))

    def all(self) -> list[Node]:
        """Return every node heard of within the hour, by id; of a long dead one only the id is known."""
        now = redis_time(self._client)
        seen = cast("list[tuple[bytes, float]]", self._client.zrange(keys.NODES, 0, -1, withscores=True))
        pipe = self._client.pipeline(transaction=False)
        for node_id, _ in seen:
            pipe.hgetall(keys.node(node_id.decode()))
        found = zip(seen, pipe.execute(), strict=True)
        return sorted(
            (Node(_decode(node_id.decode(), fields), max(0.0, now - at)) for (node_id, at), fields in found),
            key=lambda node: node.facts.id,
        )


def redis_time(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return float(seconds) + float(microseconds) / 1e6


def _encode(facts: NodeFacts) -> dict[Any, Any]:
    return {
        "devices": orjson.dumps(facts.devices),
        "launched": orjson.dumps(dict(facts.launched)),
        "failed": orjson.dumps(dict(facts.failed)),
        "needs": orjson.dumps(dict(facts.needs)),
        "reliability": orjson.dumps(facts.reliability),
        "loads": orjson.dumps(facts.loads),
        "ram_free_mib": "" if facts.ram_free_mib is None else str(facts.ram_free_mib),
        "problem": facts.problem,
    }


def _decode(node_id: str, fields: Mapping[bytes, bytes]) -> NodeFacts:
    return NodeFacts(
        id=node_id,
        devices=tuple(_device(told) for told in orjson.loads(fields.get(b"devices", b"[]"))),
        launched=orjson.loads(fields.get(b"launched", b"{}")),
        failed=orjson.loads(fields.get(b"failed", b"{}")),
        needs={
            model: tuple(_need(told) for told in ways)
            for model, ways in orjson.loads(fields.get(b"needs", b"{}")).items()
        },
        reliability=Reliability(**orjson.loads(fields.get(b"reliability", b"{}"))),
        loads=tuple(orjson.loads(fields.get(b"loads", b"[]"))),
        ram_free_mib=int(ram) if (ram := fields.get(b"ram_free_mib")) else None,
        problem=fields.get(b"problem", b"").decode(),
    )


def _need(told: Mapping[str, Any]) -> Need:
    return Need(kind=DeviceKind(told["kind"]), mib=told["mib"], devices=told["devices"])


def _device(told: Mapping[str, Any]) -> Device:
    # A node of the release before says no more than the first four.
    foreign = told.get("foreign", ())
    return Device(
        id=told["id"],
        kind=DeviceKind(told["kind"]),
        total_mib=told["total_mib"],
        free_mib=told["free_mib"],
        name=told.get("name", ""),
        uuid=told.get("uuid", ""),
        unknown=told.get("unknown", ""),
        foreign=None if foreign is None else tuple(Holder(**holder) for holder in foreign),
    )
