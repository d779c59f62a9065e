"""Rooms in the order of their size, kept in order while the books change: a tick asks for it often."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator

from workers.placement.facts import Place
from workers.placement.room import Room

_Entry = tuple[int, Place, Room]


class Ranking:
    """The largest first, by `size`; equals in the order of their places."""

    def __init__(self, rooms: Iterable[Room], size: Callable[[Room], int]) -> None:
        self._size = size
        self._entries: list[_Entry] = sorted(self._entry(room) for room in rooms)
        self._known = {entry[1]: entry for entry in self._entries}

    def at_least(self, mib: int) -> Iterator[Room]:
        """Yield the rooms of that size. They must not change before the iteration is given up."""
        for negative, _, room in self._entries:
            if -negative < mib:
                return
            yield room

    def update(self, room: Room) -> None:
        old, new = self._known[room.place], self._entry(room)
        if old[0] != new[0]:
            del self._entries[bisect_left(self._entries, old)]
            insort(self._entries, new)
            self._known[room.place] = new

    def _entry(self, room: Room) -> _Entry:
        return (-self._size(room), room.place, room)
