"""I5: what the loader must never do, watched in what it orders while a row runs."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter

import redis

from tasks.records.nodes import NodeStore
from tasks.records.orders import Order, OrderStore
from tasks.records.replicas import ReplicaFacts, ReplicaStore
from tests.faults.system import System
from workers.replicas import ReplicaState

_EVERY_S = 0.1
_LEAVING = (ReplicaState.DRAINING, ReplicaState.STOPPED, ReplicaState.SLEEPING)


class Policy:
    """Looks from `start` to `stop`; what it saw broken is in `broken`, what was loaded in `loads`."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._pinned = {spec.id for spec in system.registry.models.values() if spec.pinned}
        self._told: dict[str, ReplicaState] = {}
        self._seen: dict[str, str] = {}
        self.broken: dict[str, str] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)

    @property
    def loads(self) -> Counter[str]:
        """Return how many replicas of each model were ever ordered."""
        return Counter(self._seen.values())

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        with self._system.client() as client:
            while not self._stopping.wait(_EVERY_S):
                with contextlib.suppress(redis.RedisError, OSError):
                    self._look(client)

    def _look(self, client: redis.Redis) -> None:
        orders, replicas = OrderStore(client).all(), ReplicaStore(client).all()
        self._seen |= {order.replica: order.model for order in orders}
        self._look_at_moves(orders, {facts.id: facts for facts in replicas})
        self._look_at_memory(orders, client)
        slots = Counter((order.model, order.slot) for order in orders if order.told not in _LEAVING)
        for (model, slot), count in slots.items():
            if count > 1:
                self.broken["slot"] = f"{model} was loaded {count} times into its place {slot}"

    def _look_at_moves(self, orders: list[Order], replicas: dict[str, ReplicaFacts]) -> None:
        """Nobody who is pinned is sent away, and nobody who works."""
        for order in orders:
            if order.told is self._told.get(order.replica) or order.told not in _LEAVING:
                continue
            self._told[order.replica] = order.told
            if order.model in self._pinned:
                self.broken[f"pinned {order.replica}"] = f"{order.model} is pinned and was told {order.told}"
            facts = replicas.get(order.replica)
            # What it took after the loader had looked, it finishes: only work that was seen counts.
            busy = facts is not None and facts.in_flight > 0 and facts.heartbeat_at < order.told_at - 0.5
            if busy and "too long" not in order.why and order.told is not ReplicaState.STOPPED:
                self.broken[f"busy {order.replica}"] = f"{order.replica} had work in flight and was told {order.told}"

    def _look_at_memory(self, orders: list[Order], client: redis.Redis) -> None:
        """No device has more promised than it has; who is leaving still counts until it has gone."""
        reserved: Counter[tuple[str, str]] = Counter()
        for order in orders:
            for name in order.devices:
                reserved[order.node, name] += order.mib
        for node in NodeStore(client).all():
            for device in node.facts.devices:
                total = device.total_mib
                if total is not None and reserved[node.facts.id, device.id] > total:
                    seen = f"{reserved[node.facts.id, device.id]} of {total} MiB are promised"
                    self.broken[f"memory {device.id}"] = f"{node.facts.id}/{device.id}: {seen}"
