"""Carries out what a replica's `Circuit` wishes: it leaves the rotation of its model and comes back.

Whether it may leave is decided in one script, so that two that fail at once do not both
find the other one still there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import redis
import redis.asyncio

from tasks import keys
from tasks.records.circuit import Circuit, Rotation
from tasks.scripts import script

log = logging.getLogger(__name__)

_LOOK_S = 0.25


class Rotator:
    """Of one engine worker; runs on its loop."""

    def __init__(self, client: redis.asyncio.Redis, replica_id: str, model: str, circuit: Circuit) -> None:
        self._rotate = client.register_script(script("rotate"))
        self._replica_id = replica_id
        self._model = model
        self._circuit = circuit

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._circuit.due(time.monotonic()):
                await self.ask()

    async def ask(self) -> None:
        """Ask once. While Redis cannot be asked, the replica stays where it is."""
        before, wish = self._circuit.rotation, self._circuit.wish
        try:
            reply: Any = await self._rotate(
                keys=[keys.REPLICAS, keys.replica(self._replica_id)],
                args=[self._replica_id, self._model, wish.value, keys.replica(""), keys.REPLICA_TTL_S],
            )
        except (redis.RedisError, OSError) as error:
            log.debug("not asked: %r", error)
            return
        rotation = Rotation(reply.decode())
        self._circuit.told(rotation, time.monotonic())
        if rotation is not before:
            self._say(rotation)

    def _say(self, rotation: Rotation) -> None:
        facts = {"replica": self._replica_id, "model": self._model}
        match rotation:
            case Rotation.OUT:
                facts_out = facts | {"event": "circuit_open", "back_off_s": self._circuit.back_off_s}
                log.warning("engine keeps failing; replica leaves rotation", extra=facts_out)
            case Rotation.LAST:
                log.warning(
                    "engine keeps failing; replica stays, since it is the model's last",
                    extra=facts | {"event": "circuit_last_replica"},
                )
            case Rotation.IN:
                log.info("replica is back in rotation", extra=facts | {"event": "circuit_closed"})
