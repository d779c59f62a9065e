"""Lets a process that was forked show a variable of its own in the environment that the kernel shows of it.

`/proc/PID/environ`, by which a launcher and an operator tell whose a process is, is the
memory in which a process found its environment when it was executed. A fork has its
parent's. So the parent is started with `room` in the variable's place, and each fork
writes its own value there.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

_FILLED_WITH = b"-"
# As long as a replica id may be (`base.require_safe`).
_ROOM = 201
_PROC = Path("/proc/self")


class NoRoomError(Exception):
    """The variable was not found where the kernel shows it, or cannot be written there."""


def _bounds() -> tuple[int, ...]:
    """Return where our command line begins and ends in memory, and where our environment does."""
    # Behind the name, which may hold anything; there they are the 46th to 49th.
    return tuple(map(int, (_PROC / "stat").read_bytes().rpartition(b")")[2].split()[45:49]))


def room() -> str:
    """Return the value to start a process with that will fork."""
    return (_FILLED_WITH * _ROOM).decode()


def show_title(title: str) -> None:
    """Show `title` in place of our command line, as far as there is room. For who has no library for it."""
    begin, end = _bounds()[:2]
    if 0 < begin < end:
        room_for = end - begin - 1
        ctypes.memmove(begin, title.encode()[:room_for].ljust(room_for) + b"\0", end - begin)


class Imprint:
    """Where in this process's memory the value of `variable` is shown."""

    def __init__(self, variable: str) -> None:
        """Look before anything has been imported that puts a title there. Raises NoRoomError."""
        head = f"{variable}=".encode()
        try:
            begin, end = _bounds()[2:]
            shown = (_PROC / "environ").read_bytes()
        except (OSError, ValueError) as error:
            raise NoRoomError(f"/proc tells nothing of our environment: {error}") from error
        offset = (b"\0" + shown).find(b"\0" + head + _FILLED_WITH * _ROOM + b"\0")
        if offset < 0 or begin == 0 or end - begin < len(shown):
            raise NoRoomError(f"{variable} is not where the kernel shows our environment")
        self._shown = _PROC / "environ"
        self._head = head
        self._address = begin + offset + len(head)
        self.write("")

    def write(self, value: str) -> None:
        """Show `value`. Raises NoRoomError when it is not shown afterwards."""
        data = value.encode()
        if len(data) > _ROOM:
            raise NoRoomError(f"{value!r} is too long")
        # What is left of the room becomes a variable without a name, which nobody reads.
        rest = _ROOM - len(data) - 1
        ctypes.memmove(self._address, data + (b"\0" + _FILLED_WITH * rest if rest >= 0 else b""), _ROOM)
        if self._head + data not in self._shown.read_bytes().split(b"\0"):
            raise NoRoomError("what was written is not shown")
