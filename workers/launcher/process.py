"""Starts processes on this machine, each in a session of its own and with a log file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from workers.launcher import group
from workers.launcher.base import Command
from workers.launcher.guard import GRACE_S, Guard

ROTATE_AT_BYTES = 5_000_000
_TAIL_BYTES = 16_384


class LocalProcess:
    """A process group of ours; satisfies `workers.launcher.base.Process`."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path, guard: Guard) -> None:
        self.name = name
        self.pid = popen.pid
        self._popen = popen
        self.log = log
        self._guard = guard

    def exit_code(self) -> int | None:
        if self._popen.returncode is None and self._has_ended():
            # The leader is still a zombie, so the group's number cannot belong to anybody
            # else yet: end what it left behind first, and only then reap it.
            group.finish(self.pid)
            self._popen.wait()
            self._guard.remove(self.pid)
        return self._popen.returncode

    def terminate(self) -> None:
        # The leader only: gunicorn and Celery tell their own children what they want of them.
        if self.exit_code() is None:
            self._popen.terminate()

    def kill(self) -> None:
        if self._popen.returncode is None:
            group.kill(self.pid)

    def wait(self) -> None:
        """Return once it, and all it started, has ended. Only for one that was killed."""
        if self._popen.returncode is None:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self.exit_code()

    def tail(self, lines: int) -> list[str]:
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-lines:]

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class ProcessLauncher:
    """Satisfies `workers.launcher.base.Launcher`. Logs go to `log_dir`/<log>.log."""

    def __init__(self, log_dir: Path, grace_s: float = GRACE_S) -> None:
        self._log_dir = log_dir
        self.guard = Guard(grace_s)
        self._started: list[LocalProcess] = []

    def start(self, command: Command) -> LocalProcess:
        log = self._log_dir / f"{command.log}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        rotate(log)
        argv = self.guard.command(command.argv)
        with log.open("ab") as output:
            popen = subprocess.Popen(  # noqa: S603 - commands are ours, never a client's
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(os.environ) | dict(command.env),
                start_new_session=True,
                pass_fds=(self.guard.pipe,),
            )
        self.guard.add(popen.pid)
        process = LocalProcess(command.name, popen, log, self.guard)
        self._started = [known for known in self._started if known.exit_code() is None]
        self._started.append(process)
        return process

    def close(self) -> None:
        for process in self._started:
            process.kill()
        for process in self._started:
            process.wait()
        self.guard.close()


def rotate(log: Path) -> None:
    """Put a log that has grown too large aside; only the one before it is kept."""
    if log.exists() and log.stat().st_size > ROTATE_AT_BYTES:
        log.replace(log.with_suffix(".log.1"))
