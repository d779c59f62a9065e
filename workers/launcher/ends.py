"""Notices at once that a process has ended, also one that is not our child. Where the kernel cannot tell, never."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress


class Ends:
    """Calls `call`, on a thread of its own, whenever one of the watched processes has ended."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._watched: dict[int, int] = {}
        self._epoll = select.epoll() if hasattr(os, "pidfd_open") else None
        self._reading, self._writing = os.pipe()
        if self._epoll is not None:
            self._epoll.register(self._reading, select.EPOLLIN)
            threading.Thread(target=self._run, name="ends", args=(self._epoll,), daemon=True).start()

    def watch(self, pid: int) -> None:
        if self._epoll is None:
            return
        with self._lock:
            if pid in self._watched.values():
                return
            try:
                number = os.pidfd_open(pid)
            except ProcessLookupError:
                pass
            except OSError:
                return
            else:
                self._watched[number] = pid
                self._epoll.register(number, select.EPOLLIN)
                return
        self._call()

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._writing)

    def _run(self, epoll: select.epoll) -> None:
        while True:
            for number, _ in epoll.poll():
                if number == self._reading:
                    self._end(epoll)
                    return
                with self._lock:
                    self._watched.pop(number, None)
                    os.close(number)  # which takes it out of the epoll
                self._call()

    def _end(self, epoll: select.epoll) -> None:
        with self._lock:
            epoll.close()
            self._epoll = None
            for number in (self._reading, *self._watched):
                os.close(number)
            self._watched.clear()
