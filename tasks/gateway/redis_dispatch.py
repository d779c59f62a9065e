"""`tasks.requests.dispatch` over Redis: one per gateway process."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import redis

from tasks.connections import command_client
from tasks.errors import (
    IdempotencyKeyReusedError,
    RequestNotFoundError,
    ServerOverloadedError,
    ServiceUnavailableError,
)
from tasks.gateway.cold_watch import ColdWatch
from tasks.gateway.followed import Followed
from tasks.gateway.gateway_watch import GatewayWatch
from tasks.gateway.ready_models import ReadyModels
from tasks.gateway.stream_answer import StreamAnswer
from tasks.gateway.threshold import Threshold
from tasks.messages import Call
from tasks.records.outlooks import OutlookStore
from tasks.requests.cold_start import NO_TERMS, Deferred, Terms
from tasks.requests.dispatch import Answer, Once, RequestFacts, RequestStatus
from tasks.requests.request_store import Admission, Full, Hindered, Queued, Readiness, RequestStore, Reused, Same, Slow
from tasks.requests.stream_reader import StreamReader
from tasks.settings import Settings
from workers.placement.actions import Explanation

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_HEALTH_EVERY_S = 1.0
# A call that was accepted once is not refused, whatever waits.
_ACCEPTED = -1
_UNAVAILABLE = "The queue cannot be reached; try again in a moment."
_UNKNOWN = "There is no such request here, or it is no longer kept."


class RedisDispatcher:
    """Build it in the process that uses it (after the fork); it starts its threads with the first call."""

    def __init__(self, settings: Settings) -> None:
        self.gateway_id = f"{settings.node_id}-{secrets.token_hex(6)}"
        self._client = command_client(settings.redis_url)
        self._store = RequestStore(self._client)
        self._reader = StreamReader(settings.redis_url, self.gateway_id)
        self._ready = ReadyModels(self._client)
        self._outlooks = OutlookStore(self._client)
        self._threshold = Threshold(self._client, self._ready)
        self._watch = GatewayWatch(
            self._client,
            self.gateway_id,
            self._reader,
            self._store,
            cold=ColdWatch(self._client, self._store, self._ready),
            readmit=self._readmit,
        )
        self._starting = threading.Lock()
        self._started = False
        self._health = (float("-inf"), False)

    def ready(self, model: str) -> bool:
        self._start()
        return model in self._ready

    def outlook(self, model: str) -> Explanation | None:
        return _reached(lambda: self._outlooks.of(model))

    def submit(self, call: Call, *, max_depth: int, once: Once | None = None, terms: Terms = NO_TERMS) -> Answer:
        self._start()
        if not call.gateway and not call.keep_s:
            call = dataclasses.replace(call, gateway=self.gateway_id)
        try:
            return self._submit(call, max_depth, once, terms)
        except RequestNotFoundError:
            # The earlier call of the key was forgotten at this very moment: the key is free now.
            return self._submit(call, max_depth, once, terms)

    def _submit(self, call: Call, max_depth: int, once: Once | None, terms: Terms) -> Answer:
        warm = call.model in self._ready
        obstacle = None if warm else _tried_twice(lambda: self._threshold.obstacle(call.model, terms))
        readiness = Readiness.WARM if warm else Readiness.HINDERED if obstacle else Readiness.COLD
        followed = Followed(inbox=self._reader.follow(call.id), call=call, again=True, terms=terms)
        with contextlib.ExitStack() as undo:
            if not call.keep_s:
                # It may have been queued all the same, and the client is told that it was not.
                undo.callback(self._watch.cancel, call)
            undo.callback(self._reader.forget, followed.inbox)
            admission = self._admit(call, max_depth, once, readiness)
            undo.pop_all()
        if isinstance(admission, Queued):
            if not warm:
                self._threshold.nudge()
            return self._answer(followed)
        self._reader.forget(followed.inbox)
        match admission:
            case Full(waiting):
                raise ServerOverloadedError(f"{waiting} requests are waiting for this model already; try again later.")
            case Slow(waiting):
                text = f"{waiting} requests are waiting for this model, longer than a new one may; try again later."
                raise ServerOverloadedError(text)
            case Hindered():
                assert obstacle is not None
                if isinstance(obstacle, Deferred):
                    _reached(lambda: self._threshold.ask(call.model))
                raise obstacle
            case Same(request_id):
                return self.follow(request_id, call.caller)
            case Reused():
                raise IdempotencyKeyReusedError("This Idempotency-Key was used for another request; take a new one.")

    def find(self, request_id: str, caller: str) -> RequestFacts:
        call, facts = self._kept(request_id, caller)
        if facts.status is RequestStatus.QUEUED:
            # Nobody may be following it, so whoever asks makes sure that its message is there.
            _reached(lambda: self._store.mend(call))
            facts = dataclasses.replace(facts, position=_reached(lambda: self._store.position(call)))
        return facts

    def follow(self, request_id: str, caller: str) -> Answer:
        self._start()
        call, _ = self._kept(request_id, caller)
        inbox = self._reader.follow(request_id)
        self._reader.wake()
        return self._answer(Followed(inbox=inbox, call=call, again=False))

    def cancel(self, request_id: str, caller: str) -> RequestFacts:
        call, facts = self._kept(request_id, caller)
        if facts.status in (RequestStatus.QUEUED, RequestStatus.IN_PROGRESS):
            _reached(lambda: self._store.cancel(call))
        return self.find(request_id, caller)

    def healthy(self) -> bool:
        checked_at, healthy = self._health
        now = time.monotonic()
        if now - checked_at > _HEALTH_EVERY_S:
            try:
                healthy = bool(self._client.ping())
            except (redis.RedisError, OSError):
                healthy = False
            self._health = (now, healthy)
        return healthy

    def close(self) -> None:
        if self._started:
            self._watch.stop()
            self._reader.stop()
        self._client.close()

    def _start(self) -> None:
        with self._starting:
            if not self._started:
                self._watch.start()
                self._reader.start()
                self._started = True

    def _answer(self, followed: Followed) -> StreamAnswer:
        self._watch.add(followed)
        return StreamAnswer(followed, self._reader, self._watch, self._store, self._outlooks)

    def _kept(self, request_id: str, caller: str) -> tuple[Call, RequestFacts]:
        found = _reached(lambda: self._store.record(request_id))
        if found is None or found[0].caller != caller or not found[0].keep_s:
            raise RequestNotFoundError(_UNKNOWN)
        return found

    def _readmit(self, call: Call) -> None:
        self._store.admit(call, gateway_id=self.gateway_id, max_depth=_ACCEPTED)

    def _admit(self, call: Call, max_depth: int, once: Once | None, readiness: Readiness) -> Admission:
        def admit() -> Admission:
            return self._store.admit(
                call, gateway_id=self.gateway_id, max_depth=max_depth, once=once, readiness=readiness
            )

        return _tried_twice(admit)  # admitting twice is harmless


def _tried_twice(command: Callable[[], _T]) -> _T:
    """As `_reached`, for what may be the first command on a connection that has been dead for long."""

    def twice() -> _T:
        try:
            return command()
        except (redis.ConnectionError, OSError):
            return command()

    return _reached(twice)


def _reached(command: Callable[[], _T]) -> _T:
    """Run a command. Raises ServiceUnavailableError when Redis is out of reach, or full."""
    try:
        return command()
    except (redis.RedisError, OSError) as error:
        log.warning("redis not reached", extra={"event": "redis_lost", "reason": type(error).__name__})
        raise ServiceUnavailableError(_UNAVAILABLE) from error
