"""Loads that failed, counted per model by the agents of the nodes where they did; read by the loader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson
import redis

from tasks import keys
from tasks.readable import readable
from workers.placement.facts import LoadFailures


class LoadFailureStore:
    """Blocking; raises redis.RedisError. A model that was not tried again for a day starts anew."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def all(self) -> list[LoadFailures]:
        fields = cast("Mapping[bytes, bytes]", self._client.hgetall(keys.LOAD_FAILURES))
        found = ((model.decode(), (model.decode(), text)) for model, text in fields.items())
        return list(readable(found, lambda record: _decode(*record)))

    def failed(self, model: str, *, node: str, reason: str, permanent: bool, now: float) -> None:
        """Count one more. Two nodes at the same moment may count as one."""
        before = self._of(model)
        count, nodes = (before.count, before.nodes) if before else (0, frozenset[str]())
        self._write(
            LoadFailures(
                model=model,
                count=count + 1,
                last_at=now,
                reason=reason,
                permanent=permanent,
                nodes=nodes | {node},
            )
        )

    def give_up(self, model: str) -> None:
        """Mark the model as failed, until it is loaded by hand or its entry changes."""
        if before := self._of(model):
            self._write(
                LoadFailures(
                    model=model,
                    count=before.count,
                    last_at=before.last_at,
                    reason=before.reason,
                    permanent=before.permanent,
                    nodes=before.nodes,
                    given_up=True,
                )
            )

    def forget(self, model: str) -> None:
        """It has loaded, or somebody has changed something."""
        self._client.hdel(keys.LOAD_FAILURES, model)

    def _of(self, model: str) -> LoadFailures | None:
        text = cast("bytes | None", self._client.hget(keys.LOAD_FAILURES, model))
        return _decode(model, text) if text else None

    def _write(self, failures: LoadFailures) -> None:
        fields = {
            "count": failures.count,
            "last_at": failures.last_at,
            "reason": failures.reason,
            "permanent": failures.permanent,
            "nodes": sorted(failures.nodes),
            "given_up": failures.given_up,
        }
        pipe = self._client.pipeline(transaction=False)
        pipe.hset(keys.LOAD_FAILURES, failures.model, orjson.dumps(fields))
        pipe.expire(keys.LOAD_FAILURES, keys.LOADER_MEMORY_TTL_S)
        pipe.execute()


def _decode(model: str, text: bytes) -> LoadFailures:
    fields: dict[str, Any] = orjson.loads(text)
    return LoadFailures(
        model=model,
        count=fields["count"],
        last_at=fields["last_at"],
        reason=fields["reason"],
        permanent=fields["permanent"],
        nodes=frozenset(fields["nodes"]),
        given_up=fields["given_up"],
    )
