"""What went well and what went wrong on one node: it counts for the node, and for the model."""

from __future__ import annotations

import redis

from tasks.records.load_failures import LoadFailureStore
from tasks.records.nodes import NodeStore
from tasks.records.replicas import ReplicaState, ReplicaStore
from workers.engine.load_errors import LoadError, explain
from workers.launcher.base import Replica
from workers.placement.reliability import Reliability

_LOADS_KEPT_S = 60.0
# What went wrong with a load may stand this many lines before its end.
_LAST_PAGE = 300
_UP = (ReplicaState.READY, ReplicaState.SLEEPING)


class TrackRecord:
    """Its counts go on where the agent before left them. Blocking; raises redis.RedisError."""

    def __init__(self, client: redis.Redis, node: str) -> None:
        self._node = node
        self._failures = LoadFailureStore(client)
        self._replicas = ReplicaStore(client)
        self._nodes = NodeStore(client)
        self._remembered = False
        self._reliability = Reliability()
        self._loads: list[float] = []

    @property
    def reliability(self) -> Reliability:
        return self._reliability

    def loads(self, now: float) -> tuple[float, ...]:
        """Return when loads were begun, during the last minute."""
        self._loads = [at for at in self._loads if now - at < _LOADS_KEPT_S]
        return tuple(self._loads)

    def remember(self) -> None:
        """Take over what an agent before this one has counted. To be called before anything is counted."""
        if not self._remembered:
            before = self._nodes.of(self._node)
            self._reliability, self._loads, self._remembered = before.reliability, list(before.loads), True

    def begun(self, now: float) -> None:
        self._loads.append(now)

    def loaded(self, model: str, now: float, *, counts: bool = True) -> None:
        if counts:
            self._reliability = self._reliability.succeeded(now)
        self._failures.forget(model)

    def not_launched(self, model: str, reason: str, now: float) -> None:
        """The machine could not even start a process for it."""
        self._reliability = self._reliability.failed(now)
        self._count(model, reason, now)

    def ended(self, replica: Replica, now: float, *, was_up: bool) -> str:
        """Count the end of a replica that nobody has asked to end, and return what it came from."""
        code, known = replica.exit_code(), replica.why()
        if was_up:
            why = known or f"its worker died ({_how(code)})"
            self.died(replica.model, why, now)
            return why
        error = LoadError(known) if known else explain(code, replica.tail(_LAST_PAGE))
        self.not_loaded(replica.model, error, now)
        return f"not loaded: {error.reason} ({_how(code)})"

    def not_loaded(self, model: str, error: LoadError, now: float) -> None:
        """A replica ended before it was ready. That is the node's doing only if others have loaded the model."""
        if any(it.model == model and it.node != self._node and it.state in _UP for it in self._replicas.all()):
            self._reliability = self._reliability.failed(now)
        self._count(model, error.reason, now, permanent=error.permanent)

    def died(self, model: str, reason: str, now: float) -> None:
        """A replica that was ready has ended unasked."""
        self._reliability = self._reliability.failed(now)
        self._count(model, reason, now)

    def mended(self, model: str) -> None:
        """Whatever kept the model from loading may be different now."""
        self._failures.forget(model)

    def _count(self, model: str, reason: str, now: float, *, permanent: bool = False) -> None:
        self._failures.failed(model, node=self._node, reason=reason, permanent=permanent, now=now)


def _how(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
