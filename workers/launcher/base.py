"""What a launcher is, and how the process of an engine worker is called.

There are two kinds. The supervisor keeps services, which end when it does. A node agent
launches replicas, which outlive it, so that an agent can be restarted under them; they
end with the supervisor all the same, which the guard sees to.

A worker is started by its command line, as data: nothing here imports Celery or the
code that runs in the worker.
"""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from workers.devices import Device
from workers.launcher import spares
from workers.launcher.errors import RefusedError
from workers.launcher.spares import Spare
from workers.registry import ModelSpec

POOL = "workers.host.pool:EnginePool"
CELERY = (sys.executable, "-m", "celery", "-q")
CELERY_WORKER = (*CELERY, "-A", "tasks.app", "worker")
# Mingle waits a second at every start and reconnect; gossip makes every worker read every
# heartbeat. A monitor such as Flower, which calls a worker online by its heartbeats, gets them three times as often
# while it asks for events (`workers.host.monitoring`).
WORKER_FLAGS = ("--without-gossip", "--without-mingle", "--heartbeat-interval", "15", "--loglevel", "WARNING")

# What a process ended with that ended while nobody was there to see it. No real exit code is larger than 255.
EXIT_UNSEEN = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One process to be started. `env` is laid over the environment of whoever starts it."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: str
    """The name of its log, without folder or suffix; commands may share one."""
    reads: tuple[str, ...] = ()
    """Files and folders that it reads. A launcher that walls it off shows it these, and nothing else of the machine."""
    spare: Spare | None = None
    """What may have been done ahead for it. Then `argv` is `python -m MODULE …`, which may be run in a fork of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a replica gets of its machine."""

    devices: tuple[Device, ...] = ()
    """None: it sees whatever its launcher sees."""
    memory_mib: int | None = None
    """It is ended when it takes more of the machine's own memory; of a device's it takes what it was told to."""


class Process(Protocol):
    """Something a launcher started, with everything it started in turn."""

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int: ...

    @property
    def log(self) -> Path | str:
        """Where its output is, for people."""
        ...

    def exit_code(self) -> int | None:
        """Return None while it runs. Once it does not, nothing it had started runs either."""
        ...

    def terminate(self) -> None:
        """Ask it to stop when its work is done. Does not wait."""
        ...

    def kill(self) -> None:
        """End it, and all it started, now."""
        ...

    def tail(self, lines: int) -> list[str]:
        """Return the last lines it logged."""
        ...


class ServiceLauncher(Protocol):
    """Starts processes that end when their launcher does, however that happens."""

    def start(self, command: Command) -> Process: ...

    def close(self) -> None:
        """Kill whatever still runs."""
        ...


class Replica(Process, Protocol):
    """A replica that was launched here, by whomever; `name` is its id.

    Everything may raise LaunchError: a launcher that cannot be asked knows nothing.
    """

    @property
    def model(self) -> str: ...

    @property
    def handle(self) -> str:
        """Return what the machine calls it: `process 4711`, `container 3f2a91c0d7e4`."""
        ...

    @property
    def started_at(self) -> float:
        """Return when, as Unix seconds."""
        ...

    def why(self) -> str | None:
        """Return why it ended, for users, where that is known beyond its exit code and its last words."""
        ...

    def forget(self) -> None:
        """Remove what is left of it. Only once it has ended."""
        ...


class Launcher(Protocol):
    """Starts replicas that outlive it, and finds those that its predecessors started. Raises LaunchError."""

    def start(self, command: Command, resources: Resources) -> Replica: ...

    def prepare(self, wanted: Collection[Spare]) -> None:
        """Have these spares, where this launcher has any, and no others. Cheap when nothing changes; does not wait."""
        ...

    def on_end(self, call: Callable[[], None]) -> None:
        """Have `call` called, from any thread, soon after a replica has ended, where that can be noticed."""
        ...

    def list(self) -> tuple[Replica, ...]:
        """Return all replicas of this node that have not been forgotten, oldest first, ended ones too.

        This is what is there, not what is remembered: a replica that a predecessor started
        is adopted by being listed, in the very worst case some milliseconds late, when its
        launcher died just as it was starting. Whatever was not started by this installation on this
        node is never listed, and so never touched.
        """
        ...

    def tend(self) -> None:
        """Do what has to be done every few seconds: end who takes too much memory, cut logs that have grown."""
        ...

    def close(self) -> None:
        """Let go. What runs goes on running; spares end."""
        ...


