"""One connection to Redis for many callers at once: whatever they want in the same moment leaves in one write.

A client of redis-py takes a connection from its pool for every command, looks whether it
is still alive, and waits for the reply alone: some 0.15 ms of a gateway's time. Here the
first caller sends for all who have come since the last write, and reads their replies.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from contextlib import ExitStack
from typing import Any

import hiredis
import redis


class SharedLine:
    """Callable from any thread or greenlet. For short commands only, since each waits for those before it."""

    def __init__(self, client: redis.Redis) -> None:
        """Take one connection of `client` for good, with the first command."""
        self._pool = client.connection_pool
        self._connection: Any = None
        self._mutex = threading.Lock()
        self._busy = False
        self._waiting: deque[_Turn] = deque()

    def call(self, *command: Any) -> Any:
        """Return the reply to one command.

        Raises what redis-py raises. A lost connection ends all commands that were under way
        on it; each may have been carried out.
        """
        turn = _Turn(command)
        with self._mutex:
            leads, self._busy = not self._busy, True
            self._waiting.append(turn)
        if not leads:
            with ExitStack() as stopped:
                stopped.callback(self._leave, turn)
                turn.wait()
                stopped.pop_all()
        if not turn.replied:
            self._lead()
        if isinstance(turn.reply, Exception):
            raise turn.reply
        return turn.reply

    def _lead(self) -> None:
        """Send everything that waits, one's own command with it; whoever comes meanwhile leads next."""
        with self._mutex:
            turns = list(self._waiting)
            self._waiting.clear()
        try:
            self._exchange(turns)
        except (redis.RedisError, OSError) as error:
            self._fail(turns, error)
        finally:
            # Whatever else ended it, nobody is left waiting.
            self._fail(turns, redis.ConnectionError("the line was given up"))
            self._pass_on()

    def _pass_on(self) -> None:
        with self._mutex:
            self._busy = bool(self._waiting)
            if self._busy:
                following = self._waiting[0]
                following.leads = True
                following.wake()

    def _leave(self, turn: _Turn) -> None:
        """Have one who was stopped while it waited lead nobody."""
        with self._mutex:
            if turn not in self._waiting:
                return  # its command is under way
            self._waiting.remove(turn)
        if turn.leads:
            self._pass_on()

    def _exchange(self, turns: list[_Turn]) -> None:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._pool.get_connection()
        connection.send_packed_command([b"".join([hiredis.pack_command(turn.command) for turn in turns])])
        for turn in turns:
            try:
                turn.take(connection.read_response())
            except redis.ResponseError as error:
                turn.take(error)

    def _fail(self, turns: list[_Turn], error: Exception) -> None:
        """Tell `error` to those who have no reply yet."""
        waiting = [turn for turn in turns if not turn.replied]
        if waiting and self._connection is not None:
            # What is still to come on it belongs to nobody any more.
            self._connection.disconnect()
        for turn in waiting:
            turn.take(copy.copy(error))


class _Turn:
    """One command, and what came of it."""

    __slots__ = ("_woken", "command", "leads", "replied", "reply")

    def __init__(self, command: tuple[Any, ...]) -> None:
        self.command = command
        self.leads = False
        self.replied = False
        self.reply: Any = None
        self._woken = threading.Lock()
        self._woken.acquire()

    def wait(self) -> None:
        """Return once there is a reply, or it is this caller's turn to lead."""
        self._woken.acquire()

    def take(self, reply: Any) -> None:
        self.reply = reply
        self.replied = True
        self.wake()

    def wake(self) -> None:
        self._woken.release()
