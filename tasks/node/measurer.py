"""Looks at what a replica took to load and takes to run: memory beside the KV cache, and time.

At its node, when it has become ready, and once more when it has worked for a while.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import redis

from tasks.records.measurements import MeasurementStore
from tasks.records.replicas import ReplicaFacts, ReplicaState
from workers.devices import Device, DeviceKind
from workers.estimate.measuring import measured
from workers.estimate.needs import NeedUnknownError, estimate
from workers.estimate.ways import estimates, ways
from workers.inventory import Inventory, in_sessions_of
from workers.launcher.base import Replica
from workers.memory import tree_share_mib
from workers.placement.facts import Need
from workers.registry import ModelSpec, Registry

log = logging.getLogger(__name__)

AGAIN_AFTER_S = 300.0
"""By then a replica that is used at all has worked on a large request."""
# Of a replica that was ready already when its agent started, nobody knows how long its load took.
_FRESH_S = 15.0


class Measurer:
    """Looks at the replicas of one node. Belongs to one thread, as `inventory` does."""

    def __init__(self, client: redis.Redis, inventory: Inventory) -> None:
        self._store = MeasurementStore(client)
        self._inventory = inventory
        self._again_at: dict[str, float | None] = {}
        """Replica → when to look again; None: not any more."""

    def ways(self, registry: Registry, devices: Sequence[Device]) -> dict[str, tuple[Need, ...]]:
        """Return how each model could run on `devices`, by what was measured anywhere."""
        known = self._store.all()
        found = {
            id_: ways(spec, registry.folders.get(id_), devices, known.get(id_, {}))
            for id_, spec in registry.models.items()
        }
        return {id_: needs for id_, needs in found.items() if needs}

    def cache_mib(
        self, spec: ModelSpec, registry: Registry, devices: Sequence[Device], reserved_mib: int
    ) -> int | None:
        """Return how large a KV cache a replica on the CPU is to have; None: its engine is to find out.

        On a GPU vLLM measures by itself what is left for the cache. On a CPU it takes what it
        is told to, and a worker by itself knows no more than the estimate.
        """
        if spec.engine != "vllm" or {device.kind for device in devices} != {DeviceKind.CPU}:
            return None
        wanted = replace(spec, memory_mib=reserved_mib)
        seen = self._store.all().get(spec.id, {}).get(DeviceKind.CPU)
        try:
            return estimate(wanted, registry.folders.get(spec.id), DeviceKind.CPU, measured=seen).kv_mib
        except NeedUnknownError:
            return None

    def look(
        self,
        replicas: Mapping[str, Replica],
        told: Mapping[str, ReplicaFacts],
        registry: Registry,
        devices: Sequence[Device],
    ) -> None:
        """Measure whoever is due: has become ready since the last look, or did so a while ago."""
        self._again_at = {name: at for name, at in self._again_at.items() if name in replicas}
        now = time.time()
        for name, facts in told.items():
            spec = registry.models.get(facts.model)
            again_at = self._again_at.get(name, 0.0)
            if name not in replicas or spec is None or facts.state is not ReplicaState.READY or again_at is None:
                continue
            if again_at <= now:
                first = name not in self._again_at
                self._again_at[name] = now + AGAIN_AFTER_S if first else None
                self._measure(replicas[name], facts, spec, registry, devices, first=first)

    def _measure(
        self,
        replica: Replica,
        facts: ReplicaFacts,
        spec: ModelSpec,
        registry: Registry,
        devices: Sequence[Device],
        *,
        first: bool,
    ) -> None:
        kind = next((device.kind for device in devices if device.id == facts.device.split(",")[0]), None)
        if kind is None:
            return
        load_s = None
        if first and facts.ready_at is not None and time.time() - facts.ready_at < _FRESH_S:
            load_s = max(0.0, facts.ready_at - replica.started_at)
        need = dict(estimates(spec, registry.folders.get(spec.id), devices)).get(kind)
        taken_mib = self._taken_mib(replica, facts, kind)
        seen = measured(spec.id, kind, need, taken_mib=taken_mib, kv_mib=facts.kv_mib, worked=not first, load_s=load_s)
        if seen.load_s is None and seen.other_mib is None:
            return
        known = self._store.note(seen)
        extra = {"event": "measured", "replica": facts.id, "model": spec.id, "taken_mib": taken_mib}
        log.info("measured", extra=extra | {"other_mib": known.other_mib, "load_s": known.load_s})

    def _taken_mib(self, replica: Replica, facts: ReplicaFacts, kind: DeviceKind) -> int | None:
        """Return what it takes of the fullest of its devices."""
        if kind is DeviceKind.CPU:
            return tree_share_mib(replica.pid)
        held = self._inventory.held(in_sessions_of({replica.pid}))
        return max((held[id_] for id_ in facts.device.split(",") if id_ in held), default=None)
