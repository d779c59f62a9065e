"""The Redis of one system under test: on a loopback port with a password, with or without an append-only file."""

from __future__ import annotations

import contextlib
import secrets
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import redis

from tasks.connections import command_client
from tests.faults.launched import Launched, Launcher
from tests.stack import free_port, redis_executable
from tests.waiting import wait_until
from workers.launcher.base import Command


@dataclass
class RedisServer:
    """It survives its own kill: `start` again finds what was written."""

    folder: Path
    launcher: Launcher
    appendonly: bool = False
    replica_of: RedisServer | None = None
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: secrets.token_hex(16))
    process: Launched | None = None

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        return f"redis://:{self.password}@127.0.0.1:{port}/0"

    @property
    def running(self) -> Launched:
        assert self.process is not None
        return self.process

    def start(self) -> None:
        """Return once it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "redis.conf"
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"requirepass {self.password}",
            f"masterauth {self.password}",
            f"dir {self.folder}",
            'save ""',
            f"appendonly {'yes' if self.appendonly else 'no'}",
            "appendfsync everysec",
            "maxmemory-policy noeviction",
        ]
        if self.replica_of is not None:
            lines.append(f"replicaof 127.0.0.1 {self.replica_of.port}")
        config.write_text("\n".join(lines) + "\n")
        # A write beyond a file size limit must fail, as on a full disk; by default it would end the process.
        argv = ("sh", "-c", 'trap "" XFSZ; exec "$@"', "sh", redis_executable(), str(config))
        self.process = self.launcher.start(Command(name="redis", argv=argv, env={}, log=f"redis-{self.port}"))
        with contextlib.closing(command_client(self.url)) as client:
            wait_until(lambda: _answers(client), "redis to answer")

    def client(self) -> redis.Redis:
        return command_client(self.url)

    def kill(self) -> None:
        self.running.kill()

    def shutdown(self) -> None:
        """Stop without writing anything down."""
        with contextlib.closing(self.client()) as client, contextlib.suppress(redis.RedisError, OSError):
            client.execute_command("SHUTDOWN", "NOSAVE")  # type: ignore[no-untyped-call]  # redis-py's own gap
        self.running.wait(10)

    def freeze(self, seconds: float) -> None:
        process = psutil.Process(self.running.pid)
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    def limit_files(self, size: int | None) -> None:
        """Let no file grow beyond `size` bytes; None lifts that."""
        _, hard = psutil.Process(self.running.pid).rlimit(psutil.RLIMIT_FSIZE)
        psutil.Process(self.running.pid).rlimit(
            psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY if size is None else size, hard)
        )


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
