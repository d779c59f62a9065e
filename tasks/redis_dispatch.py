"""`tasks.dispatch` over Redis: one per gateway process."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import redis

from tasks.connections import command_client
from tasks.dispatch import Answer, Once, RequestFacts, RequestStatus
from tasks.errors import (
    IdempotencyKeyReusedError,
    ModelLoadFailedError,
    RequestCancelledError,
    RequestNotFoundError,
    ServerOverloadedError,
    ServiceUnavailableError,
    error_of,
)
from tasks.gateway_watch import UNLOADABLE, GatewayWatch
from tasks.inbox import Inbox
from tasks.messages import Call, Done, Event, Failed
from tasks.request_store import Admission, Full, Queued, RequestStore, Reused, Same, Slow, Unloadable
from tasks.settings import Settings
from tasks.stream_reader import StreamReader

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
        self._watch = GatewayWatch(self._client, self.gateway_id, self._reader, self._store, self._readmit)
        self._starting = threading.Lock()
        self._started = False
        self._health = (float("-inf"), False)

    def submit(self, call: Call, *, max_depth: int, once: Once | None = None) -> Answer:
        try:
            return self._submit(call, max_depth, once)
        except RequestNotFoundError:
            # The earlier call of the key was forgotten at this very moment: the key is free now.
            return self._submit(call, max_depth, once)

    def _submit(self, call: Call, max_depth: int, once: Once | None) -> Answer:
        self._start()
        if not call.gateway and not call.keep_s:
            call = dataclasses.replace(call, gateway=self.gateway_id)
        inbox = self._reader.follow(call.id)
        try:
            admission = self._admit(call, max_depth, once)
        except BaseException:
            self._reader.forget(inbox)
            if not call.keep_s:
                # It may have been queued all the same, and the client is told that it was not.
                self._watch.cancel(call)
            raise
        if isinstance(admission, Queued):
            return self._answer(call, inbox, again=True)
        self._reader.forget(inbox)
        match admission:
            case Full(waiting):
                raise ServerOverloadedError(f"{waiting} requests are waiting for this model already; try again later.")
            case Slow(waiting):
                text = f"{waiting} requests are waiting for this model, longer than a new one may; try again later."
                raise ServerOverloadedError(text)
            case Unloadable():
                raise ModelLoadFailedError(UNLOADABLE.message)
            case Same(request_id):
                return self.follow(request_id, call.caller)
            case Reused():
                raise IdempotencyKeyReusedError("This Idempotency-Key was used for another request; take a new one.")

    def find(self, request_id: str, caller: str) -> RequestFacts:
        call, facts = self._kept(request_id, caller)
        if facts.status is RequestStatus.QUEUED:
            # Nobody may be following it, so whoever asks makes sure that its message is there.
            _reached(lambda: self._store.mend(call))
        return facts

    def follow(self, request_id: str, caller: str) -> Answer:
        self._start()
        call, _ = self._kept(request_id, caller)
        inbox = self._reader.follow(request_id)
        self._reader.wake()
        return self._answer(call, inbox, again=False)

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

    def _answer(self, call: Call, inbox: Inbox, *, again: bool) -> StreamAnswer:
        self._watch.add(inbox, call, again=again)
        return StreamAnswer(call, inbox, self._reader, self._watch, self._store)

    def _kept(self, request_id: str, caller: str) -> tuple[Call, RequestFacts]:
        found = _reached(lambda: self._store.record(request_id))
        if found is None or found[0].caller != caller or not found[0].keep_s:
            raise RequestNotFoundError(_UNKNOWN)
        return found

    def _readmit(self, call: Call) -> None:
        self._store.admit(call, gateway_id=self.gateway_id, max_depth=_ACCEPTED)

    def _admit(self, call: Call, max_depth: int, once: Once | None) -> Admission:
        def admit() -> Admission:
            return self._store.admit(call, gateway_id=self.gateway_id, max_depth=max_depth, once=once)

        def twice() -> Admission:
            try:
                return admit()
            except (redis.ConnectionError, OSError):
                # The connection may have been dead for long, and admitting twice is harmless.
                return admit()

        return _reached(twice)


class StreamAnswer:
    """The answer to one call; satisfies `tasks.dispatch.Answer`."""

    def __init__(
        self, call: Call, inbox: Inbox, reader: StreamReader, watch: GatewayWatch, store: RequestStore
    ) -> None:
        self._call = call
        self._inbox = inbox
        self._reader = reader
        self._watch = watch
        self._store = store
        self._ended = False
        self._closed = False

    @property
    def request_id(self) -> str:
        return self._call.id

    def next(self, timeout_s: float) -> Event | None:
        event = self._inbox.get(timeout_s)
        if self._inbox.abandoned:
            raise RequestCancelledError("The client has left.")
        if isinstance(event, Done | Failed):
            self._ended = True
        if isinstance(event, Failed) and self._inbox.cut:
            # Not what the call ended with: it may go on, and be followed again.
            raise error_of(event.code, event.message, event.param, final=event.final)
        return event

    def abandon(self) -> None:
        self._inbox.abandon()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        kept = self._call.keep_s > 0
        self._reader.forget(self._inbox)
        self._watch.remove(self._inbox, read_out=self._ended and not kept)
        if (not self._ended or self._inbox.cut) and not kept:
            self._cancel()

    def _cancel(self) -> None:
        try:
            told = self._store.cancel(self._call)
        except (redis.RedisError, OSError) as error:
            self._watch.cancel(self._call)
            log.warning("cancel not sent", extra={"event": "cancel_failed", "reason": type(error).__name__})
        else:
            log.info(
                "request cancelled",
                extra={"event": "request_cancelled", "request": self._call.id, "running": told},
            )


def _reached(command: Callable[[], _T]) -> _T:
    """Run a command. Raises ServiceUnavailableError when Redis is out of reach, or full."""
    try:
        return command()
    except (redis.RedisError, OSError) as error:
        log.warning("redis not reached", extra={"event": "redis_lost", "reason": type(error).__name__})
        raise ServiceUnavailableError(_UNAVAILABLE) from error
