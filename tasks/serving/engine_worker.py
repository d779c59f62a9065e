"""What an engine worker does besides being a Celery worker: it holds the engine, answers
claimed calls on their streams, obeys cancellations, and says how it is.

It is the pool's resident (`workers.host.resident`), chosen by `engine_resident` in
celeryconfig. Which model it serves stands in its environment: `CELERITY_MODEL` and
`CELERITY_REPLICA_ID`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from typing import Any

import redis

from tasks import keys
from tasks.connections import BLOCK_MS, async_blocking_client, async_client, command_client
from tasks.records.circuit import Circuit
from tasks.records.moves import Move
from tasks.records.replicas import ReplicaFacts, ReplicaState, advance
from tasks.requests.pulse import ALIVE_S
from tasks.serving.claim_store import ClaimStore
from tasks.serving.give_way import GiveWay
from tasks.serving.heartbeat import Heartbeat
from tasks.serving.identity import Identity
from tasks.serving.inference import Inference
from tasks.serving.line import Line
from tasks.serving.rotation import Rotator
from tasks.serving.sleeper import Sleeper
from tasks.serving.streams import StreamWriter
from tasks.settings import Settings
from workers import engine as engines
from workers.engine.base import Engine, EngineDeadError
from workers.host.appetite import Shares
from workers.host.resident import Die
from workers.memory import tree_mib

log = logging.getLogger(__name__)

# Above this the engine would soon have to put running requests back (vLLM's preemption).
KV_FULL = 0.95
_TICK_S = 0.25
_CHECK_S = 1.0
_MEMORY_EVERY_S = 10.0
_RETRY_S = 0.2


class EngineWorker:
    """Satisfies `workers.host.resident.Resident`."""

    def __init__(self, die: Die) -> None:
        self._die = die
        self._settings = Settings.from_env()
        self._identity = Identity.of_this_process(self._settings)
        self.shares = Shares(
            share=self._settings.bulk_share,
            headroom=self._settings.bulk_headroom,
            slowdown=self._settings.bulk_slowdown,
        )
        self._state = ReplicaState.STARTING
        self._ready_at: float | None = None
        self._slept_at: float | None = None
        self._engine: Engine | None = None
        self._inference: Inference | None = None
        self._sleeper: Sleeper | None = None
        self._told_in_flight = 0
        self._circuit = Circuit()
        self._background: list[asyncio.Task[None]] = []
        self._ticked_at = time.monotonic()
        self._memory = (float("-inf"), 0)
        client = command_client(self._settings.redis_url)
        self._heartbeat = Heartbeat(client, self._identity.replica_id, self)

    @property
    def inference(self) -> Inference:
        assert self._inference is not None, "tasks come only after start"
        return self._inference

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heartbeat.start()
        began = time.monotonic()
        # Importing an engine's library takes seconds, and the loop has nothing else to do yet;
        # a thread keeps it responsive to a worker that is told to stop meanwhile.
        engine = self._engine = await asyncio.to_thread(engines.create, self._identity.spec)
        await engine.start()
        self._client = async_client(self._settings.redis_url)
        self._blocking = async_blocking_client(self._settings.redis_url)
        self._line = Line(self._client)
        writer = StreamWriter(self._line, self._identity.replica_id)
        claims = ClaimStore(self._client, self._line, self._identity.replica_id)
        self._inference = Inference(engine, claims, writer, self._circuit, self._die)
        self._sleeper = Sleeper(engine, self._inference, self._move, lambda: self._state)
        rotator = Rotator(self._client, self._identity.replica_id, self._identity.spec.id, self._circuit)
        give_way = GiveWay(
            self._client,
            self._identity.spec.id,
            self._inference,
            self.shares,
            seats=self._seats,
            limit=self.limit,
            room=self.room_beside,
            after_s=self._settings.give_way_s,
        )
        parts = (writer.run(), rotator.run(), self._sleeper.run(), give_way.run(), self._inference.checkpoints.run())
        work = (*parts, self._tick(), self._watch(), self._obey())
        self._background = [asyncio.create_task(coroutine) for coroutine in work]
        for task in self._background:
            task.add_done_callback(self._on_background_end)
        # What is loaded stays. To look through it at every full collection would hold up all answers, and under vLLM
        # took a quarter of a short request's time.
        gc.collect()
        gc.freeze()
        log.info(
            "engine ready",
            extra={
                "event": "engine_ready",
                "replica": self._identity.replica_id,
                "model": self._identity.spec.id,
                "load_s": round(time.monotonic() - began, 1),
            },
        )

    def limit(self) -> int:
        # A hung loop looks dead to others: what is taken now, nobody would look for.
        if self._engine is None or not self._takes_work() or self.alive_s() <= 0:
            return 0
        load = self._engine.load()
        return 0 if load.waiting or load.kv_usage >= KV_FULL else self._circuit.limit(load.seats, time.monotonic())

    def crowded(self) -> bool:
        # Of the cache too, a part is left for interactive requests.
        return self._engine is None or self._engine.load().kv_usage >= KV_FULL - self.shares.headroom

    def room_beside(self, interactive: int) -> int | None:
        return None if self._engine is None else self._engine.room_beside(interactive, self.shares.slowdown)

    def _takes_work(self) -> bool:
        return self._state is ReplicaState.READY and not (self._sleeper is not None and self._sleeper.is_dozing)

    def _seats(self) -> int:
        """Return all seats of an engine that may use all of them; 0 of any other, whose room nothing would widen."""
        if self._engine is None or not self._takes_work():
            return 0
        seats = self._engine.load().seats
        return seats if self._circuit.limit(seats, time.monotonic()) == seats else 0

    def consuming(self) -> None:
        if self._state is ReplicaState.STARTING:
            self._move(ReplicaState.READY)

    def draining(self) -> None:
        if self._state in (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.SLEEPING):
            self._move(ReplicaState.DRAINING)

    def alive_s(self) -> float:
        # Counted from the loop's latest turn: from a hung one on, the worker dies by itself.
        loading = self._state is ReplicaState.STARTING
        return ALIVE_S if loading else ALIVE_S - (time.monotonic() - self._ticked_at)

    def busy(self) -> bool:
        idle = self._state in (ReplicaState.READY, ReplicaState.SLEEPING)
        return not idle or self._inference is None or self._inference.busy

    async def close(self) -> None:
        pending = set(self._background)
        while pending:
            # Again until it works: redis-py can swallow a cancellation that arrives together with a reply.
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.5)
        if self._engine is not None:
            await self._engine.close()
        if self._inference is not None:
            await self._line.close()
            await self._client.aclose()
            await self._blocking.aclose()
        await asyncio.to_thread(self._heartbeat.stop)

    def facts(self) -> dict[str, Any]:
        load = self._engine.load() if self._engine else None
        return {
            "model": self._identity.spec.id,
            "replica": self._identity.replica_id,
            "device": self._identity.device,
            "state": self._state.value,
            "rotation": self._circuit.rotation.value,
            "seats": load.seats if load else 0,
            "running": load.running if load else 0,
            "waiting": load.waiting if load else 0,
            "kv_usage": round(load.kv_usage, 3) if load else 0.0,
        }

    def _move(self, to: ReplicaState) -> None:
        self._state = advance(self._state, to)
        if to is ReplicaState.READY:
            self._ready_at, self._slept_at = time.time(), None
        elif to is ReplicaState.SLEEPING:
            self._slept_at = time.time()
        self._heartbeat.soon()
        log.info(
            "replica %s",
            to.value,
            extra={"event": f"replica_{to.value}", "replica": self._identity.replica_id},
        )

    def replica_facts(self) -> ReplicaFacts:
        now = time.time()
        load = self._engine.load() if self._engine and self._state is not ReplicaState.STARTING else None
        measured_at, mib = self._memory
        if time.monotonic() - measured_at > _MEMORY_EVERY_S:
            mib = tree_mib(os.getpid())
            self._memory = (time.monotonic(), mib)
        need = self._engine.sleep_need if self._engine and load else None
        self._told_in_flight = load.running if load else 0
        return ReplicaFacts(
            id=self._identity.replica_id,
            model=self._identity.spec.id,
            node=self._identity.node,
            device=self._identity.device,
            state=self._state,
            pid=os.getpid(),
            in_flight=self._told_in_flight,
            seats=load.seats if load else 0,
            kv_usage=load.kv_usage if load else 0.0,
            memory_mib=mib,
            started_at=self._identity.started_at,
            last_used_at=self._inference.last_used_at if self._inference else None,
            heartbeat_at=now,
            ready_at=self._ready_at,
            slept_at=self._slept_at,
            reserved_mib=self._identity.reserved_mib,
            can_sleep=need is not None,
            sleep_mib=need.device_mib if need else 0,
            sleep_ram_mib=need.ram_mib if need else 0,
            kv_mib=self._engine.kv_mib if self._engine else None,
        )

    def waiting_gateways(self) -> frozenset[str]:
        return self._inference.gateways() if self._inference else frozenset()

    def on_dead_gateways(self, dead: frozenset[str]) -> None:
        self._loop.call_soon_threadsafe(lambda: self.inference.drop_of_gateways(dead))

    def on_lapse(self) -> None:
        if self._inference is not None:
            asyncio.run_coroutine_threadsafe(self._inference.verify(), self._loop)

    def on_hang(self) -> None:
        self._die("its event loop hangs")

    def on_lease_lost(self) -> None:
        if self._inference is not None:
            log.error("lease lost", extra={"event": "lease_lost", "replica": self._identity.replica_id})
            self._loop.call_soon_threadsafe(self._inference.give_up_all)

    def _on_background_end(self, task: asyncio.Task[None]) -> None:
        """Without any one of these the worker only seems to work."""
        if not task.cancelled() and (error := task.exception()):
            self._die(f"a background task broke: {type(error).__name__}")

    async def _tick(self) -> None:
        assert self._engine is not None
        while True:
            self._ticked_at = time.monotonic()
            if self._told_in_flight and not self._engine.load().running:
                # Somebody may wait for its room.
                self._heartbeat.soon()
            elif self.inference.busy and self._heartbeat.resting:
                # From now on its death would be noticed by those who wait.
                self._heartbeat.soon()
            await asyncio.sleep(_TICK_S)

    async def _watch(self) -> None:
        """End the worker when its engine has died, whether or not a request noticed."""
        assert self._engine is not None
        while True:
            try:
                await self._engine.check()
            except EngineDeadError as error:
                self.inference.engine_died(error)
                return
            await asyncio.sleep(_CHECK_S)

    async def _obey(self) -> None:
        """Follow this replica's control stream: the cancellations and the moves meant for it alone."""
        key, last = keys.control(self._identity.replica_id), b"0"
        while True:
            try:
                reply: Any = await self._blocking.execute_command(  # type: ignore[no-untyped-call]  # redis-py's own gap
                    "XREAD", "COUNT", 1000, "BLOCK", BLOCK_MS, "STREAMS", key, last
                )
            except (redis.RedisError, OSError):
                await asyncio.sleep(_RETRY_S)
                continue
            for _, records in (reply.items() if isinstance(reply, dict) else reply) or ():
                for last, fields in records:  # noqa: B007 - the last id read is where the next read begins
                    if (move := Move.decode(fields)) is None:
                        self.inference.drop(fields[b"cancel"].decode())
                    elif self._sleeper is not None:
                        self._sleeper.told(move)
