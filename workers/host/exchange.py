"""One round trip to Redis in which a worker says what it is done with and gets what there is to do.

kombu makes three of a message, each with a client object of its own: one to pop it, one to
note it among the unacknowledged, one to remove it from there.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import redis

_SCRIPT = resources.files("workers.host").joinpath("exchange.lua").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that has left its list. It is among the unacknowledged under its tag; without one it is rubbish."""

    list: str
    tag: str
    item: bytes


def kept(item: bytes, queue: str) -> bytes:
    """Return a message as kombu keeps it while it is unacknowledged: with its exchange (none) and its queue."""
    return b"[" + item + _behind(queue)


class Exchange:
    """On a connection of its own, of `pool`. Raises redis.RedisError and OSError; the connection is closed then."""

    def __init__(self, pool: redis.ConnectionPool, unacked: str, index: str) -> None:
        self._pool = pool
        self._keys = (unacked, index)
        self._sha = ""
        self._connection: Any = None

    def __call__(
        self,
        *,
        done: Collection[str] = (),
        in_hand: Mapping[str, bytes] | None = None,
        most: int = 0,
        lists: Sequence[tuple[str, str]] = (),
        now: float,
    ) -> list[Taken]:
        """Acknowledge the tags of `done`, note those of `in_hand` (what is `kept`, by tag), take up to `most`.

        `lists` are Redis lists, each with its queue's name, in the order in which they are taken from.
        Repeating it with nothing to take does no harm. `now` in Unix seconds.
        """
        args: list[Any] = [*self._keys, *(key for key, _ in lists), most, repr(now), len(done), *done]
        args += [_behind(queue) for _, queue in lists]
        for tag, message in (in_hand or {}).items():
            args += (tag, message)
        reply = self._ask(2 + len(lists), args)
        return [Taken(lists[reply[at] - 1][0], reply[at + 1].decode(), reply[at + 2]) for at in range(0, len(reply), 3)]

    def _ask(self, count: int, args: list[Any]) -> Any:
        if self._connection is None:
            self._connection = self._pool.get_connection()
        try:
            if not self._sha:
                self._connection.send_command("SCRIPT", "LOAD", _SCRIPT)
                self._sha = self._connection.read_response()
            try:
                return self._say("EVALSHA", self._sha, count, *args)
            except redis.exceptions.NoScriptError:  # Redis was restarted
                return self._say("EVAL", _SCRIPT, count, *args)
        except (OSError, redis.ConnectionError, redis.TimeoutError):
            self._connection.disconnect()
            raise

    def _say(self, *command: Any) -> Any:
        self._connection.send_command(*command)
        return self._connection.read_response()


@lru_cache(maxsize=64)
def _behind(queue: str) -> bytes:
    return b',"",' + json.dumps(queue).encode() + b"]"
