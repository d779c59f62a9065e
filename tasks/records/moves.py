"""Tells one replica to sleep or to wake, on its control stream, as lua/cancel.lua tells it whom to drop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import redis

from tasks import keys
from workers.replicas import ReplicaState

# A replica whose loop is busy reads late; one that is gone never does.
_TTL_S = 600


@dataclass(frozen=True, slots=True)
class Move:
    """Where to go: sleeping or ready. Of two moves the one that was ordered later counts."""

    to: ReplicaState
    ordered_at: float

    @classmethod
    def decode(cls, fields: Mapping[bytes, bytes]) -> Move | None:
        """Return None for a record that is something else."""
        if b"move" not in fields:
            return None
        return cls(ReplicaState(fields[b"move"].decode()), float(fields[b"ordered_at"]))


def tell(client: redis.Redis, replica_id: str, move: Move) -> None:
    """Raises redis.RedisError."""
    pipe = client.pipeline(transaction=False)
    pipe.xadd(keys.control(replica_id), {"move": move.to.value, "ordered_at": repr(move.ordered_at)}, maxlen=10000)
    pipe.expire(keys.control(replica_id), _TTL_S)
    pipe.execute()
