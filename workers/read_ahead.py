"""Weights of models that will soon be loaded, read into the page cache while others still run.

A load that finds its weights in memory takes seconds where it would take minutes from a
disk or a network share. `choose` decides; `ReadAhead` reads, in a thread of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

log = logging.getLogger(__name__)

_CHUNK = 8 << 20
# Of the memory that is free. What is read ahead takes the place of other cached files, and a load needs room as well.
_SHARE = 0.5


class Urgency(IntEnum):
    """In this order."""

    ORDERED = 0
    MAKING_ROOM = 1
    IN_TURN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    model: str
    files: tuple[Path, ...]
    mib: int
    urgency: Urgency


def choose(candidates: Sequence[Candidate], *, free_mib: int) -> list[Candidate]:
    """Return whose weights are to be read, in this order: of all that were ordered, and of one that comes next.

    Weights that would take more than half of the free memory are left on their disk: they
    would push each other out again.
    """
    left = int(free_mib * _SHARE)
    chosen: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda it: (it.urgency, it.mib, it.model)):
        if candidate.urgency is not Urgency.ORDERED and any(it.urgency is not Urgency.ORDERED for it in chosen):
            break
        if candidate.mib <= left:
            left -= candidate.mib
            chosen.append(candidate)
    return chosen


class ReadAhead:
    """`want` may be called by any thread, and costs nothing when nothing is new."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wanted: tuple[Path, ...] = ()
        self._read: set[Path] = set()
        self._closed = False
        self._thread: threading.Thread | None = None

    def want(self, chosen: Sequence[Candidate]) -> None:
        """Read these and nothing else; what was read stays read for as long as it is wanted."""
        files = tuple(dict.fromkeys(file for candidate in chosen for file in candidate.files))
        with self._changed:
            if self._closed or files == self._wanted:
                return
            self._wanted = files
            self._read &= set(files)
            if self._thread is None and files:
                self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed, self._wanted = True, ()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        buffer = memoryview(bytearray(_CHUNK))
        for file in self._due():
            try:
                self._read_through(file, buffer)
            except OSError as error:
                log.debug("not read ahead: %s", error)

    def _due(self) -> Iterator[Path]:
        """Yield one file after the other, as they are wanted at that moment, until the end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next() is not None)
                file = self._next()
                if self._closed or file is None:
                    return
                self._read.add(file)
            yield file

    def _next(self) -> Path | None:
        return next((file for file in self._wanted if file not in self._read), None)

    def _read_through(self, path: Path, buffer: memoryview) -> None:
        """Read all of it, unless it is no longer wanted.

        By reading: what the kernel is only advised to fetch (WILLNEED) is cut to a few
        hundred KiB a call, comes whenever it comes, and is ignored by some file systems.
        """
        with path.open("rb", buffering=0) as file:
            with contextlib.suppress(OSError):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while path in self._wanted and file.readinto(buffer):
                pass
