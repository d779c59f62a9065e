"""What the loader has ordered: for every replica, where it is to be and what it is to do.

An order is also the reservation of its memory, from the moment it is written. Node agents
read the orders of their node, look at what really runs there, and make up the difference;
so an order that arrives late, twice or after a crash does no more than once. Orders are
written under an epoch: a loader that was overtaken by another writes nothing any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import orjson
import redis

from tasks import keys
from tasks.readable import readable
from tasks.scripts import script
from workers.replicas import ReplicaState

# An order to start that no agent has followed by then is void, and its memory free again.
START_WITHIN_S = 30.0
# So long before that agents leave it alone: from an agent's look to what it says of a launch some time passes.
_LAUNCH_TAKES_S = 5.0
# More than there are, so that one look goes through all of them.
_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One replica's. Times are Unix seconds of Redis' clock."""

    replica: str
    model: str
    node: str
    devices: tuple[str, ...]
    mib: int
    """Reserved on each of the devices."""
    slot: int
    ordered_at: float
    told: ReplicaState = ReplicaState.STARTING
    """Where it was last told to go; starting: to start."""
    told_at: float = 0.0
    why: str = ""

    def then(self, told: ReplicaState, why: str, now: float) -> Order:
        return replace(self, told=told, told_at=now, why=why)

    @property
    def void_at(self) -> float:
        """When an order to start leads to nothing any more, and its memory is given to others."""
        return self.ordered_at + START_WITHIN_S

    @property
    def launch_by(self) -> float:
        """Until when an order to start is to be followed."""
        return self.void_at - _LAUNCH_TAKES_S

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, text: bytes) -> Order:
        fields: dict[str, Any] = orjson.loads(text)
        known = {name: value for name, value in fields.items() if name in cls.__slots__}
        return cls(**known | {"devices": tuple(fields["devices"]), "told": ReplicaState(fields["told"])})


class OrderStore:
    """Blocking; raises redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._write = client.register_script(script("order"))

    def all(self) -> list[Order]:
        return _decoded(cast("Mapping[bytes, bytes]", self._client.hgetall(keys.ORDERS)))

    def of(self, node: str) -> list[Order]:
        """Have Redis choose: every agent asks twice a second, and on a large site all orders are 300 KB."""
        found = self._client.hscan_iter(keys.ORDERS, match=f"{_literal(node)}/*", count=_AT_ONCE)
        return _decoded(dict(cast("Iterable[tuple[bytes, bytes]]", found)))

    def write(self, orders: Sequence[Order], *, epoch: int) -> bool:
        """Write all of `orders`, or none when another loader has taken over.

        An order to do something else than start is dropped when its replica's order is gone: it has ended.
        """
        args: list[Any] = [epoch]
        for order in orders:
            args += [
                _field(order.replica, order.node),
                order.encode(),
                "1" if order.told is ReplicaState.STARTING else "0",
            ]
        return bool(self._write(keys=[keys.LOADER_EPOCH, keys.ORDERS], args=args))

    def adopt(self, order: Order) -> bool:
        """Write down a replica that runs without an order. False when it has one by now."""
        return bool(self._client.hsetnx(keys.ORDERS, _field(order.replica, order.node), cast("str", order.encode())))

    def remove(self, replica_id: str, *, node: str) -> None:
        """The replica has ended, or will never be started."""
        self._client.hdel(keys.ORDERS, _field(replica_id, node))


def _field(replica_id: str, node: str) -> str:
    return f"{node}/{replica_id}"


def _literal(text: str) -> str:
    """Return the pattern that only `text` matches."""
    return re.sub(r"[*?\[\]\\]", r"\\\g<0>", text)


def _decoded(fields: Mapping[bytes, bytes]) -> list[Order]:
    found = readable(((field.decode(), text) for field, text in fields.items()), Order.decode)
    return sorted(found, key=lambda order: (order.ordered_at, order.replica))
