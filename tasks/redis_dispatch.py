"""`tasks.dispatch` over Redis: one per gateway process."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import threading
import time

import redis

from tasks.connections import command_client
from tasks.dispatch import Answer
from tasks.errors import RequestCancelledError, ServerOverloadedError, ServiceUnavailableError
from tasks.messages import Call, Done, Event, Failed
from tasks.request_store import RequestStore, Ticket
from tasks.settings import Settings
from tasks.stream_reader import Inbox, StreamReader

log = logging.getLogger(__name__)

_HEALTH_EVERY_S = 1.0
_UNAVAILABLE = "The queue cannot be reached; try again in a moment."


class RedisDispatcher:
    """Build it in the process that uses it (after the fork); it starts its reader with the first call."""

    def __init__(self, settings: Settings) -> None:
        self.gateway_id = f"{settings.node_id}-{secrets.token_hex(6)}"
        self._client = command_client(settings.redis_url)
        self._store = RequestStore(self._client)
        self._reader = StreamReader(settings.redis_url, self.gateway_id)
        self._starting = threading.Lock()
        self._started = False
        self._health = (float("-inf"), False)

    def submit(self, call: Call, *, max_depth: int) -> Answer:
        self._start()
        if not call.gateway:
            call = dataclasses.replace(call, gateway=self.gateway_id)
        inbox = self._reader.follow(call.id)
        try:
            ticket = self._admit(call, max_depth)
        except BaseException:
            self._reader.forget(call.id, read_out=False)
            raise
        inbox.admitted = True
        return StreamAnswer(ticket, inbox, self._reader, self._store)

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
            self._reader.stop()
        self._client.close()

    def _start(self) -> None:
        with self._starting:
            if not self._started:
                self._reader.start()
                self._started = True

    def _admit(self, call: Call, max_depth: int) -> Ticket:
        try:
            admitted = self._admit_once_more(call, max_depth)
        except (redis.RedisError, OSError) as error:
            log.warning("request not queued", extra={"event": "admit_failed", "reason": type(error).__name__})
            raise ServiceUnavailableError(_UNAVAILABLE) from error
        if isinstance(admitted, int):
            raise ServerOverloadedError(f"{admitted} requests are waiting for this model already; try again later.")
        return admitted

    def _admit_once_more(self, call: Call, max_depth: int) -> Ticket | int:
        """Admit, and once more on a connection that turns out to be dead: admitting twice is harmless."""
        try:
            return self._store.admit(call, max_depth=max_depth)
        except (redis.ConnectionError, OSError):
            return self._store.admit(call, max_depth=max_depth)


class StreamAnswer:
    """The answer to one admitted call; satisfies `tasks.dispatch.Answer`."""

    def __init__(self, ticket: Ticket, inbox: Inbox, reader: StreamReader, store: RequestStore) -> None:
        self._ticket = ticket
        self._inbox = inbox
        self._reader = reader
        self._store = store
        self._ended = False
        self._closed = False

    def next(self, timeout_s: float) -> Event | None:
        event = self._inbox.get(timeout_s)
        if self._inbox.abandoned:
            raise RequestCancelledError("The client has left.")
        if isinstance(event, Done | Failed):
            self._ended = True
        return event

    def abandon(self) -> None:
        self._inbox.abandon()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._reader.forget(self._ticket.call.id, read_out=self._ended)
        if not self._ended:
            self._cancel()

    def _cancel(self) -> None:
        try:
            told = self._store.cancel(self._ticket)
        except (redis.RedisError, OSError) as error:
            # The worker finds out by itself: this gateway's key lapses, or the deadline does.
            log.warning("cancel not sent", extra={"event": "cancel_failed", "reason": type(error).__name__})
        else:
            log.info(
                "request cancelled",
                extra={"event": "request_cancelled", "request": self._ticket.call.id, "running": told},
            )
