"""Which `celerity up` runs on a state folder: a lock that only one can hold, and a note for other commands.

The lock is the kernel's, so it is free as soon as its holder has ended, however it
ended. The note (`up.json`) tells a second shell where the running one listens.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from deploy.errors import StartError


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What a second shell needs to know of the `up` that runs."""

    pid: int
    started_at: float
    """As the system has it: the same number may be another process tomorrow."""
    url: str
    """`http://HOST:PORT`"""
    redis_url: str
    models: str


@contextlib.contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state folder's lock. Raises StartError when another `up` does."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = state_dir / "up.lock"
    descriptor = _lock(path)
    try:
        yield
    finally:
        # Removed before it is let go: whoever opened the old file meanwhile sees in
        # `_lock` that it is no longer the one at `path`.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode()
            os.close(descriptor)
            raise StartError(
                f"`celerity up` runs already with {path.parent}"
                + (f" (process {holder})" if holder else "")
                + "; stop that one, or give this one another folder with --state-dir"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
                return descriptor
        os.close(descriptor)


def _note(state_dir: Path) -> Path:
    return state_dir / "up.json"


def this_process(*, url: str, redis_url: str, models: Path) -> Running:
    process = psutil.Process()
    return Running(pid=process.pid, started_at=process.create_time(), url=url, redis_url=redis_url, models=str(models))


def write(state_dir: Path, running: Running) -> None:
    note = _note(state_dir)
    draft = note.with_suffix(".new")
    draft.write_text(json.dumps(asdict(running)) + "\n", "utf-8")
    draft.replace(note)


def remove(state_dir: Path) -> None:
    _note(state_dir).unlink(missing_ok=True)


def read(state_dir: Path) -> Running | None:
    """Return the note of an `up` that runs; None when none does, also if its note was left behind."""
    try:
        running = Running(**json.loads(_note(state_dir).read_text("utf-8")))
        alive = psutil.Process(running.pid).create_time() == running.started_at
    except (OSError, ValueError, TypeError, psutil.Error):
        return None
    return running if alive else None
