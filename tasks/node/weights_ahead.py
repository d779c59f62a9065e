"""Which weights a node reads ahead: of what was just ordered there, and of what the loader is about to load."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import redis

from tasks.records.orders import Order
from tasks.records.outlooks import OutlookStore
from tasks.records.replicas import ReplicaState
from workers.placement.actions import Outlook
from workers.read_ahead import Candidate, ReadAhead, Urgency, choose
from workers.registry import Registry

_URGENCY = {Outlook.MAKING_ROOM: Urgency.MAKING_ROOM, Outlook.IN_TURN: Urgency.IN_TURN}


class WeightsAhead:
    """Blocking, but for the reading; raises redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._outlooks = OutlookStore(client)
        self._reading = ReadAhead()

    def follow(self, registry: Registry, orders: Sequence[Order], up: Collection[str], *, free_mib: int) -> None:
        """Read what is due; `up` are the models that run here already, whose weights nobody has to fetch."""
        models = [id_ for id_ in registry.folders if id_ not in up]
        starting = {order.model for order in orders if order.told is ReplicaState.STARTING}
        self._reading.want(choose(list(self._candidates(registry, models, starting)), free_mib=free_mib))

    def close(self) -> None:
        self._reading.close()

    def _candidates(self, registry: Registry, models: Sequence[str], starting: set[str]) -> Iterator[Candidate]:
        outlooks = self._outlooks.of_all(models)
        for model in models:
            expected = outlooks.get(model)
            urgency = _URGENCY.get(expected.outlook) if expected is not None else None
            if model in starting:
                urgency = Urgency.ORDERED
            folder = registry.folders[model]
            if urgency is not None and folder.weights is not None:
                files = tuple(folder.path / name for name in folder.weights.files)
                yield Candidate(model=model, files=files, mib=folder.weights.total_bytes >> 20, urgency=urgency)
