"""How a gateway reads answers: one reader a process, however many streams are open.

The reader is a thread; under gevent's monkey-patching it is a greenlet, and so is
everybody who waits for it. It blocks in one XREAD over all open streams and the
gateway's own wake stream, which `admit` writes to: that is how it learns at once of a
stream it did not know when it began to wait.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Any

import redis

from tasks import keys
from tasks.connections import BLOCK_MS, blocking_client
from tasks.messages import Event, Failed, decode_event

log = logging.getLogger(__name__)

_REFRESH_S = 3.0
_LOST = Failed("service_unavailable", "The queue was restarted and lost this request; repeat it.")
_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)


class Inbox:
    """The events of one stream, in order, for one waiter."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self.abandoned = False
        self.admitted = False

    def put(self, event: Event) -> None:
        self._events.put(event)

    def abandon(self) -> None:
        self.abandoned = True
        self._events.put(None)

    def get(self, timeout_s: float) -> Event | None:
        """Return the next event, or None after `timeout_s` or once abandoned."""
        try:
            return self._events.get(timeout=timeout_s) if timeout_s > 0 else self._events.get_nowait()
        except queue.Empty:
            return None


class StreamReader:
    """Reads every open stream of this process into its inbox."""

    def __init__(self, redis_url: str, gateway_id: str) -> None:
        self._client = blocking_client(redis_url)
        self._gateway_id = gateway_id
        self._inboxes: dict[bytes, Inbox] = {}
        self._last_ids: dict[bytes, bytes] = {}
        self._read_out: list[bytes] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="stream-reader", daemon=True)
        self.connected = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return once the reader has ended."""
        self._stopping = True
        wake = keys.wake(self._gateway_id)
        try:
            self._client.xadd(wake, {"r": ""}, maxlen=1)
            self._client.expire(wake, keys.GATEWAY_TTL_S)
        except (redis.RedisError, OSError):
            log.debug("the reader ends by itself, after its blocking read")
        self._thread.join(BLOCK_MS / 1000 + 2)
        self._client.close()

    def follow(self, request_id: str) -> Inbox:
        """Read this stream from its beginning. Call it before the request is admitted, so that nothing is missed."""
        key = keys.stream(request_id).encode()
        inbox = Inbox()
        self._last_ids[key] = b"0"
        self._inboxes[key] = inbox
        return inbox

    def forget(self, request_id: str, *, read_out: bool) -> None:
        """Stop reading the stream; remove it from Redis as well when it was read to its end."""
        key = keys.stream(request_id).encode()
        self._inboxes.pop(key, None)
        self._last_ids.pop(key, None)
        if read_out:
            self._read_out.append(key)

    def __len__(self) -> int:
        return len(self._inboxes)

    def _run(self) -> None:
        wake = keys.wake(self._gateway_id).encode()
        wake_id = b"0"
        refreshed = float("-inf")
        failures = 0
        while not self._stopping:
            try:
                if time.monotonic() - refreshed > _REFRESH_S:
                    self._refresh()
                    refreshed = time.monotonic()
                if failures:
                    self._give_up_on_lost_streams()
                wake_id = self._read(wake, wake_id)
                failures, self.connected = 0, True
            except (redis.RedisError, OSError) as error:
                if not failures:
                    log.warning("redis lost", extra={"event": "redis_lost", "reason": type(error).__name__})
                self.connected = False
                time.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1

    def _read(self, wake: bytes, wake_id: bytes) -> bytes:
        """Read once and hand everything out. Returns where the wake stream stands."""
        streams = {wake: wake_id, **self._last_ids}
        reply: Any = self._client.execute_command(  # type: ignore[no-untyped-call]  # redis-py's own gap
            "XREAD", "COUNT", 1000, "BLOCK", BLOCK_MS, "STREAMS", *streams.keys(), *streams.values()
        )
        if not reply:
            return wake_id
        for key, records in reply.items() if isinstance(reply, dict) else reply:
            if key == wake:
                wake_id = records[-1][0]
                continue
            inbox = self._inboxes.get(key)
            if inbox is None:
                continue
            last = self._last_ids.get(key, b"0")
            for record_id, fields in records:
                if not follows(last, record_id):
                    inbox.put(_LOST)
                    break
                last = record_id
                if (event := decode_event(fields)) is not None:
                    inbox.put(event)
            if key in self._last_ids:
                self._last_ids[key] = last
        return wake_id

    def _refresh(self) -> None:
        """Say that this gateway lives, and remove streams that were read to their end."""
        gone, self._read_out = self._read_out, []
        pipe = self._client.pipeline(transaction=False)
        pipe.set(keys.gateway(self._gateway_id), "", ex=keys.GATEWAY_TTL_S)
        pipe.expire(keys.wake(self._gateway_id), keys.GATEWAY_TTL_S)
        if gone:
            pipe.unlink(*gone)
        pipe.execute()

    def _give_up_on_lost_streams(self) -> None:
        """After a lost connection: end the answers of which Redis has forgotten something.

        A Redis that was restarted may have gone back in time, by all or by a moment.
        """
        open_now = [key for key, inbox in list(self._inboxes.items()) if inbox.admitted]
        pipe = self._client.pipeline(transaction=False)
        for key in open_now:
            pipe.exists(key, keys.request(key.rpartition(b":")[2].decode()))
            pipe.xrevrange(key, count=1)
        replies = pipe.execute()
        for key, stands, newest in zip(open_now, replies[::2], replies[1::2], strict=True):
            read = self._last_ids.get(key, b"0")
            forgotten = read != b"0" and (not newest or _parts(newest[0][0]) < _parts(read))
            if (not stands or forgotten) and (inbox := self._inboxes.get(key)):
                inbox.put(_LOST)


def follows(last: bytes, record_id: bytes) -> bool:
    """Say whether nothing can be missing between two records of a stream; `last` is b"0" before the first."""
    attempt, seq = _parts(record_id)
    return seq == 0 or (attempt, seq - 1) == _parts(last)


def _parts(record_id: bytes) -> tuple[int, int]:
    attempt, _, seq = record_id.partition(b"-")
    return int(attempt), int(seq or 0)
