"""Starts replicas as processes that outlive whoever started them, and finds them again.

Each leads a session of its own, stands on the roster, and has a log of its own. It is
forked of a zygote where one is ready for it, which takes milliseconds, and else executed. The
memory limit is kept by looking: a replica that takes too much is ended at the next look,
not refused the page. A burst between two looks gets through, and while no agent runs
nobody looks. Linux has better, but not for everyone: an address-space limit counts what
CUDA and torch only reserve, and a control group can be made only where the system lets
us. Where the limit has to hold, the docker launcher has the kernel hold it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

import psutil

from workers.devices import environment
from workers.launcher import group, output
from workers.launcher.base import EXIT_UNSEEN, Command, Resources, require_safe
from workers.launcher.ends import Ends
from workers.launcher.errors import NameTakenError, RefusedError, SupervisorGoneError
from workers.launcher.guard_process import start_ticks
from workers.launcher.roster import VARIABLE, Record, Roster, family, leader
from workers.launcher.site import Site, is_held
from workers.launcher.spares import Spare
from workers.launcher.zygote import NoForkError, Zygote, Zygotes
from workers.launcher.zygote_wire import Order

_HELPER = (sys.executable, "-m", "workers.launcher.guard_process", "replica")
_REPLICA = (sys.executable, "-m", "workers.launcher.replica_process")
_MIB = 1024 * 1024


class DetachedProcess:
    """Satisfies `workers.launcher.base.Replica`. `parent` is there only if this very launcher started it."""

    def __init__(self, record: Record, roster: Roster, parent: subprocess.Popen[bytes] | Zygote | None = None) -> None:
        self.record = record
        self._roster = roster
        self._parent = parent
        self.forgotten = False
        self._code: int | None = None
        self._why: str | None = None

    @property
    def name(self) -> str:
        return self.record.replica

    @property
    def model(self) -> str:
        return self.record.model

    @property
    def pid(self) -> int:
        return self.record.pid

    @property
    def handle(self) -> str:
        return f"process {self.record.pid}"

    @property
    def started_at(self) -> float:
        return self.record.started_at

    @property
    def log(self) -> Path:
        return Path(self.record.log)

    @property
    def is_child_to_report(self) -> bool:
        return self._parent is not None and not self.forgotten

    def exit_code(self) -> int | None:
        if self._code is None:
            parent = self._parent
            self._code = self._child_s_end(parent) if isinstance(parent, subprocess.Popen) else self._other_s_end()
        return self._code

    def terminate(self) -> None:
        # The leader only, which tells its own children what it wants of them.
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        if self.exit_code() is None:
            group.kill(self.pid)

    def kill_because(self, why: str) -> None:
        self._why = why
        self.kill()

    def tail(self, lines: int) -> list[str]:
        return output.tail(self.log, lines)

    def why(self) -> str | None:
        return self._why

    def forget(self) -> None:
        assert self.exit_code() is not None, "only what has ended can be forgotten"
        self.forgotten = True
        self._roster.remove(self.name)

    def _child_s_end(self, popen: subprocess.Popen[bytes]) -> int | None:
        try:
            ended = os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # somebody else in this process has reaped it
            popen.poll()
            return self._other_s_end()
        if ended is None:
            return None
        # It is still a zombie, so the group's number cannot belong to anybody else yet:
        # end what it left behind first, and only then reap it.
        group.finish(popen.pid)
        return popen.wait()

    def _other_s_end(self) -> int | None:
        if leader(self.record) is not None:
            return None
        if family(self.record):
            group.finish(self.pid)
        return self._parent.code_of(self.pid) if isinstance(self._parent, Zygote) else EXIT_UNSEEN

    def _signal(self, number: signal.Signals) -> None:
        if self.exit_code() is not None:
            return
        if isinstance(self._parent, subprocess.Popen):
            self._parent.send_signal(number)
        elif (process := leader(self.record)) is not None:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


class DetachedLauncher:
    """Satisfies `workers.launcher.base.Launcher`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._roster = Roster(site.replicas)
        # Whoever starts under a supervisor must not start anything once that has ended.
        self._supervised = is_held(site)
        self._known: dict[str, DetachedProcess] = {}
        self._zygotes = Zygotes(site.logs.parent)
        self._ends: Ends | None = None

    def prepare(self, wanted: Collection[Spare]) -> None:
        self._zygotes.prepare(wanted)

    def on_end(self, call: Callable[[], None]) -> None:
        self._ends = Ends(call)

    def start(self, command: Command, resources: Resources) -> DetachedProcess:
        require_safe(command.name)
        if self._roster.path(command.name).exists() or command.name in self._known:
            raise NameTakenError(f"a replica called {command.name} is on record already; start it under a new id")
        if self._supervised and not is_held(self._site):
            raise SupervisorGoneError("`celerity up` has ended; start it again")
        log = self._site.logs / f"{command.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        output.prune(log.parent, keep={process.log for process in self._known.values()})
        record = Record(
            replica=command.name,
            model=command.env.get("CELERITY_MODEL", ""),
            log=str(log),
            memory_mib=resources.memory_mib,
            pid=0,
            started_at=time.time(),
            ticks=None,
        )
        pid, parent = self._launch(command, record, environment(resources.devices))
        process = DetachedProcess(replace(record, pid=pid, ticks=start_ticks(pid)), self._roster, parent)
        self._known[command.name] = process
        self._watch(process)
        return process

    def list(self) -> tuple[DetachedProcess, ...]:
        records = {record.replica: record for record in self._roster.all()}
        for name, record in records.items():
            if name not in self._known:
                self._known[name] = DetachedProcess(record, self._roster)
                self._watch(self._known[name])
        # A child of ours may not have put itself on record yet, or have died before it could.
        self._known = {name: it for name, it in self._known.items() if name in records or it.is_child_to_report}
        return tuple(sorted(self._known.values(), key=lambda it: (it.started_at, it.name)))

    def tend(self) -> None:
        running = [process for process in self.list() if process.exit_code() is None]
        taken = group.private_bytes({process.pid for process in running})
        for process in running:
            output.cut(process.log)
            limit, mib = process.record.memory_mib, taken.get(process.pid, 0) // _MIB
            if limit is not None and mib > limit:
                process.kill_because(f"it took {mib:,} MiB of memory and was allowed {limit:,}")

    def close(self) -> None:
        self._zygotes.close()
        if self._ends is not None:
            self._ends.close()

    def _watch(self, process: DetachedProcess) -> None:
        if self._ends is not None:
            self._ends.watch(process.pid)

    def _launch(
        self, command: Command, record: Record, devices: Mapping[str, str]
    ) -> tuple[int, subprocess.Popen[bytes] | Zygote]:
        facts = json.dumps({name: getattr(record, name) for name in ("replica", "model", "log", "memory_mib")})
        # `python -m program …`, where it has a spare; else it is only executed.
        order = Order(
            program=command.argv[2] if command.spare else "",
            args=command.argv[3:],
            env={**os.environ, **command.env, **devices, VARIABLE: record.replica},
            cwd=str(Path.cwd()),
            record=str(self._roster.path(record.replica)),
            facts=facts,
            site=self._site.to_json() if self._supervised else "",
        )
        try:
            with Path(record.log).open("ab") as log:
                if (zygote := self._zygotes.ready(command.spare)) is not None:
                    with suppress(NoForkError):
                        return zygote.fork(order, log.fileno()), zygote
                popen = _execute(order, _argv(command), log)
                self._zygotes.executed(command.spare)
        except OSError as error:
            raise RefusedError(f"no process can be started: {error}") from error
        return popen.pid, popen


def _argv(command: Command) -> Sequence[str]:
    """Return how it is executed: with what its spare would have done."""
    if command.spare is None:
        return command.argv
    return (*_REPLICA, ",".join(command.spare.modules), *command.argv[2:])


def _execute(order: Order, argv: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - commands are ours, never a client's
        [*_HELPER, order.record, order.facts, order.site, *argv],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(order.env),
        start_new_session=True,
    )
