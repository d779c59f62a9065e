"""A launcher without processes; satisfies `workers.launcher.base.ServiceLauncher`."""

from __future__ import annotations

from pathlib import Path

from workers.launcher.base import Command


class FakeProcess:
    """Runs until a test ends it. A stubborn one does not mind being asked to stop."""

    def __init__(self, name: str, journal: list[str], *, stubborn: bool) -> None:
        self.name = name
        self.pid = 1
        self.log = Path(f"{name}.log")
        self.code: int | None = None
        self._journal = journal
        self._stubborn = stubborn

    def exit_code(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self._journal.append(f"ask {self.name}")
        if not self._stubborn:
            self.code = 0

    def kill(self) -> None:
        self._journal.append(f"kill {self.name}")
        self.code = -9

    def tail(self, lines: int) -> list[str]:
        return ["one", "two"][-lines:]


class FakeLauncher:
    def __init__(self, *, stubborn: frozenset[str] = frozenset()) -> None:
        self.journal: list[str] = []
        self.started: list[FakeProcess] = []
        self._stubborn = stubborn

    def start(self, command: Command) -> FakeProcess:
        process = FakeProcess(command.name, self.journal, stubborn=command.name in self._stubborn)
        self.journal.append(f"start {command.name}")
        self.started.append(process)
        return process

    def close(self) -> None:
        for process in self.started:
            if process.code is None:
                process.kill()
