"""What each engine worker says of itself, in Redis: written by it, read by `celerity status` and the loader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import redis

from tasks import keys
from tasks.readable import readable
from tasks.records.circuit import Rotation
from workers.replicas import IllegalTransitionError, ReplicaState, advance

__all__ = ["IllegalTransitionError", "ReplicaFacts", "ReplicaRecord", "ReplicaState", "ReplicaStore", "advance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFacts:
    """A replica as it last described itself. Times are Unix seconds of the worker's clock."""

    id: str
    model: str
    node: str
    device: str
    state: ReplicaState
    pid: int
    in_flight: int
    seats: int
    kv_usage: float
    memory_mib: int
    started_at: float
    last_used_at: float | None
    heartbeat_at: float
    rotation: Rotation = Rotation.IN
    """Read only: lua/rotate.lua writes it, since others decide by it at once."""
    ready_at: float | None = None
    """Since when it takes work; None while it loads."""
    slept_at: float | None = None
    """Since when it sleeps."""
    reserved_mib: int | None = None
    """What it was told to take of each of its devices; None: it was told nothing."""
    can_sleep: bool = False
    sleep_mib: int = 0
    """What it keeps of each device while it sleeps."""
    sleep_ram_mib: int = 0
    """What it takes of its machine's memory while it sleeps."""
    kv_mib: int | None = None
    """What its KV cache takes of each of its devices; None: not known."""
    clock_ahead_s: float = 0.0
    """How far the worker's clock is before Redis'; negative where it is behind."""

    def encode(self) -> dict[Any, Any]:
        """Return the hash as redis-py wants it: text to text."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "rotation"}
        return {name: "" if value is None else str(value) for name, value in fields.items()}

    @classmethod
    def decode(cls, fields: Mapping[bytes, bytes]) -> ReplicaFacts:
        text = {_NAMES.get(name, ""): value.decode() for name, value in fields.items()}
        return cls(
            id=text["id"],
            model=text["model"],
            node=text["node"],
            device=text["device"],
            state=ReplicaState(text["state"]),
            pid=int(text["pid"]),
            in_flight=int(text["in_flight"]),
            seats=int(text["seats"]),
            kv_usage=float(text["kv_usage"]),
            memory_mib=int(text["memory_mib"]),
            started_at=float(text["started_at"]),
            last_used_at=float(text["last_used_at"]) if text["last_used_at"] else None,
            heartbeat_at=float(text["heartbeat_at"]),
            rotation=Rotation(text.get("rotation", Rotation.IN)),
            ready_at=float(text["ready_at"]) if text.get("ready_at") else None,
            slept_at=float(text["slept_at"]) if text.get("slept_at") else None,
            reserved_mib=int(text["reserved_mib"]) if text.get("reserved_mib") else None,
            can_sleep=text.get("can_sleep") == "True",
            sleep_mib=int(text.get("sleep_mib") or 0),
            sleep_ram_mib=int(text.get("sleep_ram_mib") or 0),
            kv_mib=int(text["kv_mib"]) if text.get("kv_mib") else None,
            clock_ahead_s=float(text.get("clock_ahead_s") or 0.0),
        )


_NAMES = {name.encode(): name for name in ReplicaFacts.__slots__}


class ReplicaStore:
    """Reads what replicas wrote."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def all(self) -> list[ReplicaFacts]:
        """Return every replica whose heartbeat has not lapsed, oldest first."""
        ids: Any = self._client.zrange(keys.REPLICAS, 0, -1)
        return self.of(id_.decode() for id_ in ids)

    def of(self, ids: Iterable[str]) -> list[ReplicaFacts]:
        """Return those of `ids` that have spoken and not lapsed, oldest first."""
        names = list(ids)
        pipe = self._client.pipeline(transaction=False)
        for replica_id in names:
            pipe.hgetall(keys.replica(replica_id))
        records = [(name, fields) for name, fields in zip(names, pipe.execute(), strict=True) if b"id" in fields]
        found = readable(records, ReplicaFacts.decode)
        return sorted(found, key=lambda facts: (facts.started_at, facts.id))


class ReplicaRecord:
    """Writes what this worker says of itself."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def beat(self, facts: ReplicaFacts, gateways: frozenset[str]) -> frozenset[str]:
        """Write `facts`, and return those of `gateways` that have died."""
        asked = sorted(gateways)
        pipe = self._client.pipeline(transaction=False)
        pipe.hset(keys.replica(facts.id), mapping=facts.encode())
        pipe.expire(keys.replica(facts.id), keys.REPLICA_TTL_S)
        for gateway in asked:
            pipe.exists(keys.gateway(gateway))
        alive = pipe.execute()[2:]
        return frozenset(gateway for gateway, stands in zip(asked, alive, strict=True) if not stands)

    def remove(self, replica_id: str) -> None:
        """Forget a replica that ends on purpose."""
        pipe = self._client.pipeline(transaction=False)
        pipe.exists(keys.held(replica_id), keys.unacked(replica_id))
        pipe.unlink(keys.replica(replica_id), keys.control(replica_id))
        (left, _) = pipe.execute()
        if left:
            # We could not give everything away: to whoever looks next we are dead.
            self._client.zadd(keys.REPLICAS, {replica_id: 0})
        else:
            self._client.zrem(keys.REPLICAS, replica_id)
