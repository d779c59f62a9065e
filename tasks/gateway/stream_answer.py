"""The answer to one call, as its gateway follows it."""

from __future__ import annotations

import logging

import redis

from tasks.errors import RequestCancelledError, error_of
from tasks.gateway.followed import Followed
from tasks.gateway.gateway_watch import GatewayWatch
from tasks.messages import Done, Event, Failed
from tasks.records.outlooks import OutlookStore
from tasks.requests import cold_start
from tasks.requests.cold_start import Standing
from tasks.requests.inbox import Forward
from tasks.requests.request_store import RequestStore
from tasks.requests.stream_reader import StreamReader

log = logging.getLogger(__name__)


class StreamAnswer:
    """The answer to one call; satisfies `tasks.requests.dispatch.Answer`."""

    def __init__(
        self, followed: Followed, reader: StreamReader, watch: GatewayWatch, store: RequestStore, outlooks: OutlookStore
    ) -> None:
        self._followed = followed
        self._inbox = followed.inbox
        self._reader = reader
        self._watch = watch
        self._store = store
        self._outlooks = outlooks
        self._ended = False
        self._closed = False

    @property
    def request_id(self) -> str:
        return self._followed.call.id

    def next(self, timeout_s: float, forward: Forward | None = None) -> Event | None:
        event = self._inbox.get(timeout_s, forward)
        if self._inbox.abandoned:
            raise RequestCancelledError("The client has left.")
        if isinstance(event, Done | Failed):
            self._ended = True
        if isinstance(event, Failed) and self._inbox.cut:
            # Not what the call ended with: it may go on, and be followed again.
            raise error_of(event.code, event.message, event.param, final=event.final, retry_after_s=event.retry_after_s)
        return event

    def standing(self) -> Standing | None:
        if not self._followed.waits:
            return None
        call = self._followed.call
        try:
            position = self._store.position(call)
            return None if position is None else cold_start.standing(self._outlooks.of(call.model), position)
        except (redis.RedisError, OSError) as error:
            log.debug("standing not known: %r", error)
            return None

    def abandon(self) -> None:
        self._inbox.abandon()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        kept = self._followed.call.keep_s > 0
        self._reader.forget(self._inbox)
        self._watch.remove(self._inbox, read_out=self._ended and not kept)
        if (not self._ended or self._inbox.cut) and not kept:
            self._cancel()

    def _cancel(self) -> None:
        try:
            told = self._store.cancel(self._followed.call)
        except (redis.RedisError, OSError) as error:
            self._watch.cancel(self._followed.call)
            log.warning("cancel not sent", extra={"event": "cancel_failed", "reason": type(error).__name__})
        else:
            log.info(
                "request cancelled",
                extra={"event": "request_cancelled", "request": self._followed.call.id, "running": told},
            )
