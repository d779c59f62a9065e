"""A PostgreSQL server of the tests' own: in a folder of theirs, on a socket in it, gone when they end.

Nobody else's server is used or needed, only the programs. How a test comes by it:

* `ledger_url` (in `tests/conftest.py`) runs the test twice, with the URL of an empty
  SQLite file and with that of an empty PostgreSQL database; give it to `Ledger`, or to a
  stack as `CELERITY_DATABASE_URL`.
* `postgres` is the server itself, one for the session; `with postgres.database() as url:`
  is an empty database that is dropped afterwards.

Where the programs are missing, such tests are skipped; in CI they are installed first.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.debian import required
from tests.waiting import wait_until

_STOP_S = 30


@dataclass
class PostgresServer:
    """A server that answers. `process` is its first process, which ends all others with itself."""

    folder: Path
    process: subprocess.Popen[bytes]

    def url(self, database: str) -> str:
        """Return the address of a database as SQLAlchemy spells it."""
        return f"postgresql+psycopg://celerity@/{database}?host={self.folder}"

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str, database: str = "postgres") -> None:
        with self._connect(database) as connection:
            connection.execute(statement.encode())

    def answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        with contextlib.suppress(psycopg.OperationalError):
            self._connect("postgres").close()
            return True
        return False

    def _connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(host=str(self.folder), user="celerity", dbname=database, autocommit=True)


def require_programs() -> Path:
    """Return the folder of `initdb` and `postgres`. Where they are missing the tests are skipped, in CI installed."""
    return required("PostgreSQL", "postgresql", _programs)


@contextlib.contextmanager
def server() -> Iterator[PostgresServer]:
    programs = require_programs()
    # Not pytest's folder: its path is too long for a socket, and closed to the server's user.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        user = _user()
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        with _started(programs, folder, user) as started:
            yield started
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _started(programs: Path, folder: Path, user: pwd.struct_passwd | None) -> Iterator[PostgresServer]:
    as_user: dict[str, Any] = {"cwd": folder, "env": {"LC_ALL": "C", "HOME": str(folder)}}
    if user is not None:
        as_user |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data = folder / "data"
    initdb: list[str | Path] = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        "celerity",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **as_user)
    options = {"listen_addresses": "", "unix_socket_directories": folder, "unix_socket_permissions": "0777"}
    options |= {"fsync": "off", "max_connections": "60"}
    command: list[str | Path] = [
        programs / "postgres",
        "-D",
        data,
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, **as_user)
    try:
        started = PostgresServer(folder, process)
        wait_until(started.answers, "PostgreSQL to answer", timeout_s=60)
        yield started
    finally:
        # Its word for: without waiting for those who are connected.
        process.send_signal(signal.SIGINT)
        process.wait(_STOP_S)


def _programs() -> Path | None:
    folders = [Path(folder) for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "postgres")):
            return folder
    return None


def _user() -> pwd.struct_passwd | None:
    """Return whom the server runs as; None: ourselves, if we are not root, which it refuses."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise AssertionError("no user here for PostgreSQL to run as")
