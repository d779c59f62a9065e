"""What the feeder sees of models: seats of those that are ready, and what the loader says of the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import redis

from tasks.bulk.window import NO_SEATS, Seats
from tasks.errors import ServingError
from tasks.records.circuit import Rotation
from tasks.records.nudge import nudge
from tasks.records.outlooks import OutlookStore
from tasks.records.replicas import ReplicaFacts, ReplicaState, ReplicaStore
from tasks.requests.cold_start import NO_TERMS, refusal
from workers.placement.actions import Explanation, Outlook

# What waiting cannot change: somebody has to change the model or the machines first.
_FOR_GOOD = frozenset({Outlook.CANNOT_RUN, Outlook.FAILED})
_NUDGE_EVERY_S = 1.0


class Sight:
    """As old as the last `read`. Blocking; `read` and `hasten` raise redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._replicas = ReplicaStore(client)
        self._outlooks = OutlookStore(client)
        self._seats: Mapping[str, Seats] = {}
        self._said: Mapping[str, Explanation] = {}
        self._nudged_at = float("-inf")

    def read(self, models: Iterable[str]) -> None:
        """Look again; of `models`, also what the loader says of those that are not ready."""
        self._seats = seats_of(self._replicas.all())
        cold = sorted(model for model in set(models) if not self.ready(model))
        self._said = self._outlooks.latest(cold) if cold else {}

    def ready(self, model: str) -> bool:
        return model in self._seats

    def outlook(self, model: str) -> Explanation | None:
        return self._said.get(model)

    def seats(self, model: str) -> Seats:
        return self._seats.get(model, NO_SEATS)

    def refusal(self, model: str) -> ServingError | None:
        """Return the error for which to wait for the model is in vain; None where it may still come."""
        said = None if self.ready(model) else self._said.get(model)
        return refusal(said, NO_TERMS) if said is not None and said.outlook in _FOR_GOOD else None

    def hasten(self, models: Iterable[str], now: float) -> None:
        """Have the loader look, if it has said nothing of one of `models`, which wait; once a second at most."""
        unheard = any(not self.ready(model) and model not in self._said for model in models)
        if unheard and now - self._nudged_at >= _NUDGE_EVERY_S:
            self._nudged_at = now
            nudge(self._client)


def seats_of(replicas: Iterable[ReplicaFacts]) -> dict[str, Seats]:
    """Return the seats of each model that has a ready replica."""
    free: dict[str, int] = defaultdict(int)
    everything: dict[str, int] = defaultdict(int)
    for it in replicas:
        if it.state is ReplicaState.READY and it.rotation is not Rotation.OUT:
            free[it.model] += max(0, it.seats - it.in_flight)
            everything[it.model] += it.seats
    return {model: Seats(free[model], seats) for model, seats in everything.items()}
