"""How the feeder learns of the ends of calls: one blocking read over all that it has in Redis.

A stream that does not exist and one that is only quiet look the same to a reader. So a
call that was silent for a while is looked up: its message may have got lost between queue
and worker, or Redis may have forgotten it altogether.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import redis

from tasks import keys
from tasks.bulk.running import Running
from tasks.messages import Done, Failed, Started, decode_event, parse_id
from tasks.requests.request_store import RequestStore

log = logging.getLogger(__name__)

_UNREADABLE = Failed("internal_error", "The answer could not be read.")
_MOST_LOOKED_AT = 500

End = tuple[Running, Done | Failed]


class Collector:
    """What runs, by request id. Blocking; raises redis.RedisError. Times are those of the monotonic clock."""

    def __init__(self, client: redis.Redis, blocking: redis.Redis, store: RequestStore) -> None:
        """`blocking` is for the one read that waits."""
        self._client = client
        self._blocking = blocking
        self._store = store
        self._running: dict[str, Running] = {}
        self._wake_id = b"0"
        self.woken = False
        """Whether somebody has asked the feeder to look, since this was last set to False."""

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Running]:
        return iter(list(self._running.values()))

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._running

    def follow(self, running: Iterable[Running]) -> None:
        for it in running:
            self._running.setdefault(it.taken.request_id, it)

    def let_go(self, running: Iterable[Running]) -> None:
        """Follow these no longer."""
        for it in running:
            self._running.pop(it.taken.request_id, None)

    def clear(self) -> None:
        self._running.clear()

    def count(self) -> tuple[Counter[str], Counter[str]]:
        """Return how many wait in the queue of each model, and how many have a worker."""
        queued = Counter(it.call.model for it in self._running.values() if not it.started)
        return queued, Counter(it.call.model for it in self._running.values() if it.started)

    def bytes(self) -> int:
        """Return how large the lines are that are followed."""
        return sum(it.taken.line.length for it in self._running.values())

    def batches(self) -> Counter[str]:
        """Return how many of each batch are followed."""
        return Counter(it.taken.batch for it in self._running.values())

    def of_batch(self, batch: str) -> list[Running]:
        return [it for it in self._running.values() if it.taken.batch == batch]

    def read(self, block_ms: int, now: float) -> list[End]:
        """Return what has ended, and follow it no longer; waits for the first news so long. 0: does not wait."""
        places = [keys.stream(request_id).encode() for request_id in self._running]
        args: list[Any] = ["XREAD", "COUNT", 1000]
        if block_ms > 0:
            args += ["BLOCK", block_ms]
        args += ["STREAMS", keys.BULK_WAKE, *places, self._wake_id]
        args += [it.last_id for it in self._running.values()]
        reply: Any = self._blocking.execute_command(*args)  # type: ignore[no-untyped-call]  # redis-py's own gap
        if not reply:
            return []
        by_place = dict(zip(places, self._running.values(), strict=True))
        ends: list[End] = []
        for key, records in reply.items() if isinstance(reply, dict) else reply:
            it = by_place.get(key)
            if it is None:
                self._wake_id = records[-1][0]
                self.woken = True
                continue
            it.last_id = records[-1][0]
            it.heard_at = now
            end = _take(it, records, now)
            if end is not None:
                ends.append((it, end))
        self.let_go(it for it, _ in ends)
        return ends

    def disturbed(self) -> None:
        """The connection was lost: the wake stream may be a new one, whose ids are smaller."""
        self._wake_id = b"0"

    def remove(self, request_ids: Sequence[str]) -> None:
        """Have Redis forget calls whose ends are recorded."""
        if request_ids:
            names = [name for id_ in request_ids for name in (keys.request(id_), keys.stream(id_))]
            self._client.unlink(*names)

    def look_after(self, now: float, *, everything: bool = False) -> list[Running]:
        """Look up what was silent for long. Returns those that Redis has forgotten; they are followed on."""
        due = [it for it in self._running.values() if everything or it.due(now)]
        if not everything:
            due = due[:_MOST_LOOKED_AT]
        if not due:
            return []
        pipe = self._client.pipeline(transaction=False)
        for it in due:
            pipe.hmget(keys.request(it.call.id), "model", "replica", "ended")
            pipe.xrevrange(keys.stream(it.call.id), count=1)
        replies: list[Any] = pipe.execute()
        forgotten = []
        for it, (model, replica, ended), newest in zip(due, replies[::2], replies[1::2], strict=True):
            it.looked_at = now
            if newest and (it.last_id == b"0" or parse_id(newest[0][0].decode()) > parse_id(it.last_id.decode())):
                continue  # there is more to be read
            if model is None or ended:
                # An end that was read was recorded; this one was lost.
                forgotten.append(it)
                continue
            if model.decode() != it.call.model:
                it.call = replace(it.call, model=model.decode())
            it.started = bool(replica)
            it.unclaimed_looks = 0 if replica else it.unclaimed_looks + 1
            if it.unclaimed_looks > 1 and self._store.mend(it.call):
                log.warning("message lost", extra={"event": "message_mended", "request": it.call.id})
        return forgotten


def _take(it: Running, records: Sequence[tuple[bytes, dict[bytes, bytes]]], now: float) -> Done | Failed | None:
    """Take in the latest records of a call. Returns its end, if that is among them."""
    for record_id, fields in records:
        try:
            event = decode_event(fields, record_id)
        except (KeyError, ValueError):
            return _UNREADABLE
        if isinstance(event, Done | Failed):
            return event
        if isinstance(event, Started):
            it.started, it.started_at = True, now
    return None