def new_replica_id(model: str) -> str:
    """Return an id that no replica had before, and that is safe in file names and Celery node names."""
    return f"{slug(model)}-{secrets.token_hex(3)}"


def require_safe(replica_id: str) -> None:
    """Raise RefusedError for an id that could be more than a name to a file system or an engine."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}", replica_id):
        raise RefusedError(f"{replica_id!r} is no replica id; `new_replica_id` makes them")


def slug(model: str) -> str:
    """Return `model` with only such characters as every file system allows."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", model)


def worker_command(
    spec: ModelSpec,
    replica_id: str,
    settings_env: Mapping[str, str],
    *,
    device: str = "cpu",
    reserved_mib: int | None = None,
    kv_mib: int | None = None,
    log: str | None = None,
) -> Command:
    """Return how one replica of `spec` is started; `settings_env` is `Settings.to_env()`.

    It takes `reserved_mib` of each of its devices, `kv_mib` of these for the KV cache; what it needs
    by its own reckoning where one is None.
    """
    common = _common_env(settings_env)
    env = common | {"CELERITY_MODEL": spec.id, "CELERITY_REPLICA_ID": replica_id, "CELERITY_DEVICE": device}
    if reserved_mib is not None:
        env["CELERITY_RESERVED_MIB"] = str(reserved_mib)
    if kv_mib is not None:
        env["CELERITY_KV_MIB"] = str(kv_mib)
    if spec.path is not None and Path(spec.path).is_absolute():
        # The weights are here; without this transformers asks the hub whether there are newer ones.
        env["HF_HUB_OFFLINE"] = "1"
    # By its machine's own name in the cluster; a container's host name says nothing to anybody.
    node_name = f"{replica_id}@{settings_env.get('CELERITY_NODE_ID', '%h')}"
    argv = (*CELERY_WORKER, "-P", "custom", "-Q", f"model.{spec.id}", "-n", node_name, *WORKER_FLAGS)
    return Command(
        name=replica_id,
        argv=argv,
        env=env,
        log=log or slug(spec.id),
        reads=_reads(spec, settings_env),
        spare=Spare.of(spec.engine, common),
    )


def worker_spares(engines: Collection[str], settings_env: Mapping[str, str]) -> tuple[Spare, ...]:
    """Return what may be done ahead for the workers of `engines`, which are started with the same `settings_env`."""
    if settings_env.get("CELERITY_SPARE") == "off":
        return ()
    return spares.wanted(engines, _common_env(settings_env))


def _common_env(settings_env: Mapping[str, str]) -> dict[str, str]:
    return dict(settings_env) | {
        "CELERY_CUSTOM_WORKER_POOL": POOL,
        # The last words of a worker that dies must be in its log.
        "PYTHONUNBUFFERED": "1",
        # Celery and vLLM write their titles over the environment that `ps` and launchers read, unless told not to.
        "SPT_NOENV": "1",
        # Or it starts its threads when it is imported, and then nothing may be forked. No engine computes with it.
        "OPENBLAS_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }


def _reads(spec: ModelSpec, settings_env: Mapping[str, str]) -> tuple[str, ...]:
    """Return what a worker must see of this machine: models.yaml, weights, and the folder of Redis' socket."""
    paths = [Path(given) for name in ("MODELS", "MODELS_DIR") if (given := settings_env.get(f"CELERITY_{name}"))]
    if spec.path is not None and Path(spec.path).is_absolute():
        weights = Path(spec.path)
        # In a hub cache a snapshot is links to the blobs beside it.
        paths.append(weights.parent.parent if weights.parent.name == "snapshots" else weights)
    scheme, _, socket = settings_env.get("CELERITY_REDIS_URL", "").partition("://")
    if scheme == "unix":
        # The folder, since a Redis that is started again makes a new socket.
        paths.append(Path(socket.partition("?")[0]).parent)
    return tuple(dict.fromkeys(str(path) for path in paths if path.is_absolute()))
