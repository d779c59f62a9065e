"""The launcher's end of its zygotes, which wait with everything imported; see `zygote_process`.

A start never depends on one: where there is none, or it does not answer, or is out of
date, the caller is told so and executes the replica instead.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from workers.launcher import output
from workers.launcher.base import EXIT_UNSEEN
from workers.launcher.imprint import room
from workers.launcher.roster import VARIABLE
from workers.launcher.spares import Spare
from workers.launcher.zygote_wire import Hearing, Order, send_order

_FORKS_WITHIN_S = 3.0
_TELLS_WITHIN_S = 1.0
# It has nothing to tidy up.
_ENDS_WITHIN_S = 0.3
# Whatever kept one from coming up, a missing file or memory, will hardly be gone at once.
_AGAIN_AFTER_S = 60.0
# A machine that starts up has models to load at once, and these would be slowed down by what is done for later ones
# (from 13 to 17 s on two cores).
_AFTER_US_S = 3.0
_AFTER_OTHERS_S = 15.0


class NoForkError(Exception):
    """Nothing was forked, and nothing will be."""


class Zygote:
    """One process. It is never waited for but when a fork is due."""

    def __init__(self, spare: Spare, log: Path) -> None:
        """Raises OSError when it cannot be started."""
        self._control, theirs = socket.socketpair()
        self._hearing = Hearing(self._control)
        self._codes: dict[int, int] = {}
        self._is_ready = self._has_ended = False
        log.parent.mkdir(parents=True, exist_ok=True)
        output.rotate(log)
        # In our own process group, so that whoever ends that ends it too.
        with theirs, log.open("ab") as file:
            self._popen = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "workers.launcher.zygote_process", str(theirs.fileno()), *spare.modules],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # A title that is written over the environment would cover what identifies a fork.
                env={**os.environ, **dict(spare.env), VARIABLE: room(), "SPT_NOENV": "1"},
                pass_fds=(theirs.fileno(),),
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def has_ended(self) -> bool:
        self._hear(0)
        return self._has_ended

    @property
    def is_ready(self) -> bool:
        self._hear(0)
        return self._is_ready and not self._has_ended

    def fork(self, order: Order, log: int) -> int:
        """Return the id of a process that has begun to follow `order`. Raises NoForkError."""
        ours, theirs = socket.socketpair()
        with ours:
            try:
                with theirs:
                    self._control.settimeout(_FORKS_WITHIN_S)
                    send_order(self._control, order, log, theirs.fileno())
                pid = self._forked()
                ours.settimeout(_FORKS_WITHIN_S)
                if ours.recv(1) != b"1":
                    raise NoForkError("the fork has ended")
                self._codes.pop(pid, None)
                ours.send(b"1")
            except (OSError, EOFError) as error:
                # What it may still fork waits for a word that will not come.
                self.close()
                raise NoForkError(repr(error)) from error
        return pid

    def code_of(self, pid: int) -> int:
        """Return what a fork that is no more has ended with."""
        until = time.monotonic() + _TELLS_WITHIN_S
        while pid not in self._codes and not self._has_ended and (left := until - time.monotonic()) > 0:
            self._hear(left)
        return self._codes.get(pid, EXIT_UNSEEN)

    def close(self) -> None:
        """End it. Idempotent."""
        self._has_ended = True
        self._control.close()
        try:
            self._popen.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def _forked(self) -> int:
        until = time.monotonic() + _FORKS_WITHIN_S
        while (left := until - time.monotonic()) > 0:
            for said in self._hearing.messages(left):
                self._take_in(said)
                if "forked" in said:
                    return int(said["forked"])
                if "stale" in said:
                    raise EOFError
        raise TimeoutError

    def _hear(self, wait_s: float) -> None:
        if self._has_ended:
            return
        try:
            for said in self._hearing.messages(wait_s):
                self._take_in(said)
        except EOFError:
            self.close()

    def _take_in(self, said: dict[str, Any]) -> None:
        if "ended" in said:
            self._codes[said["ended"]] = said["code"]
        self._is_ready = self._is_ready or "ready" in said


class Zygotes:
    """Those of one launcher: one for each spare that is wanted."""

    def __init__(self, logs: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._logs = logs
        self._clock = clock
        self._running: dict[Spare, Zygote] = {}
        self._not_before: dict[Spare, float] = {}

    def prepare(self, wanted: Collection[Spare]) -> None:
        """See `Launcher.prepare`."""
        for spare, zygote in list(self._running.items()):
            if spare not in wanted:
                self._running.pop(spare).close()
            elif zygote.has_ended:
                del self._running[spare]
        now = self._clock()
        for spare in wanted:
            due = self._not_before.setdefault(spare, now + (_AFTER_US_S if spare.is_costly else 0.0))
            if spare not in self._running and now >= due:
                # Only once it has been ready is its end no reason to wait.
                self._not_before[spare] = now + _AGAIN_AFTER_S
                with suppress(OSError):
                    self._running[spare] = Zygote(spare, self._logs / f"spare-{spare.engine}.log")

    def executed(self, spare: Spare | None) -> None:
        """A replica was started without one, and does now what one would do."""
        now = self._clock()
        # Not put off again and again.
        if spare is not None and spare.is_costly and self._not_before.get(spare, now) - now <= _AFTER_US_S:
            self._not_before[spare] = now + _AFTER_OTHERS_S

    def ready(self, spare: Spare | None) -> Zygote | None:
        zygote = self._running.get(spare) if spare is not None else None
        if spare is None or zygote is None or not zygote.is_ready:
            return None
        self._not_before.pop(spare, None)
        return zygote

    def close(self) -> None:
        for zygote in self._running.values():
            zygote.close()
        self._running.clear()
