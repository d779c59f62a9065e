"""What loads took, kept in Redis for the next ones.

Written by the agents (`tasks.node.measurer`). Read by all agents, for what they say a model
needs, by the loader, for what a swap costs, and by `celerity doctor MODEL`.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, cast

import orjson
import redis

from tasks import keys
from workers.devices import DeviceKind
from workers.estimate.measured import Measured


class MeasurementStore:
    """Blocking; raises redis.RedisError. Two agents that write of one model at one moment may count as one."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def all(self) -> dict[str, dict[DeviceKind, Measured]]:
        """Return what is known by model and kind of device."""
        found: dict[str, dict[DeviceKind, Measured]] = defaultdict(dict)
        for text in cast("Mapping[bytes, bytes]", self._client.hgetall(keys.MEASURED)).values():
            with contextlib.suppress(KeyError, TypeError, ValueError):  # written by another release
                one = Measured.from_json(orjson.loads(text))
                found[one.model][one.kind] = one
        return dict(found)

    def note(self, seen: Measured) -> Measured:
        """Add `seen` to what is known, and return both together."""
        before = self.all().get(seen.model, {}).get(seen.kind)
        both = seen if before is None else before.then(seen)
        pipe = self._client.pipeline(transaction=False)
        pipe.hset(keys.MEASURED, f"{seen.kind}:{seen.model}", cast("Any", orjson.dumps(both.to_json())))
        pipe.expire(keys.MEASURED, keys.MEASURED_TTL_S)
        pipe.execute()
        return both
