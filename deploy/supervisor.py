"""Keeps a set of processes running, and stops them in order.

Knows nothing of what they do. It neither waits nor prints: `poll` says what has
happened, and whoever calls it decides when to look again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import assert_never

from deploy.restarts import after_crash
from workers.launcher.base import Command, Process, ServiceLauncher

_TAIL_LINES = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Something that shall run."""

    name: str
    command: Command
    stage: int
    """Stages are stopped one after another, the lowest first; the services of one stage together."""
    stop_within_s: float
    hastens: bool = True
    """Whether a second request to stop kills it at once. Not the one that has data to write."""


class Phase(StrEnum):
    RUNNING = "running"
    WAITING = "waiting"  # died, and is started again when its delay is over


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """A service's process ended without being asked to; it is started again at `again_at` (monotonic)."""

    service: str
    exit_code: int
    log: Path | str
    tail: list[str]
    again_at: float


class _Supervised:
    def __init__(self, service: Service, process: Process) -> None:
        self.service = service
        self.process = process
        self.phase = Phase.RUNNING
        self.crashes: list[float] = []
        self.retry_at = 0.0


class Supervisor:
    """`now` is always a time of the monotonic clock."""

    def __init__(self, launcher: ServiceLauncher) -> None:
        self._launcher = launcher
        self._all: dict[str, _Supervised] = {}

    def start(self, service: Service) -> Process:
        process = self._launcher.start(service.command)
        self._all[service.name] = _Supervised(service, process)
        return process

    def poll(self, now: float) -> list[Died]:
        """Notice who has died, and start again whose delay is over."""
        died = []
        for it in self._all.values():
            match it.phase:
                case Phase.RUNNING:
                    if (code := it.process.exit_code()) is not None:
                        died.append(self._note_death(it, code, now))
                case Phase.WAITING:
                    if now >= it.retry_at:
                        it.process = self._launcher.start(it.service.command)
                        it.phase = Phase.RUNNING
                case _:
                    assert_never(it.phase)
        return died

    def next_start_at(self) -> float | None:
        """Return when `poll` has something to start next; deaths are told by SIGCHLD."""
        return min((it.retry_at for it in self._all.values() if it.phase is Phase.WAITING), default=None)

    def stop(
        self,
        *,
        clock: Callable[[], float],
        wait: Callable[[float], None],
        hasten: Callable[[], bool],
        stopping: Callable[[str], None] = lambda _: None,
        before: int | None = None,
    ) -> None:
        """Stop every stage, or those `before` one, one after the other; return when nothing of them runs.

        `wait` returns after that long, or earlier when a child ended or a signal came.
        Once `hasten` says so, nobody is waited for but who has data to write.
        """
        stages = {it.service.stage for it in self._all.values()}
        for stage in sorted(stage for stage in stages if before is None or stage < before):
            members = [it for it in self._all.values() if it.service.stage == stage]
            running = [it for it in members if it.process.exit_code() is None]
            for it in running:
                stopping(it.service.name)
                it.process.terminate()
            asked_at = clock()
            while running := [it for it in running if it.process.exit_code() is None]:
                for it in running:
                    late = clock() - asked_at >= it.service.stop_within_s
                    if late or (hasten() and it.service.hastens):
                        it.process.kill()
                wait(0.5)
            self._all = {name: it for name, it in self._all.items() if it.service.stage != stage}

    def _note_death(self, it: _Supervised, code: int, now: float) -> Died:
        it.crashes.append(now)
        it.phase, it.retry_at = Phase.WAITING, after_crash(it.crashes, now=now)
        return Died(
            service=it.service.name,
            exit_code=code,
            log=it.process.log,
            tail=it.process.tail(_TAIL_LINES),
            again_at=it.retry_at,
        )
