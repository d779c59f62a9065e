"""An engine worker's line to Redis: what one turn of its event loop has to say leaves in one write, or two.

redis-py's asyncio client takes a connection, a timeout and three coroutines for each
command and each reply, which is more than a token costs. Its connections are used all the
same, so that addresses, TLS and passwords mean what they mean everywhere; once one is
open, its transport is driven from here. Reads private names of redis-py 8.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
import redis
import redis.asyncio
from redis._parsers.base import BaseParser

from tasks.connections import COMMAND_TIMEOUT_S

Command = tuple[str | bytes | int | float, ...]


class Line(asyncio.Protocol):
    """One connection of `client`, opened with the first command and anew after a loss. For one event loop."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._pool: Any = client.connection_pool
        self._connection: Any = None
        self._transport: asyncio.Transport | None = None
        self._opening = asyncio.Lock()
        self._reader: Any = None
        self._said: list[bytes] = []
        self._waiting: deque[_Answer] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self.writes = 0
        """How often something was sent: at most once a turn, and once more where nothing was waited for."""

    async def ask(self, *command: str | bytes | float) -> Any:
        """Return the reply to one command. Raises what `all` raises, and the error that Redis answers with."""
        (reply,) = await self.all([command])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def all(self, commands: Sequence[Command | bytes]) -> list[Any]:
        """Return the replies to `commands` in their order; of one that Redis refuses, the redis.ResponseError.

        Bytes are a command that is packed already. Raises redis.ConnectionError, redis.TimeoutError or OSError: nobody
        knows then which of them were done.
        """
        if not commands:
            return []
        if self._transport is None:
            await self._open()
        answer = _Answer(asyncio.get_running_loop(), len(commands))
        # On a line that is quiet nothing waits for the end of the turn.
        quiet = not self._waiting
        if not quiet and not self._said:
            answer.loop.call_soon(self._flush)
        self._said += [it if isinstance(it, bytes) else _packed(it) for it in commands]
        self._waiting.append(answer)
        if quiet:
            self._flush()
        if self._watch is None:
            self._watch = answer.loop.call_later(COMMAND_TIMEOUT_S, self._overdue, answer)
        return await answer.replies

    async def close(self) -> None:
        self._lose(redis.ConnectionError("closed"))

    async def _open(self) -> None:
        async with self._opening:
            if self._transport is not None:
                return
            connection = self._pool.make_connection()
            await connection.connect()
            transport = connection._writer.transport
            self._reader = hiredis.Reader(replyError=BaseParser.parse_error, notEnoughData=_NOTHING)
            transport.set_protocol(self)
            self._connection, self._transport = connection, transport

    def _flush(self) -> None:
        said, self._said = self._said, []
        if said and self._transport is not None:
            self.writes += 1
            self._transport.write(b"".join(said))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOTHING:
                if not isinstance(reply, hiredis.PushNotification) and self._waiting[0].take(reply):
                    self._waiting.popleft()
        except (hiredis.ProtocolError, IndexError) as error:
            self._lose(redis.ConnectionError(f"what Redis sent is no answer: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(redis.ConnectionError("the connection to Redis was lost"))

    def _overdue(self, answer: _Answer) -> None:
        self._watch = None
        if not self._waiting:
            return
        if self._waiting[0] is answer:
            self._lose(redis.TimeoutError("Redis does not answer"))
        else:
            oldest = self._waiting[0]
            self._watch = oldest.loop.call_later(COMMAND_TIMEOUT_S, self._overdue, oldest)

    def _lose(self, error: Exception) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            return
        transport.abort()
        # It would take itself for connected, and say so at its end.
        self._connection._reader = self._connection._writer = self._connection = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._said = []
        waiting, self._waiting = self._waiting, deque()
        for answer in waiting:
            answer.fail(error)


class _Answer:
    """The replies to the commands of one call."""

    __slots__ = ("_got", "_left", "loop", "replies")

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self.loop = loop
        self.replies: asyncio.Future[list[Any]] = loop.create_future()
        self._left = count
        self._got: list[Any] = []

    def take(self, reply: Any) -> bool:
        """Return whether that was the last."""
        self._got.append(reply)
        self._left -= 1
        if self._left:
            return False
        if not self.replies.done():  # whoever asked was cancelled
            self.replies.set_result(self._got)
        return True

    def fail(self, error: Exception) -> None:
        if not self.replies.done():
            self.replies.set_exception(error)


_NOTHING = object()
_packed: Any = hiredis.pack_command
