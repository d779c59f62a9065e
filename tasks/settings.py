"""What an operator may set, read once from the environment into one frozen value.

Every variable has the prefix `CELERITY_` and the name of a field below in capitals.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

PREFIX = "CELERITY_"


class SettingsError(Exception):
    """A variable has a value we cannot use. The text names it and says what is expected."""


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "celerity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one process. Times are in seconds, sizes in bytes unless the name says otherwise."""

    state_dir: Path
    """Everything that outlives a process: the embedded Redis, its socket, logs."""
    redis_url: str
    """`redis://`, `rediss://` or `unix://`; the embedded Redis of `state_dir` when not set."""
    models: Path = Path("models.yaml")
    models_dir: Path | None = None
    """Where a relative `path:` of models.yaml is looked for first; the folder of models.yaml when None."""
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys_file: Path | None = None
    """Hashed keys (`celerity keys add`). None: no key is asked for, and only loopback may be bound."""
    node_id: str = "local"
    launcher: str = "process"
    memory_mib: int | None = None
    """At most so much is placed on this machine's CPU device; None: what its control group and its memory allow."""
    spare: str = "on"
    """Whether a process waits on each machine with all imported of which replicas are forked (`process` launcher)."""
    docker_image: str | None = None
    """What replicas run in, with the docker launcher. It is never pulled."""
    docker_network: str = "host"
    docker_user: str | None = None
    """`UID:GID` of the processes in a container; None: ours, or nobody's if we are root."""
    docker_mounts: str | None = None
    """Further files and folders that containers may read, with colons between them."""
    cold_start: str = "wait"
    """What a client gets that asks for a model which is not loaded: `wait` holds it, `defer` answers 202."""
    gateway_workers: int = 1
    """Gateway processes; each serves up to `gateway_connections` open streams."""
    gateway_connections: int = 2000
    max_body_bytes: int = 8 * 1024 * 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    write_timeout_s: float = 30.0
    first_token_timeout_s: float = 120.0
    """From the claim by a worker to the first byte of the answer."""
    silence_timeout_s: float = 60.0
    """Between two pieces of a streamed answer."""
    total_timeout_s: float = 600.0
    ping_interval_s: float = 10.0
    """A silent stream gets an SSE comment this often."""
    commit_after_s: float = 15.0
    """How long a stream's status line is held back, so that an early failure keeps its real status."""
    drain_timeout_s: float = 30.0
    """How long a gateway or a worker that was told to stop lets its requests run on."""
    loader_tick_s: float = 2.0
    """How often beat has the loader look."""
    age_limit_s: float = 45.0
    """After how long a model that waits for room may have busy ones drained for it."""
    database_url: str | None = None
    """Of the ledger of bulk work, as SQLAlchemy spells it; None: SQLite in the state directory."""
    files_dir: Path | None = None
    """Where uploaded files and the results of batches are; None: in the state directory. Gateways and bulk workers
    on several machines need one that they share, and PostgreSQL.
    """
    max_file_bytes: int = 200 * 1024 * 1024
    upload_timeout_s: float = 600.0
    """How long the upload of a file may take."""
    batch_max_lines: int = 50_000
    """Of a batch that comes by HTTP."""
    batch_max_open: int = 200
    """Batches of one key that have not ended; beyond it no other is accepted by HTTP."""
    bulk_window: float = 3.0
    """So many times the free seats of a model are queued for it from the ledger."""
    bulk_headroom: float = 0.05
    """The part of an engine's seats, rounded down, that bulk work leaves free for interactive requests."""
    bulk_share: float = 0.05
    """The part of an engine's seats, at least one of several, that bulk work keeps whoever else waits."""
    bulk_slowdown: float = 1.25
    """How many times as long an engine's steps may take for bulk work while interactive requests are around."""
    give_way_s: float = 0.2
    """How long an interactive request waits for a seat before running bulk requests are put back for it."""
    bulk_age_limit_s: float = 900.0
    """As `age_limit_s`, for a model that only bulk work waits for."""
    flower_port: int = 5555
    log_level: str = "INFO"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read `environ` (the process's own when None).

        Raises SettingsError for a value of the wrong kind, and for an unknown
        `CELERITY_` variable, which is most often a misspelt one.
        """
        env = os.environ if environ is None else environ
        given = {name[len(PREFIX) :].lower(): value for name, value in env.items() if name.startswith(PREFIX)}
        values: dict[str, Any] = {}
        for f in dataclasses.fields(cls):
            if (text := given.pop(f.name, None)) is not None and text != "":
                values[f.name] = _parse(f.name, str(f.type), text)
        unknown = sorted(name for name in given if name not in _OTHERS)
        if unknown:
            raise SettingsError(f"unknown setting {PREFIX}{unknown[0].upper()}; see docs/settings.md for the names")
        state_dir = values.setdefault("state_dir", _default_state_dir())
        values["state_dir"] = state_dir = Path(state_dir).expanduser().absolute()
        values.setdefault("redis_url", embedded_redis_url(state_dir))
        values.setdefault("node_id", socket.gethostname())
        for name, value in values.items():
            if expected := _flaw(name, value):
                raise SettingsError(f"{PREFIX}{name.upper()} is {str(value)!r}; {expected}")
        return cls(**values)

    @property
    def broker_url(self) -> str:
        """`redis_url` as kombu spells it."""
        scheme, _, rest = self.redis_url.partition("://")
        return f"redis+socket://{rest}" if scheme == "unix" else self.redis_url

    @property
    def ledger_url(self) -> str:
        return self.database_url or f"sqlite:///{self.state_dir / 'bulk' / 'ledger.db'}"

    @property
    def files(self) -> Path:
        """Where files are stored."""
        return self.files_dir or self.state_dir / "bulk" / "files"

    @property
    def loopback_only(self) -> bool:
        return self.host in {"127.0.0.1", "::1", "localhost"}

    def to_env(self) -> dict[str, str]:
        """Return the variables that make another process read these same settings."""
        env: dict[str, str] = {}
        for f in dataclasses.fields(self):
            if (value := getattr(self, f.name)) is not None:
                env[PREFIX + f.name.upper()] = str(value)
        return env


_CHOICES = {"cold_start": ("wait", "defer"), "spare": ("on", "off"), "launcher": ("process", "docker")}
_SHARES = frozenset({"bulk_headroom", "bulk_share"})
_PORTS = frozenset({"port", "flower_port"})
# 0 means at once, or that the system chooses.
_MAY_BE_ZERO = _PORTS | {"drain_timeout_s", "give_way_s", "commit_after_s"}
_ABOVE = {"bulk_slowdown": 1}
# It is part of names of queues, replicas and orders, and of what patterns of devices are matched with.
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")

# Variables of ours that are not settings: they tell a process which role it plays, or a
# client whom to talk to.
_OTHERS = frozenset(
    {"replica_id", "model", "device", "reserved_mib", "kv_mib", "url", "api_key", "insecure", "failpoint"}
)


def embedded_redis_url(state_dir: Path) -> str:
    """Return the address of the Redis that `celerity up` starts for `state_dir`."""
    return f"unix://{state_dir / 'redis' / 'redis.sock'}"


def _flaw(name: str, value: Any) -> str | None:
    """Return what would be expected of a setting; None when the value is as it should be."""
    if name in _CHOICES and value not in _CHOICES[name]:
        return f"it can be {' or '.join(_CHOICES[name])}"
    if name == "node_id" and not _NODE.fullmatch(value):
        return "letters, digits, dots, dashes and underscores are expected"
    if not isinstance(value, int | float):
        return None
    if name in _SHARES:
        return None if 0 <= value < 1 else "a part, from 0 to below 1, is expected"
    if name in _PORTS:
        return None if 0 <= value < 1 << 16 else "a port is expected"
    least = _ABOVE.get(name, 0)
    enough = value >= least if name in _MAY_BE_ZERO else value > least
    return None if enough and math.isfinite(value) else f"a number above {least} is expected"


def _parse(name: str, kind: str, text: str) -> Any:
    try:
        if "int" in kind:
            return int(text)
        if "float" in kind:
            return float(text)
    except ValueError:
        raise SettingsError(f"{PREFIX}{name.upper()} is {text!r}; a number is expected") from None
    return Path(text).expanduser() if "Path" in kind else text
