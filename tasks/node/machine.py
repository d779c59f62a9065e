"""What one machine has, and how its models could run on it; said to everybody at every heartbeat of its agent."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

import psutil
import redis

from tasks.node.measurer import Measurer
from tasks.node.track_record import TrackRecord
from tasks.node.weights_ahead import WeightsAhead
from tasks.records.nodes import HEARTBEAT_S, NodeFacts, NodeStore
from tasks.records.orders import Order
from tasks.records.replicas import ReplicaFacts
from tasks.settings import Settings
from workers.devices import Device
from workers.inventory import Inventory, in_sessions_of
from workers.launcher.base import Replica
from workers.placement.facts import Need
from workers.registry import ModelSpec, Registry

_MIB = 1024 * 1024


class Machine:
    """Blocking; raises redis.RedisError. For one thread."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._id = settings.node_id
        self._inventory = Inventory(memory_mib=settings.memory_mib)
        self._nodes = NodeStore(client)
        self._measurer = Measurer(client, self._inventory)
        self._ahead = WeightsAhead(client)
        self._devices: tuple[Device, ...] = ()
        self._as_known: dict[str, Device] = {}
        self._beaten_at = float("-inf")

    @property
    def devices(self) -> tuple[Device, ...]:
        """Return them as they were last seen."""
        if not self._devices:
            self._devices = self._inventory.survey().devices
        return self._devices

    @property
    def is_due(self) -> bool:
        """Whether it is time for a heartbeat."""
        return time.monotonic() - self._beaten_at >= HEARTBEAT_S

    @property
    def is_new(self) -> bool:
        """Whether there was none yet, or what it says has changed."""
        return self._beaten_at == float("-inf")

    def changed(self) -> None:
        """What it last said is not true any more."""
        self._beaten_at = float("-inf")

    def close(self) -> None:
        self._inventory.close()
        self._ahead.close()

    def measure(self, replicas: Mapping[str, Replica], told: Mapping[str, ReplicaFacts], registry: Registry) -> None:
        """Note what those take that have become ready."""
        self._measurer.look(replicas, told, registry, self.devices)

    def cache_mib(self, spec: ModelSpec, registry: Registry, devices: tuple[Device, ...], mib: int) -> int | None:
        """Return how much of `mib` a replica on `devices` should take for its KV cache; None: by its own reckoning."""
        return self._measurer.cache_mib(spec, registry, devices, mib)

    def ways(self, registry: Registry) -> dict[str, tuple[Need, ...]]:
        """Return how each model could run here, also while a device's driver says nothing."""
        self._as_known |= {device.id: device for device in self._devices if not device.unknown}
        devices = [self._as_known.get(device.id, device) for device in self._devices]
        return self._measurer.ways(registry, devices)

    def beat(
        self,
        registry: Registry,
        record: TrackRecord,
        *,
        launched: Mapping[str, str],
        orders: Sequence[Order],
        pids: Collection[int],
        up: Collection[str],
        problem: str,
        now: float,
    ) -> None:
        """Look at the devices and tell everybody. `launched`: replica → model; `up`: who is ready or asleep."""
        self._devices = self._inventory.survey(in_sessions_of(pids)).devices
        free_mib = psutil.virtual_memory().available // _MIB
        facts = NodeFacts(
            id=self._id,
            devices=self._devices,
            launched=launched,
            needs=self.ways(registry),
            reliability=record.reliability,
            loads=record.loads(now),
            ram_free_mib=free_mib,
            problem=problem,
        )
        self._nodes.beat(facts, now)
        self._beaten_at = time.monotonic()
        models = {model for name, model in launched.items() if name in up}
        self._ahead.follow(registry, orders, models, free_mib=free_mib)
