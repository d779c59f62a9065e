"""What `celerity up --flower` needs before Flower runs: that it is installed, a port, and a password.

The password is made once and kept in the state directory. Flower reads it there itself, so
it stands on no command line, in no environment and in no log.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from deploy import preflight, readiness
from deploy.errors import StartError
from tasks.settings import Settings

USER = "celerity"
HOST = "127.0.0.1"
# Before 2.2 another site's page could press its buttons, and read-only was unknown.
_OLDEST = (2, 2)


@dataclass(frozen=True, slots=True)
class FlowerPage:
    """Where Flower is to be found."""

    port: int
    password_file: Path

    @classmethod
    def prepare(cls, settings: Settings) -> Self:
        """Raises StartError for whatever stands in the way."""
        require_installed()
        preflight.check_port(HOST, settings.flower_port, setting="CELERITY_FLOWER_PORT")
        return cls(settings.flower_port, prepare_password(settings.state_dir))

    def answers(self) -> bool:
        return readiness.answers_ok(HOST, self.port, "/healthcheck")

    def __str__(self) -> str:
        return f"http://{HOST}:{self.port} (user {USER}, password in {self.password_file})"


def require_installed() -> None:
    """Raise StartError unless a Flower is installed that may be run."""
    try:
        version = importlib.metadata.version("flower")
    except importlib.metadata.PackageNotFoundError:
        raise StartError("Flower is not installed; run `make setup`, or pip install 'celerity[flower]'") from None
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < _OLDEST:
        raise StartError(f"Flower {version} is too old to be run safely; install 2.2 or newer")


def password_file(state_dir: Path) -> Path:
    return state_dir / "flower.password"


def prepare_password(state_dir: Path) -> Path:
    """Make the password unless there is one, and return its file. Raises StartError for one that others can read."""
    path = password_file(state_dir)
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
    if path.stat().st_mode & 0o077:
        raise StartError(f"others can read {path}; run `chmod 600 {path}`, or remove it for a new password")
    read_password(state_dir)
    return path


def read_password(state_dir: Path) -> str:
    """Raises StartError when there is none."""
    path = password_file(state_dir)
    try:
        password = path.read_text("utf-8").strip()
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror or error}") from None
    if not password:
        raise StartError(f"{path} is empty; remove it for a new password")
    return password
