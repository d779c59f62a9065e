"""The product's own launcher, for several threads: a row kills while the respawner looks for the dead."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from tests.waiting import wait_until
from workers.launcher.base import Command
from workers.launcher.process import LocalProcess, ProcessLauncher
from workers.launcher.site import Site


class Launched:
    """A process group that was started here."""

    def __init__(self, process: LocalProcess, lock: threading.RLock) -> None:
        self._process, self._lock = process, lock
        self.name, self.pid, self.log = process.name, process.pid, process.log

    def exit_code(self) -> int | None:
        with self._lock:
            return self._process.exit_code()

    @property
    def runs(self) -> bool:
        return self.exit_code() is None

    def kill(self) -> None:
        """SIGKILL it and all it started; return once nothing of it runs."""
        with self._lock:
            self._process.kill()
        self.wait(10)

    def signal(self, number: int) -> None:
        """Send a signal to the leader alone."""
        with self._lock:
            if self._process.exit_code() is None:
                os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> int:
        wait_until(lambda: not self.runs, f"{self.name} to end", timeout_s=timeout_s)
        code = self.exit_code()
        assert code is not None
        return code


class Launcher:
    """Starts processes that end with this one, SIGKILL included."""

    def __init__(self, log_dir: Path, replicas_of: Site | None = None) -> None:
        self._lock = threading.RLock()
        self._launcher = ProcessLauncher(log_dir, grace_s=2.0, replicas_of=replicas_of)

    def start(self, command: Command) -> Launched:
        with self._lock:
            return Launched(self._launcher.start(command), self._lock)

    def close(self) -> None:
        with self._lock:
            self._launcher.close()
