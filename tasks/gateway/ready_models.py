"""Which models have a replica that takes work, as the replicas say themselves. Asking costs nothing; reading does."""

from __future__ import annotations

import time
from typing import Any

import redis

from tasks import keys
from tasks.records.replicas import ReplicaState

_READY = ReplicaState.READY.value.encode()


class ReadyModels:
    """One a gateway. What it says is as old as the last `read`; read by one thread or greenlet, asked by any."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._models = frozenset[str]()
        self.read_at = float("-inf")
        """On the monotonic clock."""

    def __contains__(self, model: str) -> bool:
        return model in self._models

    def read(self) -> None:
        """Look again. Raises redis.RedisError; then what was known stays."""
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        pipe.zrange(keys.REPLICAS, 0, -1, withscores=True)
        (seconds, microseconds), replicas = pipe.execute()
        now_ms = seconds * 1000 + microseconds / 1000
        # A dead one is still in the set until it is reaped.
        alive = [replica_id.decode() for replica_id, lives_until_ms in replicas if lives_until_ms > now_ms]
        for replica_id in alive:
            pipe.hmget(keys.replica(replica_id), "state", "model")
        found: list[Any] = pipe.execute() if alive else []
        self._models = frozenset(model.decode() for state, model in found if state == _READY and model)
        self.read_at = time.monotonic()
