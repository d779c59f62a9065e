"""How a gateway reads answers: one reader a process, however many streams are open.

The reader is a thread; under gevent's monkey-patching it is a greenlet, and so is
everybody who waits for it. It blocks in one XREAD over all open streams and the
gateway's own wake stream, which `admit` writes to: that is how it learns at once of a
stream it did not know when it began to wait.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import hiredis
import redis

from tasks import keys
from tasks.connections import BLOCK_MS, blocking_client
from tasks.messages import decode_record
from tasks.requests.inbox import UNREADABLE, Inbox
from tasks.requests.wait_clock import WaitClock

log = logging.getLogger(__name__)

_XREAD = (b"XREAD", b"COUNT", b"1000", b"BLOCK", str(BLOCK_MS).encode(), b"STREAMS")
# Each read names all open streams, which takes Redis and us some 3 us for each. What comes while the reader waits comes
# together. Few streams are read at once: their clients gain more by it than the processor loses.
_FEW = 32
_PAUSE_S = 60e-6
_LONGEST_PAUSE_S = 0.003
_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)


def pause(streams: int) -> float:
    """Return how long to wait, in seconds, before so many streams are read again."""
    return min(_LONGEST_PAUSE_S, _PAUSE_S * max(0, streams - _FEW))


class StreamReader:
    """Reads every open stream of this process into its inboxes."""

    def __init__(self, redis_url: str, gateway_id: str) -> None:
        self._client = blocking_client(redis_url)
        self._gateway_id = gateway_id
        self._inboxes: dict[bytes, list[Inbox]] = {}
        self._last_ids: dict[bytes, bytes] = {}
        self._joining: list[Inbox] = []
        self._clock = WaitClock()
        self._stopping = False
        self._connection: Any = None
        self._thread = threading.Thread(target=self._run, name="stream-reader", daemon=True)
        self.losses = 0
        """How often the connection was lost."""

    def start(self) -> None:
        self._clock.start()
        self._thread.start()

    def stop(self) -> None:
        """Return once the reader has ended."""
        self._stopping = True
        self._clock.stop()
        self.wake()
        self._thread.join(BLOCK_MS / 1000 + 2)
        self._client.close()

    def wake(self) -> None:
        """Make the reader begin again, with the streams it did not know."""
        wake = keys.wake(self._gateway_id)
        try:
            self._client.xadd(wake, {"r": ""}, maxlen=1)
            self._client.expire(wake, keys.GATEWAY_TTL_S)
        except (redis.RedisError, OSError):
            log.debug("the reader begins again by itself, after its blocking read")

    def follow(self, request_id: str) -> Inbox:
        """Read this stream from its beginning. Call it before the request is admitted, so that nothing is missed."""
        inbox = Inbox(request_id)
        self._join(inbox)
        return inbox

    def again(self, inbox: Inbox) -> None:
        """Read the stream of `inbox` from its beginning: it is a new one under the old name."""
        self.forget(inbox)
        inbox.restart()
        self._join(inbox)

    def _join(self, inbox: Inbox) -> None:
        self._clock.add(inbox)
        self._joining.append(inbox)

    def forget(self, inbox: Inbox) -> None:
        """Stop reading for this inbox."""
        self._clock.discard(inbox)
        if inbox in self._joining:
            self._joining.remove(inbox)
        key = keys.stream(inbox.request_id).encode()
        left = [other for other in self._inboxes.get(key, ()) if other is not inbox]
        if left:
            self._inboxes[key] = left
        else:
            self._inboxes.pop(key, None)
            self._last_ids.pop(key, None)

    def __len__(self) -> int:
        return len(self._inboxes) + len(self._joining)

    def _run(self) -> None:
        wake = keys.wake(self._gateway_id).encode()
        wake_id = b"0"
        failures = 0
        while not self._stopping:
            try:
                wake_id = self._read(wake, wake_id)
                failures = 0
                if (pause_s := pause(len(self._last_ids))) > 0:
                    time.sleep(pause_s)
            except (redis.RedisError, OSError) as error:
                if not failures:
                    log.warning("redis lost", extra={"event": "redis_lost", "reason": type(error).__name__})
                # The wake stream may be a new one, whose ids are smaller.
                wake_id = b"0"
                self.losses += 1
                time.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1
            except Exception:
                # The thread's boundary: without it every answer of this gateway would hang.
                log.exception("reader broke", extra={"event": "reader_broke"})
                time.sleep(_RETRY_S[-1])

    def _read(self, wake: bytes, wake_id: bytes) -> bytes:
        """Read once and hand everything out. Returns where the wake stream stands."""
        while self._joining:
            # Only here: what is being read now may begin behind what a newcomer must see.
            inbox = self._joining.pop()
            key = keys.stream(inbox.request_id).encode()
            self._inboxes.setdefault(key, []).append(inbox)
            self._last_ids[key] = b"0"
        last_ids = self._last_ids
        reply = self._ask(*_XREAD, wake, *last_ids, wake_id, *last_ids.values())
        if not reply:
            return wake_id
        for key, records in reply.items() if isinstance(reply, dict) else reply:
            if key == wake:
                wake_id = records[-1][0]
                continue
            inboxes = self._inboxes.get(key, ())
            try:
                taken = [(record_id.decode(), decode_record(flat, record_id)) for record_id, flat in records]
            except (KeyError, ValueError):
                for inbox in inboxes:
                    inbox.fail(UNREADABLE)
            else:
                for inbox in inboxes:
                    inbox.take(taken)
            if all(inbox.ended for inbox in inboxes):
                last_ids.pop(key, None)  # each name makes every further read dearer
            elif key in last_ids:
                last_ids[key] = records[-1][0]
        return wake_id

    def _ask(self, *command: Any) -> Any:
        """Return the reply as it came. The client's own way to ask would cost a quiet reader more than all else."""
        if self._connection is None:
            self._connection = self._client.connection_pool.get_connection()
        self._connection.send_packed_command([hiredis.pack_command(command)])
        return self._connection.read_response()
