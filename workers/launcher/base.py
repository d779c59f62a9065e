"""What a launcher is, and how the process of an engine worker is called.

A worker is started by its command line, as data: nothing here imports Celery or the
code that runs in the worker.
"""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from workers.registry import ModelSpec

POOL = "workers.host.pool:EnginePool"
CELERY_WORKER = (sys.executable, "-m", "celery", "-q", "-A", "tasks.app", "worker")
# Mingle waits a second at every start and reconnect; gossip makes every worker read every
# heartbeat. 5 s is the beat that Flower calls a worker online by.
WORKER_FLAGS = ("--without-gossip", "--without-mingle", "--heartbeat-interval", "5", "--loglevel", "WARNING")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One process to be started. `env` is laid over the environment of whoever starts it."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: str
    """The name of its log, without folder or suffix; commands may share one."""


class Process(Protocol):
    """Something a launcher started, with everything it started in turn."""

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int: ...

    @property
    def log(self) -> Path: ...

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


class Launcher(Protocol):
    """Starts processes that end when their launcher does, however that happens."""

    def start(self, command: Command) -> Process: ...

    def close(self) -> None:
        """Kill whatever still runs."""
        ...


def new_replica_id(model: str) -> str:
    """Return an id that no replica had before, and that is safe in file names and Celery node names."""
    return f"{slug(model)}-{secrets.token_hex(3)}"


def slug(model: str) -> str:
    """Return `model` with only such characters as every file system allows."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", model)


def worker_command(
    spec: ModelSpec, replica_id: str, settings_env: Mapping[str, str], *, device: str = "cpu", log: str | None = None
) -> Command:
    """Return how one replica of `spec` is started; `settings_env` is `Settings.to_env()`."""
    env = dict(settings_env) | {
        "CELERY_CUSTOM_WORKER_POOL": POOL,
        "CELERITY_MODEL": spec.id,
        "CELERITY_REPLICA_ID": replica_id,
        "CELERITY_DEVICE": device,
        # The last words of a worker that dies must be in its log.
        "PYTHONUNBUFFERED": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if spec.path is not None and Path(spec.path).is_absolute():
        # The weights are here; without this transformers asks the hub whether there are newer ones.
        env["HF_HUB_OFFLINE"] = "1"
    argv = (*CELERY_WORKER, "-P", "custom", "-Q", f"model.{spec.id}", "-n", f"{replica_id}@%h", *WORKER_FLAGS)
    return Command(name=replica_id, argv=argv, env=env, log=log or slug(spec.id))
