"""What each machine says of itself, in Redis: written by its agent, read by the loader and `celerity status`.

All times are those of Redis' clock, so that machines need not agree on theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
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

# All that changes from beat to beat. What models need is as long as everything else together ten
# times over, and hardly ever changes: it is written, and read, only where its digest is another one.
_BRIEF = ("devices", "launched", "reliability", "loads", "ram_free_mib", "problem")
_LONG = ("needs_digest", "needs")

_Fields = Mapping[str, bytes | None]
_Needs = Mapping[str, tuple[Need, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """A machine as it last described itself."""

    id: str
    devices: tuple[Device, ...] = ()
    launched: Mapping[str, str] = field(default_factory=dict)
    """Replica id → model, for every worker process that was started there and has not ended."""
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
    """Blocking; raises redis.RedisError. For one thread."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._needs: dict[bytes, _Needs] = {}
        """By digest, as last read: machines of one kind say the same, and have it from here as one object."""

    def beat(self, facts: NodeFacts, now: float | None = None) -> None:
        """Write `facts`, as of `now` by Redis' clock; None: that is asked for."""
        now = redis_time(self._client) if now is None else now
        needs = orjson.dumps(dict(facts.needs))
        digest = hashlib.sha256(needs).hexdigest().encode()
        told: dict[Any, Any] = _encode(facts)
        if self._client.hget(keys.node(facts.id), "needs_digest") != digest:
            told |= {"needs": needs, "needs_digest": digest}
        pipe = self._client.pipeline(transaction=False)
        pipe.hset(keys.node(facts.id), mapping=told)
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
        (fields,) = self._read([node_id], (*_BRIEF, *_LONG))
        return _decode(node_id, fields, _decode_needs(fields["needs"]))

    def all(self, *, needs: bool = True) -> list[Node]:
        """Return every node heard of within the hour, by id; of a long dead one only the id is known.

        Without `needs`, nothing is known of these.
        """
        now = redis_time(self._client)
        seen = cast("list[tuple[bytes, float]]", self._client.zrange(keys.NODES, 0, -1, withscores=True))
        ids = [node_id.decode() for node_id, _ in seen]
        found = self._read(ids, (*_BRIEF, "needs_digest"))
        wanted = self._needs_of(ids, [fields["needs_digest"] for fields in found]) if needs else {}
        return sorted(
            (
                Node(_decode(id_, fields, wanted.get(id_, {})), max(0.0, now - at))
                for id_, (_, at), fields in zip(ids, seen, found, strict=True)
            ),
            key=lambda node: node.facts.id,
        )

    def _read(self, ids: Sequence[str], names: Sequence[str]) -> list[_Fields]:
        pipe = self._client.pipeline(transaction=False)
        for id_ in ids:
            pipe.hmget(keys.node(id_), *names)
        return [dict(zip(names, values, strict=True)) for values in pipe.execute()]

    def _needs_of(self, ids: Sequence[str], digests: Sequence[bytes | None]) -> dict[str, _Needs]:
        """Return what each of `ids` says that models need; Redis is asked only for what was not read before."""
        now_told = dict(zip(ids, digests, strict=True))
        unknown = [id_ for id_, digest in now_told.items() if digest and digest not in self._needs]
        for id_, fields in zip(unknown, self._read(unknown, _LONG), strict=True):
            # Read together, since it may have said something else meanwhile.
            if (digest := fields["needs_digest"]) is not None:
                now_told[id_] = digest
                if digest not in self._needs:
                    self._needs[digest] = _decode_needs(fields["needs"])
        self._needs = {digest: needs for digest, needs in self._needs.items() if digest in now_told.values()}
        return {id_: self._needs[digest] for id_, digest in now_told.items() if digest in self._needs}


def redis_time(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return float(seconds) + float(microseconds) / 1e6


def _encode(facts: NodeFacts) -> dict[Any, Any]:
    return {
        "devices": orjson.dumps(facts.devices),
        "launched": orjson.dumps(dict(facts.launched)),
        "reliability": orjson.dumps(facts.reliability),
        "loads": orjson.dumps(facts.loads),
        "ram_free_mib": "" if facts.ram_free_mib is None else str(facts.ram_free_mib),
        "problem": facts.problem,
    }


def _decode(node_id: str, fields: _Fields, needs: _Needs) -> NodeFacts:
    return NodeFacts(
        id=node_id,
        devices=tuple(_device(told) for told in orjson.loads(fields["devices"] or b"[]")),
        launched=orjson.loads(fields["launched"] or b"{}"),
        needs=needs,
        reliability=Reliability(**orjson.loads(fields["reliability"] or b"{}")),
        loads=tuple(orjson.loads(fields["loads"] or b"[]")),
        ram_free_mib=int(ram) if (ram := fields["ram_free_mib"]) else None,
        problem=(fields["problem"] or b"").decode(),
    )


def _decode_needs(text: bytes | None) -> _Needs:
    return {model: tuple(_need(told) for told in ways) for model, ways in orjson.loads(text or b"{}").items()}


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
