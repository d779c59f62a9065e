"""A machine's replicas without processes: they start, speak, end and stay when their agent does, as a test says.

Answers as the real launchers do (`workers.launcher.base.Launcher`): what has ended is
listed until it is forgotten, and a launcher that is down knows nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection

import redis

from tasks.records.replicas import ReplicaFacts, ReplicaRecord, ReplicaState
from tasks.requests.pulse import Pulse
from workers.launcher.base import Command, Launcher, Resources
from workers.launcher.errors import LauncherDownError, LaunchError, NameTakenError
from workers.launcher.spares import Spare

# Nobody's pulse ends during a test but by a word of the test.
_LIVES_S = 600


class FakeReplica:
    """Satisfies `workers.launcher.base.Replica`."""

    def __init__(self, launcher: FakeLauncher, command: Command, resources: Resources) -> None:
        self.name = command.name
        self.model = command.env["CELERITY_MODEL"]
        self.command = command
        self.resources = resources
        self.pid = 1_000_000 + len(launcher.journal)
        self.handle = f"process {self.pid}"
        self.log = f"{command.name}.log"
        self.started_at = time.time()
        self.code: int | None = None
        self.reason: str | None = None
        self.last_words: list[str] = []
        self._launcher = launcher

    def exit_code(self) -> int | None:
        self._launcher.asked()
        return self.code

    def terminate(self) -> None:
        self._launcher.asked()
        self._launcher.journal.append(f"terminate {self.name}")

    def kill(self) -> None:
        self._launcher.asked()
        self._launcher.journal.append(f"kill {self.name}")
        self.code = -9

    def tail(self, lines: int) -> list[str]:
        return self.last_words[-lines:]

    def why(self) -> str | None:
        return self.reason

    def forget(self) -> None:
        self._launcher.asked()
        assert self.code is not None, "only what has ended can be forgotten"
        del self._launcher.replicas[self.name]

    # What a test has it do.

    def speaks(self, client: redis.Redis, state: ReplicaState = ReplicaState.READY, **fields: object) -> None:
        """Say of itself what an engine worker says."""
        env = self.command.env
        facts = ReplicaFacts(
            id=self.name,
            model=self.model,
            node=env["CELERITY_NODE_ID"],
            device=env["CELERITY_DEVICE"],
            state=state,
            pid=self.pid,
            in_flight=0,
            seats=4,
            kv_usage=0.0,
            memory_mib=0,
            started_at=self.started_at,
            last_used_at=None,
            heartbeat_at=time.time(),
            ready_at=self.started_at if state is ReplicaState.READY else None,
            reserved_mib=int(env["CELERITY_RESERVED_MIB"]),
        )
        ReplicaRecord(client).beat(dataclasses.replace(facts, **fields), frozenset())  # type: ignore[arg-type]
        Pulse(client).beat(self.name, _LIVES_S)

    def leaves(self, client: redis.Redis) -> None:
        """End on purpose, as a worker does that was asked to."""
        ReplicaRecord(client).remove(self.name)
        self.code = 0


class FakeLauncher:
    """Outlives the agents that a test starts one after the other."""

    def __init__(self) -> None:
        self.replicas: dict[str, FakeReplica] = {}
        self.journal: list[str] = []
        self.tended = 0
        self.down = False
        self.refuses: LaunchError | None = None

    def asked(self) -> None:
        if self.down:
            raise LauncherDownError("it does not answer; start it")

    def start(self, command: Command, resources: Resources) -> FakeReplica:
        self.asked()
        if self.refuses is not None:
            raise self.refuses
        if command.name in self.replicas:
            raise NameTakenError(command.name)
        replica = self.replicas[command.name] = FakeReplica(self, command, resources)
        self.journal.append(f"start {command.name}")
        return replica

    def prepare(self, wanted: Collection[Spare]) -> None: ...

    def on_end(self, call: Callable[[], None]) -> None: ...

    def list(self) -> tuple[FakeReplica, ...]:
        self.asked()
        return tuple(sorted(self.replicas.values(), key=lambda it: (it.started_at, it.name)))

    def tend(self) -> None:
        self.asked()
        self.tended += 1

    def close(self) -> None: ...

    def one(self, model: str = "m") -> FakeReplica:
        """Return the only replica of `model` that runs."""
        (found,) = self.running(model)
        return found

    def running(self, model: str = "m") -> tuple[FakeReplica, ...]:
        return tuple(it for it in self.replicas.values() if it.model == model and it.code is None)


_: Launcher = FakeLauncher()
