"""Starts the services of `celerity up`: processes that end when this one does, each with a log file."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

from workers.launcher import group, output, site
from workers.launcher.base import Command
from workers.launcher.guard import GRACE_S, Guard
from workers.launcher.site import Site


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
        return output.tail(self.log, lines)

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class ProcessLauncher:
    """Satisfies `workers.launcher.base.ServiceLauncher`. Logs go to `log_dir`/<log>.log.

    With `replicas_of`, the replicas that are launched at that site end with it too.
    """

    def __init__(self, log_dir: Path, grace_s: float = GRACE_S, replicas_of: Site | None = None) -> None:
        self._log_dir = log_dir
        self._hold = ExitStack()
        if replicas_of is not None:
            self._hold.enter_context(site.held(replicas_of))
        self.guard = Guard(grace_s, replicas_of)
        self._started: list[LocalProcess] = []

    def start(self, command: Command) -> LocalProcess:
        log = self._log_dir / f"{command.log}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        output.rotate(log)
        argv = self.guard.command(command.argv)
        with log.open("ab") as file:
            popen = subprocess.Popen(  # noqa: S603 - commands are ours, never a client's
                argv,
                stdin=subprocess.DEVNULL,
                stdout=file,
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
        # First, so that nothing is launched while we look whom there is to end.
        self._hold.close()
        for process in self._started:
            process.kill()
        for process in self._started:
            process.wait()
        self.guard.close()
