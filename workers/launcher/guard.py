"""The launcher's end of the guard; what the guard is for stands in `guard_process`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from workers.launcher.site import Site

# How long what a killed launcher leaves behind may take to stop by itself.
GRACE_S = 10.0

_HELPER = (sys.executable, "-m", "workers.launcher.guard_process")


class Guard:
    """Keeps a list of process groups that must not outlive this process; the replicas of a site neither."""

    def __init__(self, grace_s: float = GRACE_S, replicas_of: Site | None = None) -> None:
        self._watch = [*_HELPER, "watch", str(grace_s), *([replicas_of.to_json()] if replicas_of else [])]
        self._groups: dict[int, None] = {}  # in the order of their start
        self._closed = False
        self._open()

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return `argv` so that its process puts itself under guard before it begins.

        Start it as the leader of its own process group, and pass it the descriptor `pipe`.
        """
        if self._process.poll() is not None:
            self._reopen()
        return [*_HELPER, "run", str(self.pipe), *argv]

    def add(self, group: int) -> None:
        """Remember `group`, which has put itself on the list, in case the guard has to be started again."""
        self._groups[group] = None

    def remove(self, group: int) -> None:
        """Forget a group that has ended, before its number can belong to somebody else."""
        self._groups.pop(group, None)
        if not self._closed:
            self._tell(b"-%d\n" % group)

    def close(self) -> None:
        """End the guard; it ends the groups that are left, and this waits for it. Idempotent."""
        if not self._closed:
            self._closed = True
            os.close(self.pipe)
            self._process.wait()

    def _open(self) -> None:
        reading, self.pipe = os.pipe()
        # A session of its own: a signal to the launcher's process group must not end both.
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            self._watch, stdin=reading, stdout=subprocess.DEVNULL, start_new_session=True
        )
        os.close(reading)

    def _reopen(self) -> None:
        os.close(self.pipe)
        self._process.wait()
        self._open()
        for group in self._groups:
            self._tell(b"+%d\n" % group)

    def _tell(self, line: bytes) -> None:
        try:
            os.write(self.pipe, line)
        except BrokenPipeError:
            self._reopen()
